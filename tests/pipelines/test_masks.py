"""Masks through the command line at toy size."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_experiment import write_toy_configs

from conftest import QUIET, tiny
from metaprune_pl.__main__ import main
from metaprune_pl.errors import ConfigError
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.pipelines.compare import CompareSettings
from metaprune_pl.pruning import MaskSettings, Pattern, ZeroShare, left_parameters
from metaprune_pl.reports import Curve, Masked
from metaprune_pl.reports.masks import masked_rows, whole_sentence
from metaprune_pl.settings.experiment import ExperimentSettings
from metaprune_pl.settings.shipped import find_config


def test_prune_masks_to_shares_and_patterns(
    line: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(line)
    run = tmp_path / "masks"
    args = tiny(
        "prune prune",
        "--masks.sparsities=[0.5, 0.9]",
        '--masks.patterns=["2:4"]',
        "--criterion.p=1",
        "--criterion.normalize=none",
        "--finetune_after.epochs=1",
        f"--trainer.default_root_dir={run}",
    )
    main(args)
    assert "left params" in capsys.readouterr().out
    rows = json.loads((run / "report.json").read_text())
    assert [row["target"] for row in rows] == ["0.5", "0.9", "2:4"] and rows[0][
        "method"
    ] == "metanetwork"
    assert [row["dense"] for row in rows] == [[], [], ["conv1.weight"]]  # one image channel
    with (run / "report.csv").open() as file:
        assert [float(row["left"]) for row in csv.DictReader(file)] == [row["left"] for row in rows]
    for row, folder in zip(rows, ("masked_0.5", "masked_0.9", "masked_2_of_4"), strict=True):
        network, card = load_network(run / folder / "network"), read_card(run / folder / "network")
        start = load_network(run / folder / "masked")
        weights = [network.get_parameter(name) for name in card.masked]
        assert left_parameters(network) == row["left"] == card.record["left"]
        for name in card.masked:
            assert torch.equal(network.get_parameter(name) == 0, start.get_parameter(name) == 0)
        share = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        assert share == pytest.approx(
            0.5 if ":" in row["target"] else float(row["target"]), abs=1e-3
        )
    assert (run / "masks.png").read_bytes().startswith(b"\x89PNG")
    written = (run / "masked_0.5" / "result.json").stat().st_mtime_ns
    main(args)  # finished: not run again
    assert (run / "masked_0.5" / "result.json").stat().st_mtime_ns == written


def test_rounds_rewind_the_weights_that_are_left(
    line: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(line)
    run = tmp_path / "rounds"
    main(
        tiny(
            "prune prune",
            "--masks.sparsities=[0.75]",
            '--masks.patterns=["2:4"]',
            "--criterion.p=1",
            "--rounds=2",
            "--criterion.normalize=none",
            "--metanetwork=null",
            "--finetune.epochs=0",
            "--finetune_after.epochs=1",
            f"--trainer.default_root_dir={run}",
        )
    )
    first = load_network(yaml.safe_load((run / "config.yaml").read_text())["network"])
    half, last = (load_network(run / "masked_0.75" / path / "masked") for path in ("round_1", "."))
    trained = load_network(run / "masked_0.75" / "round_1" / "finetuned" / "network")
    weights = read_card(run / "masked_0.75" / "masked").masked
    sizes = torch.cat([trained.get_parameter(name).detach().abs().flatten() for name in weights])
    bound = sizes.sort().values[round(0.75 * len(sizes))]  # what the training led to says what goes
    count = 0
    for name in weights:
        start, kept = first.get_parameter(name), trained.get_parameter(name).abs() >= bound
        assert torch.equal(last.get_parameter(name), start * kept)
        count += int((half.get_parameter(name) != 0).sum())
    assert count == len(sizes) - round(0.5 * len(sizes))  # 1 - (1 - 0.75)^(1/2)
    assert not (run / "masked_2_of_4" / "round_1").exists()


def test_wrong_patterns_are_short_errors(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(tiny("prune prune", '--masks.patterns=["4:2"]'))
    assert "'4:2' is no pattern N:M" in capsys.readouterr().err


def test_the_metanetwork_is_trained_with_the_l1_norm(
    line: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(line)
    for form in ("l1", "decay"):
        main(
            tiny(
                "fit meta",
                f"--model.init_args.sparsity.form={form}",
                f"--trainer.default_root_dir={tmp_path / form}",
            )
        )
    l1, decay = (
        load_metanetwork(tmp_path / form / "metanetworks").state_dict() for form in ("l1", "decay")
    )
    assert all(bool(value.isfinite().all()) for value in l1.values())
    assert any(not torch.equal(value, decay[name]) for name, value in l1.items())


def toy_experiment(*flags: str) -> None:
    """Run the shipped experiment on toy stages."""
    chain = yaml.safe_load(find_config("masks_quickstart.yaml").read_text())["chain"]
    overrides = {
        **chain["overrides"],
        "data_models": {"model.init_args.seeds": [0, 1, 2], "trainer.max_epochs": 1},
    }
    overrides["curve"] |= {"finetune.epochs": 1, "masks.sparsities": [0.5, 0.7, 0.9]}
    overrides["prune"] |= {"finetune_after.epochs": 1}
    overrides["meta_training"] |= {"trainer.max_epochs": 1, "data.init_args.rounds": 1}
    main(
        [
            "experiment",
            "--config=masks_quickstart.yaml",
            "--chain.data_models=toy_data.yaml",
            "--chain.held_out=1",
            "--chain.meta_training=toy_meta.yaml",
            "--chain.curve=toy_curve.yaml",
            "--chain.prune=toy_prune.yaml",
            '--chain.masks={sparsities: [0.5, 0.9], patterns: ["2:4"]}',
            f"--chain.overrides={json.dumps(overrides)}",
            "--trainer.default_root_dir=runs",
            *QUIET,
            *flags,
        ]
    )


def test_one_experiment_compares_masks_with_their_controls(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy_configs(workdir)
    methods = ["none", "sparsity_learning", "metanetwork"]
    toy_experiment()
    printed = capsys.readouterr().out
    report = json.loads(Path("runs/report.json").read_text())
    rows = report["results"]["masked"]
    assert [(row["target"], row["method"]) for row in rows] == [
        (t, m) for t in ("0.5", "0.9", "2:4") for m in methods
    ]
    assert report["results"]["pruned"] == [] and all(row["networks"] == 1 for row in rows)
    with Path("runs/report.csv").open() as file:
        assert [float(row["accuracy_finetuned"]) for row in csv.DictReader(file)] == [
            row["accuracy_finetuned"] for row in rows
        ]
    assert (
        "Masked networks" in printed
        and "90 % zeros" in printed
        and "accuracy over compression" in printed
    )
    assert (
        "Patterns 2:4 leave these whole, whose input channels they do not divide: conv1.weight."
        in printed
    )
    assert Path("runs/masks.png").stat().st_size and Path("runs/curve.png").stat().st_size
    for masked in map(
        lambda row: Masked(**row), report["masked"]
    ):  # the curve's way to the same networks
        place = Path(f"runs/networks/{masked.network}-{masked.method}")
        curve = Curve.from_json(place / "curve" / "curve.json")
        assert (curve.split, curve.over, len(curve.points)) == ("test", "compression", 4)
        if ":" not in masked.target:
            point = curve.points[{"0.5": 1, "0.9": 3}[masked.target]]
            assert point.accuracy == masked.accuracy_masked and point.speed_up == 1
            stored = load_network(place / "prune" / f"masked_{masked.target}" / "masked")
            assert point.left == left_parameters(stored) == pytest.approx(1 / point.compression)
    choice = json.loads(Path("runs/choice/choice.json").read_text())
    drawn = [curve for curves in choice["curves"].values() for curve in curves]
    assert {(c["split"], c["over"]) for c in drawn} == {("validation", "compression")}
    settings = [
        yaml.safe_load(Path(f"runs/{place}/config.yaml").read_text())
        for place in (
            "meta_training",
            "networks/seed_0002-sparsity_learning/curve",
            "networks/seed_0002-none/curve",
        )
    ]
    assert (
        settings[0]["model"]["init_args"]["sparsity"]["form"]
        == settings[1]["sparsity"]["form"]
        == "l1"
    )
    assert settings[1]["finetune"] == settings[2]["finetune"] and settings[2]["sparsity"] is None
    place = Path("runs/networks/seed_0002-metanetwork/prune")
    for path in (
        "masked_0.9/result.json",
        "masked_0.9/network/network.json",
        "masked_2_of_4/result.json",
    ):
        (place / path).unlink()  # as if it was killed there
    for run in (place, Path("runs")):
        text = (run / "run.json").read_text()
        (run / "run.json").write_text(text.replace('"finished": true', '"finished": false'))
    toy_experiment()
    again = json.loads(Path("runs/report.json").read_text())
    assert (again["masked"], again["curves"]) == (report["masked"], report["curves"])


def masked(method: str, network: str, accuracy: float, target: str = "0.5") -> Masked:
    return Masked(
        network=network,
        method=method,
        target=target,
        left=0.5,
        parameters=10,
        dense=["a"] if ":" in target else [],
        accuracy_given=1.0,
        accuracy_before=1.0,
        accuracy_masked=accuracy / 2,
        accuracy_finetuned=accuracy,
    )


def test_rows_are_means_with_sample_deviations_over_networks() -> None:
    results = [
        masked("none", "a", 0.8),
        masked("none", "b", 0.9),
        masked("metanetwork", "a", 1.0, "2:4"),
    ]
    row = masked_rows(results[:2])[0]
    assert (row["networks"], row["left"]) == (2, 0.5)
    assert row["accuracy_finetuned"] == pytest.approx(0.85)
    assert row["accuracy_masked_std"] == pytest.approx(0.05 / 2**0.5)
    assert (
        whole_sentence(results)
        == "Patterns 2:4 leave these whole, whose input channels they do not divide: a."
    )
    assert whole_sentence(results[:2]) == ""


def test_experiments_with_masks_that_make_no_sense_are_short_errors(
    line: Path, workdir: Path
) -> None:
    stages = dict.fromkeys(("data_models", "meta_training", "curve", "prune"), "x.yaml")
    with pytest.raises(ConfigError, match="give sparsities, too"):
        ExperimentSettings(**stages, masks=MaskSettings(patterns=["2:4"]))
    chain = ExperimentSettings(
        **stages,
        masks=MaskSettings(sparsities=[0.5]),
        methods=["magnitude_l1_uniform", "magnitude_l1"],
    )
    rankings = [chain.changes(method)["prune"]["masks.ranking"] for method in chain.methods]
    assert rankings == ["uniform", "global"] and "masks" in chain.changes("magnitude_l1")["choice"]
    with pytest.raises(ConfigError, match="masks are no speed-up"):
        CompareSettings(experiments={"a": {"config": "x.yaml"}}).row("a", chain)


def test_a_curve_over_patterns_alone_is_a_short_error(
    line: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(line)
    with pytest.raises(SystemExit):
        main(tiny("curve curve", '--masks.patterns=["2:4"]', "--trainer.default_root_dir=none"))
    assert "give masks.sparsities" in capsys.readouterr().err and not Path("none").exists()


def parsed(capsys: pytest.CaptureFixture[str], command: str, config: str, *flags: str) -> Any:
    """What the program takes a command line for."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([command, "--config", config, *flags, "--print_config"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    return yaml.safe_load(out)


