"""Both ways of ScaleGMN beside a control, at toy size: small_cnn_quickstart.yaml."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fake_data import fake_cifar
from metaprune_pl.__main__ import main
from metaprune_pl.data import DataModelZoo, Digits
from metaprune_pl.errors import ConfigError, DataError
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.pruning import left_parameters
from metaprune_pl.settings.experiment import ExperimentSettings
from metaprune_pl.settings.shipped import find_config

FEW = {"data.init_args.fraction": 0.2, "trainer.enable_progress_bar": False}
WIDTH = {"model.init_args.network.arguments": {"width": 4}}
SMALL = {"layers": 1, "hidden": 6}
OPERATOR = {f"model.init_args.metanetwork.init_args.{name}": n for name, n in SMALL.items()}
PREDICTOR = {f"model.init_args.predictor.init_args.{name}": n for name, n in SMALL.items()}
TOY: dict[str, dict[str, Any]] = {
    "data_models": {
        **FEW,
        **WIDTH,
        "model.init_args.seeds": [1000, 1001, 1002],
        "trainer.max_epochs": 2,
    },
    "meta_training": {
        **OPERATOR,
        "data.init_args.rounds": 2,
        "data.init_args.images.init_args.fraction": 0.5,
        "trainer.max_epochs": 1,
    },
    "curve": {**FEW, "finetune.epochs": 1},
    "prune": {**FEW, "finetune_after.epochs": 1},
    "zoo": {
        **FEW,
        **WIDTH,
        "model.init_args.seeds": [0, 1, 2, 3],
        "model.init_args.snapshots": [],
        "copies.number": 1,
        "copies.finetune.epochs": 0,
        "trainer.max_epochs": 1,
    },
    "predictor": {**PREDICTOR, "trainer.max_epochs": 1, "trainer.enable_progress_bar": False},
    "guided": {
        **FEW,
        "model.init_args.l1": 0.05,
        "model.init_args.optimizer.lr": 0.02,
        "trainer.max_epochs": 60,
    },
}
METHODS = ["balanced_magnitude", "guided", "metanetwork"]


def test_guided_and_own_operators_stand_beside_a_control_with_exact_shares(workdir: Path) -> None:
    settings = yaml.safe_load(find_config("small_cnn_quickstart.yaml").read_text())
    settings["chain"] |= {
        "overrides": TOY,
        "methods": METHODS,
        "metanetworks": {"own": {}},
        "held_out": 1,
        "masks": {"sparsities": [0.5, 0.9]},
    }
    settings["trainer"]["default_root_dir"] = "run"
    Path("toy.yaml").write_text(yaml.safe_dump(settings))
    main(["experiment", "--config=toy.yaml"])
    report = json.loads(Path("run/report.json").read_text())
    rows = {(row["method"], row["target"]): row for row in report["masked"]}
    assert {method for method, _ in rows} == {"balanced_magnitude", "guided", "metanetwork_own"}
    for (method, share), row in rows.items():
        kind = f"run/networks/seed_1002-{method}"
        stage = f"share_{share}" if method == "guided" else "prune"
        folder = Path(kind) / stage / f"masked_{share}" / "network"
        network, card = load_network(folder), read_card(folder)
        weights = [network.get_parameter(name) for name in card.masked]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        assert zeros == round(float(share) * sum(weight.numel() for weight in weights))
        assert (row["accuracy_predicted"] is not None) == (method == "guided")
    own = Path("run/networks/seed_1002-metanetwork_own/meta_training")
    assert yaml.safe_load((own / "config.yaml").read_text())["data"]["init_args"]["only"] == [
        "seed_1002"
    ]
    assert load_metanetwork(own / "metanetworks")
    assert not Path("run/meta_training").exists()  # of metanetworks for all networks
    assert "metanetwork_own: a metanetwork for each network" in report["results"]["on_own"]
    costs = {(cost["method"], cost["stage"]) for cost in report["costs"]}
    assert ("guided", "zoo") in costs and ("guided", "guided search") in costs


def test_mistakes_are_one_line() -> None:
    paths = dict.fromkeys(("data_models", "meta_training", "curve", "prune"), "x.yaml")
    with pytest.raises(ConfigError, match="guided needs configs of zoo, predictor, guided"):
        ExperimentSettings(**paths, methods=["guided"])
    with pytest.raises(ConfigError, match="'own' is none of metanetworks"):
        ExperimentSettings(**paths, on_own=["own"])


def test_only_some_data_models_are_trained_on(line: Path) -> None:
    folder = line / "runs/quickstart/data_models/networks"
    names = sorted(path.name for path in folder.iterdir())
    zoo = DataModelZoo(Digits(), data_models=str(folder), held_out=1, only=names[-2:])
    assert [path.name for path in zoo.models] == [names[-2]]
    for only, message in ((["seed_9999"], "no data model 'seed_9999'"), ([], "at least one")):
        with pytest.raises(DataError, match=message):
            _ = DataModelZoo(Digits(), data_models=str(folder), only=only).models


@pytest.mark.slow
def test_vgg19_at_a_quarter_of_its_width_comes_to_99_percent_zeros(workdir: Path) -> None:
    fake_cifar(workdir / "datasets", 10, 3)
    batch = {"data.init_args.batch_size": 32, "data.init_args.eval_batch_size": 32}
    overrides = {
        "data_models": {
            **batch,
            "model.init_args.network.arguments": {"depth": 19, "width": 16},
            "model.init_args.seeds": [0, 1, 2],
            "trainer.max_epochs": 1,
        },
        "meta_training": {
            "data.init_args.images.init_args.batch_size": 32,
            "data.init_args.big_batch": 64,
            "data.init_args.rounds": 1,
            "trainer.max_epochs": 1,
        },
        "curve": {**batch, "finetune.epochs": 1, "masks.sparsities": [0.9]},
        "prune": {**batch, "finetune_after.epochs": 1},
    }
    settings = yaml.safe_load(find_config("plain_vgg19_cifar10.yaml").read_text())
    few = {"masks": {"sparsities": [0.99]}, "metanetworks": {"own": {}}, "held_out": 1}
    settings["chain"] |= {"overrides": overrides, "methods": ["metanetwork"], **few}
    settings["trainer"] |= {"default_root_dir": "run", "accelerator": "cpu"}
    Path("toy.yaml").write_text(yaml.safe_dump(settings))
    main(["experiment", "--config=toy.yaml"])
    (row,) = json.loads(Path("run/report.json").read_text())["masked"]
    network = load_network("run/networks/seed_0002-metanetwork_own/prune/masked_0.99/network")
    assert row["left"] == left_parameters(network) < 0.015
