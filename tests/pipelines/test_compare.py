"""Experiments beside each other: the matrix of networks and metanetworks, at toy size."""

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_experiment import write_toy_configs

from metaprune_pl.__main__ import main
from metaprune_pl.data import Digits
from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs.trace import trace
from metaprune_pl.metanetworks import PNAMetanetwork, load_metanetwork, save_metanetwork
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    create_network,
    load_network,
    read_card,
    save_network,
)
from metaprune_pl.pipelines.compare import CompareSettings, check_fit
from metaprune_pl.reports import Curve, CurvePoint, Experiment, Pruned
from metaprune_pl.reports.comparison import Comparison
from metaprune_pl.settings.experiment import ExperimentSettings
from metaprune_pl.settings.shipped import find_config

TOY: dict[str, Any] = {
    "data_models": {"model.init_args.seeds": [0, 1, 2], "trainer.max_epochs": 2},
    "meta_training": {
        "trainer.max_epochs": 1,
        "data.init_args.rounds": 1,
        "data.init_args.images.init_args.batch_size": 90,
    },
    "curve": {"finetune.epochs": 1, "grid.max_speed_up": 3.0, "grid.points": 3},
    "prune": {"finetune_after.epochs": 1},
}


def toy_matrix(folder: Path, name: str) -> dict[str, Any]:
    """A shipped comparison on the quickstart's toy configs."""
    write_toy_configs(folder)
    matrix: dict[str, Any] = yaml.safe_load(find_config(f"{name}.yaml").read_text())["matrix"]
    (folder / "toy.yaml").write_text(
        yaml.safe_dump(
            {
                "include": "paper_quickstart.yaml",
                "chain": {
                    **{
                        stage: f"toy_{file}.yaml"
                        for stage, file in (
                            ("data_models", "data"),
                            ("meta_training", "meta"),
                            ("curve", "curve"),
                            ("prune", "prune"),
                        )
                    },
                    "held_out": 1,
                },
            }
        )
    )
    for own in matrix["experiments"].values():
        own["config"] = "toy.yaml"
        own.pop("chain.speed_ups")
        own["chain.speed_ups"] = [1.5, 2.0]
    matrix["overrides"] = {
        stage: {**matrix.get("overrides", {}).get(stage, {}), **changes}
        for stage, changes in TOY.items()
    }
    return matrix


def compare(matrix: Mapping[str, Any]) -> None:
    trainer = {"default_root_dir": "runs/toy", "accelerator": "cpu", "enable_progress_bar": False}
    Path("matrix.yaml").write_text(
        yaml.safe_dump({"trainer": trainer, "matrix": dict(matrix)}, sort_keys=False)
    )
    main(["compare", "--config=matrix.yaml"])


def config(path: Path) -> Any:
    return yaml.safe_load((path / "config.yaml").read_text())