def test_the_configs_are_the_papers_table_3(capsys: pytest.CaptureFixture[str]) -> None:
    prune = parsed(capsys, "prune", "prune_resnet56_cifar10_masks.yaml")
    meta = parsed(capsys, "fit", "meta_resnet56_cifar10_masks.yaml")
    assert MaskSettings(**prune["masks"]).targets == [
        *(ZeroShare(share=share) for share in (0.5, 0.8, 0.85, 0.9)),
        *(Pattern(keep=keep, of=4) for keep in (3, 2, 1)),
    ]
    criterion = prune["criterion"]["init_args"]
    assert (criterion["p"], criterion["normalize"]) == (1, "none")
    assert prune["metanetwork"] == f"{meta['trainer']['default_root_dir']}/metanetworks"
    sparsity = meta["model"]["init_args"]["sparsity"]
    assert sparsity["form"] == "l1" and sparsity["weight"] == pytest.approx(0.1 / 100)
    chain = parsed(capsys, "experiment", "masks_resnet56_cifar10.yaml")["chain"]
    assert chain["masks"] == prune["masks"] and chain["sparsity"]["form"] == "l1"


@pytest.mark.parametrize("name", ["masks_quickstart.yaml", "masks_resnet56_cifar10.yaml"])
def test_the_stages_of_an_experiment_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = parsed(capsys, "experiment", name)["chain"]
    stages = {
        stage: settings[stage]
        for stage in ("data_models", "meta_training", "curve", "prune", "overrides")
    }
    chain = ExperimentSettings(**stages, masks=MaskSettings(**settings["masks"]))
    found = {}
    for stage, command in (
        ("data_models",) * 2,
        ("meta_training", "fit"),
        ("curve",) * 2,
        ("prune",) * 2,
    ):
        flags = [
            f"--{key}={json.dumps(value)}"
            for key, value in chain.changes("metanetwork")[stage].items()
        ]
        found[stage] = parsed(capsys, command, settings[stage], *flags)
    assert {found[stage]["criterion"]["init_args"]["p"] for stage in ("curve", "prune")} == {1}
    assert (
        found["prune"]["masks"] == settings["masks"]
        and len(found["curve"]["masks"]["sparsities"]) == 14
    )
    assert found["meta_training"]["model"]["init_args"]["sparsity"]["form"] == "l1"
    kept = settings["held_out"] + settings["validation"]
    seeds = found["data_models"]["model"]["init_args"]["seeds"]
    assert len(seeds) - kept == (2 if "quickstart" in name else 8)