@pytest.mark.slow
def test_data_sets_by_metanetworks(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = toy_matrix(workdir, "transfer_datasets_quickstart")
    del (
        matrix["experiments"]["high"],
        matrix["experiments"]["parity"]["chain.metanetworks"]["whole"],
    )
    compare(matrix)
    runs = workdir / "runs" / "toy"
    columns = ["none", "sparsity_learning", "metanetwork_low", "metanetwork_parity_tenth"]
    table = list(csv.DictReader((runs / "report.csv").open()))
    assert list(table[0])[4::2] == columns
    measures = ["accuracy_finetuned", "accuracy_pruned", "flat_region"]
    assert [(row["measure"], row["networks_of"]) for row in table] == [
        (m, r) for m in measures for r in ("low", "parity")
    ]
    trained = sorted(path.name for path in runs.glob("*/meta_training*"))
    assert trained == [
        f"meta_{c.replace('metanetwork', 'training')}" for c in sorted(columns[2:])
    ]  # each once
    chosen = {}
    for column in columns[2:]:
        choice = next(runs.glob(f"*/choice{column.removeprefix('metanetwork')}")) / "choice.json"
        chosen[column] = json.loads(choice.read_text())["metanetwork"]
        assert {
            c["split"] for cs in json.loads(choice.read_text())["curves"].values() for c in cs
        } == {"validation"}
    images = config(runs / "parity" / "meta_training_parity_tenth")["data"]["init_args"]["images"][
        "init_args"
    ]
    assert (images["fraction"], len(images["classes"])) == (0.1, 2)
    for name, classes in (("low", 5), ("parity", 2)):
        settings = []
        for column in columns:
            place = runs / name / "networks" / f"seed_0002-{column}"
            result = json.loads((place / "prune" / "report.json").read_text())
            assert [r["target"] for r in result] == [2.0]  # the last of the experiment
            by_measure = {row["measure"]: row for row in table if row["networks_of"] == name}
            for measure in measures[:2]:
                assert float(by_measure[measure][column]) == result[0][measure]
            curve = Curve.from_json(place / "curve" / "curve.json")
            assert (
                float(by_measure["flat_region"][column]) == curve.flat_region(0.02)
                and curve.split == "test"
            )
            own = config(place / "curve")
            assert own["metanetwork"] == chosen.get(column)
            settings.append(
                (own["finetune"], own["data"], config(place / "prune")["finetune_after"])
            )
        assert all(s == settings[0] for s in settings)  # equal finetuning
        assert len(settings[0][1]["init_args"]["classes"]) == classes
    assert (runs / "matrix.png").stat().st_size and (runs / "low" / "curve.png").stat().st_size
    assert list(runs.glob("events.out.tfevents*"))
    printed = capsys.readouterr().out
    assert "networks of" in printed and "low, 2x" in printed and "parity tenth" in printed


@pytest.mark.slow
def test_architectures_by_metanetworks(workdir: Path) -> None:
    matrix = toy_matrix(workdir, "transfer_architectures_quickstart")
    names = list(matrix["experiments"])
    for own in matrix["experiments"].values():
        network = own.setdefault("chain.overrides", {}).setdefault("data_models", {})
        arguments = network.pop("model.init_args.network.arguments", None)
        whole = network.setdefault(
            "model.init_args.network",
            {"builder": "cifar_resnet", "arguments": arguments or {"depth": 8}},
        )
        whole["arguments"]["width"] = 4
    compare({**matrix, "controls": ["none"]})
    runs = workdir / "runs" / "toy"
    table = list(csv.DictReader((runs / "report.csv").open()))
    assert list(table[0])[4::2] == ["none", *(f"metanetwork_{name}" for name in names)]
    assert [row["networks_of"] for row in table[:3]] == names == ["ResNet-8", "ResNet-14", "VGG-11"]
    kinds = [
        type(load_network(runs / name / "data_models" / "networks" / "seed_0000")).__name__
        for name in names
    ]
    assert kinds == ["CifarResNet", "CifarResNet", "CifarVGG"]
    for name in names:  # what a foreign metanetwork made is what it makes of the network
        place = runs / name / "networks" / "seed_0002-metanetwork_ResNet-14" / "curve"
        network = load_network(runs / name / "data_models" / "networks" / "seed_0002")
        metanetwork = load_metanetwork(config(place)["metanetwork"])
        expected = metanetwork.rewrite(
            trace(network, torch.zeros(1, 1, 8, 8)), network.state_dict()
        )
        for key, value in load_network(place / "rewritten").state_dict().items():
            assert value.allclose(expected[key], atol=1e-5)


@pytest.mark.slow
def test_with_and_without_initial_pruning_in_one_picture(workdir: Path) -> None:
    matrix, names = (
        toy_matrix(workdir, "initial_pruning_quickstart"),
        ("no_initial_pruning", "initial_pruning"),
    )
    for own in matrix["experiments"].values():
        own["chain.speed_ups"] = []
    initial = matrix["experiments"]["initial_pruning"]["chain.overrides"]["data_models"]["initial"]
    initial["finetune"]["epochs"] = 1
    compare(matrix)
    runs = workdir / "runs" / "toy"
    experiments = json.loads((runs / "report.json").read_text())["experiments"]
    starts = {
        (n, c["method"]): c["points"][0]["speed_up"]
        for n, e in experiments.items()
        for c in e["curves"]
    }
    assert list(starts) == [(n, m) for n in names for m in ("none", "metanetwork")]
    made = read_card(runs / "initial_pruning" / "data_models" / "networks" / "seed_0002").record[
        "speed_up"
    ]
    assert {n: s for (n, _), s in starts.items()} == dict(
        zip(names, (1.0, made), strict=True)
    ) and made >= 1.3
    assert (runs / "curve.png").stat().st_size and not list(runs.rglob("prune"))
    for name in names:  # metanetworks stay with their own networks
        place = runs / name / "networks" / "seed_0002-metanetwork" / "curve"
        assert f"runs/toy/{name}/meta_training/" in config(place)["metanetwork"]
    report = json.loads((runs / "report.json").read_text())
    parts = {
        path: path.stat().st_mtime_ns for path in runs.glob("**/run.json") if path.parent != runs
    }
    lost = runs / "initial_pruning" / "networks" / "seed_0002-metanetwork" / "curve"
    del parts[lost / "run.json"]
    shutil.rmtree(lost)  # as if it was killed before
    compare(matrix)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts  # nothing else is run again
    assert json.loads((runs / "report.json").read_text())["results"] == report["results"]


def test_a_metanetwork_that_does_not_fit_is_one_message(tmp_path: Path) -> None:
    for name, builder in (
        ("vgg", {"builder": "cifar_vgg", "depth": 11}),
        ("resnet", {"builder": "cifar_resnet", "depth": 8}),
    ):
        kind = builder.pop("builder")
        settings = NetworkSettings(builder=str(kind), arguments={**builder, "width": 2})
        save_network(
            tmp_path / name,
            create_network(settings.builder, **settings.arguments),
            NetworkCard(settings=settings, input_shape=(3, 32, 32)),
        )
    for schema in ("resnet", "universal"):
        save_metanetwork(
            tmp_path / f"meta_{schema}", PNAMetanetwork(layers=1, hidden=2, schema=schema), {}
        )
    for network in ("vgg", "resnet"):
        check_fit(str(tmp_path / "meta_universal"), tmp_path / network, "a and b")
    with pytest.raises(
        ConfigError,
        match=r"^compare: a and b do not go together: .* Take the schema 'universal'\.$",
    ):
        check_fit(str(tmp_path / "meta_resnet"), tmp_path / "vgg", "a and b")


def pruned(network: str, accuracy: float) -> Pruned:
    return Pruned(
        network=network,
        method="none",
        target=2.0,
        speed_up=2.1,
        macs=1,
        parameters=1,
        accuracy_given=1.0,
        accuracy_before=1.0,
        accuracy_pruned=accuracy / 2,
        accuracy_finetuned=accuracy,
        latency={},
        latency_unpruned={},
    )


def test_entries_are_means_with_sample_deviations_over_networks() -> None:
    points = [
        CurvePoint(speed_up=s, accuracy=a, macs=1, parameters=1)
        for s, a in ((1.0, 0.9), (3.0, 0.5))
    ]
    curves = [Curve(network="a", method="snip", split="test", points=points)]
    found = Comparison(
        experiments={
            "x": Experiment(pruned=[pruned("a", 0.8), pruned("b", 0.9)], curves=curves),
            "y": Experiment(curves=curves),
        }
    )
    mean, spread = found.matrix("accuracy_finetuned")["x"]["none"]
    assert (mean, spread) == (pytest.approx(0.85), pytest.approx(0.1 / 2**0.5))
    assert found.matrix("flat_region")["y"]["snip"] == (pytest.approx(1.1), None)
    assert found.columns == ["snip", "none"] and found.labels("accuracy_pruned") == {
        "x": "x, 2x",
        "y": "y",
    }
    assert found.labels("flat_region") == {"x": "x", "y": "y"}
    assert found.own("x", "metanetwork_x") and found.own("x", "metanetwork_x_tenth")
    assert not any(
        found.own("x", column)
        for column in ("none", "metanetwork_xy", "metanetwork_y", "metanetwork")
    )
    rows = found.rows()
    assert [(row["networks_of"], row["networks"], row["none"]) for row in rows[:2]] == [
        ("x", 2, mean),
        ("y", 1, None),
    ]


def test_settings_that_make_no_sense_are_refused() -> None:
    for experiments, match in (
        ({}, "at least one"),
        ({"a/b": {"config": "x.yaml"}}, "no name"),
        ({"a": {}}, "name a config"),
    ):
        with pytest.raises(ConfigError, match=match):
            CompareSettings(experiments=experiments)


def test_a_row_is_its_experiment_with_what_is_shared() -> None:
    own = ExperimentSettings(
        **dict.fromkeys(("data_models", "meta_training", "curve", "prune"), "x.yaml"),
        speed_ups=[2.0, 3.0],
        overrides={"curve": {"a": 1, "b": 1}},
    )
    settings = CompareSettings(
        experiments={"x": {"config": "x.yaml"}}, overrides={"curve": {"b": 2}, "prune": {"c": 3}}
    )
    row = settings.row("x", own)
    assert row.overrides == {"curve": {"a": 1, "b": 2}, "prune": {"c": 3}}
    assert (row.speed_ups, list(row.compared)) == (
        [3.0],
        ["none", "sparsity_learning", "metanetwork_x"],
    )


def test_digits_of_other_classes() -> None:
    whole = Digits().splits.train
    parity, low = (
        Digits(classes=[[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]),
        Digits(classes=[[0], [1], [2], [3], [4]]),
    )
    assert (parity.num_classes, low.num_classes) == (2, 5)
    assert parity.splits.train.labels.equal(whole.labels % 2) and parity.splits.train.images.equal(
        whole.images
    )
    assert low.splits.train.images.equal(whole.images[whole.labels < 5])
    tenth = Digits(fraction=0.1).splits
    assert len(tenth.train.labels) == pytest.approx(100, abs=10) and len(tenth.test.labels) == 400
    assert set(tenth.train.labels.tolist()) == set(range(10))
    for classes in ([[0]], [[0, 1], [1]], [[0], []], [[0], [10]]):
        with pytest.raises(ConfigError, match="two or more lists of digits"):
            Digits(classes=classes)
