"""The paper's experiments have its settings, and each runs through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import QUIET
from fake_data import fake_cifar, fake_folders, fake_svhn
from metaprune_pl.__main__ import main
from metaprune_pl.settings.shipped import shipped_configs

EXPERIMENTS = sorted(
    name.removesuffix(".yaml") for name in shipped_configs() if f"meta_{name}" in shipped_configs()
)
OURS = "quickstart", "resnet20_cifar10_jpeg", "small_cnn_quickstart", "plain_vgg19_cifar10"
for ours in OURS:  # not the paper's
    EXPERIMENTS.remove(ours)
COMMANDS = {"data": "data_models", "meta": "fit", "prune": "prune", "curve": "curve"}


def test_every_experiment_has_its_stages() -> None:
    assert EXPERIMENTS == [
        "resnet110_cifar10",
        "resnet18_cifar10_224",
        "resnet26_cifar10_224",
        "resnet50",
        "resnet56_cifar10",
        "resnet56_cifar100",
        "resnet56_cifar10_no_initial",
        "resnet56_svhn",
        "vgg19_cifar100",
        "vit_b_16",
    ]
    for name in EXPERIMENTS:
        assert {f"{stage}_{name}.yaml" for stage in COMMANDS} <= shipped_configs().keys()


def settings(name: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """What the program takes a config for."""
    command = COMMANDS.get(name.partition("_")[0], "experiment")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([command, "--config", f"{name}.yaml", "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def short(training: dict[str, Any], optimizer: dict[str, Any]) -> tuple[Any, ...]:
    """(epochs, lr, weight decay, milestones) of a training."""
    epochs = training.get("epochs", training.get("max_epochs"))
    return epochs, optimizer["lr"], optimizer["weight_decay"], optimizer["milestones"]


CIFAR = (200, 0.1, 5e-4, [100, 150, 180])
DATA: dict[str, Any] = {
    "resnet56_cifar10": (11, CIFAR, 1.32, (80, 0.01, 5e-4, [40, 70])),  # table 10
    "resnet110_cifar10": (11, CIFAR, 2.0, (80, 0.01, 5e-4, [40, 70])),  # F.2
    "resnet56_cifar100": (11, CIFAR, 1.32, (80, 0.01, 5e-4, [40, 70])),  # F.1
    "resnet56_svhn": (11, CIFAR, 3.0, (80, 0.01, 5e-4, [40, 70])),  # F.1
    "vgg19_cifar100": (11, CIFAR, 2.0, (140, 0.01, 5e-4, [80, 120])),  # table 13
    "resnet18_cifar10_224": (11, CIFAR, 1.7, (80, 0.01, 5e-4, [40, 70])),  # the authors' configs
    "resnet26_cifar10_224": (11, CIFAR, 1.8, (80, 0.01, 5e-4, [40, 70])),
    "resnet50": (4, (30, 0.01, 1e-4, [10]), 1.292, (60, 0.01, 1e-4, [30])),  # table 16
}
"""Number of data models, their training, speed-up of the initial pruning, finetuning after it."""


@pytest.mark.parametrize("name", DATA)
def test_data_models(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = settings(f"data_{name}", capsys)
    model, initial = found["model"]["init_args"], found["initial"]
    finetune = initial["finetune"]
    assert DATA[name] == (
        len(model["seeds"]),
        short(found["trainer"], model["optimizer"]),
        initial["speed_up"],
        short(finetune, finetune["optimizer"]),
    )
    images = found["data"]["init_args"]
    step = images["global_batch"] or images["batch_size"]
    assert step == (256 if name == "resnet50" else 128)
    depth = model["network"]["arguments"].get("depth")
    assert depth == {"resnet110": 110, "resnet56": 56, "vgg19": 19}.get(name.partition("_")[0])


META: dict[str, Any] = {
    "resnet56_cifar10": ((8, 64, "resnet", 0.01), (1e-3, [3]), 500 * 100, 10 / 100),
    "resnet56_cifar10_no_initial": ((8, 64, "resnet", 0.01), (1e-3, [3]), 500 * 100, 10 / 100),
    "resnet110_cifar10": ((8, 64, "resnet", 0.01), (1e-3, [3]), 500 * 100, 10 / 100),
    "resnet56_cifar100": ((8, 64, "resnet", 0.01), (1e-3, [3]), 500 * 100, 10 / 100),
    "resnet56_svhn": (
        (8, 64, "resnet", 0.01),
        (1e-3, [3]),
        73_600,
        10 / 147,
    ),  # 500 x 147, on 8 devices
    "vgg19_cifar100": ((8, 32, "vgg", 0.05), (1e-3, [10]), 500 * 100, 10 / 100),
    "resnet18_cifar10_224": ((6, 16, "resnet", 5e-4), (1e-2, [3]), 500 * 100, 10 / 100),
    "resnet26_cifar10_224": ((6, 16, "resnet", 5e-4), (1e-2, [3]), 500 * 100, 10 / 100),
    "resnet50": ((6, 16, "resnet", 2e-3), (1e-2, [2]), 32 * 8 * 200, 10 / 200),
    "vit_b_16": ((3, 4, "vit", 0.1), (1e-3, []), 32 * 8 * 200, 10 / 200),
}
"""Layers, hidden, schema, ratios; rate, milestones; images of a big batch; sparsity weight."""


@pytest.mark.parametrize("name", META)
def test_meta_training(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = settings(f"meta_{name}", capsys)
    data, model = found["data"]["init_args"], found["model"]["init_args"]
    net, optimizer = model["metanetwork"]["init_args"], model["optimizer"]
    assert net["node_ratio"] == net["edge_ratio"]
    assert META[name] == (
        (net["layers"], net["hidden"], net["schema"], net["edge_ratio"]),
        (optimizer["lr"], optimizer["milestones"]),
        data["big_batch"],
        pytest.approx(model["sparsity"]["weight"], rel=0.001),
    )
    assert (optimizer["name"], optimizer["weight_decay"], model["sparsity"]["alpha"]) == (
        "adamw",
        5e-4,
        4.0,
    )
    assert data["data_models"] == f"runs/{name}/data_models/networks"
    assert (data["models_per_step"], data["rounds"]) == {
        "resnet50": (2, 25),
        "vit_b_16": (1, 25),
    }.get(name, (1, 1))


PRUNE: dict[str, Any] = {
    "resnet56_cifar10": (
        (100, 0.01, 5e-4, [60, 90]),
        (140, 0.01, 5e-4, [80, 120]),
        [2.3, 2.9, 3.0],
        "CIFAR10",
    ),
    "resnet56_cifar10_no_initial": (
        (100, 0.01, 5e-4, [60, 90]),
        (100, 0.01, 5e-4, [60, 90]),
        [2.5],
        "CIFAR10",
    ),
    "resnet110_cifar10": (
        (100, 0.01, 5e-4, [60, 90]),
        (140, 0.01, 5e-4, [80, 120]),
        [4.0],
        "CIFAR10",
    ),
    "resnet56_cifar100": (
        (100, 0.01, 5e-4, [60, 90]),
        (140, 0.01, 5e-4, [80, 120]),
        [2.5],
        "CIFAR100",
    ),
    "resnet56_svhn": ((100, 0.01, 5e-4, [60, 90]), (140, 0.01, 5e-4, [80, 120]), [10.0], "SVHN"),
    "vgg19_cifar100": (
        (2000, 0.01, 5e-4, [1850, 1950]),
        (2000, 0.01, 5e-4, [1850, 1950]),
        [8.9],
        "CIFAR100",
    ),
    "resnet18_cifar10_224": (
        (100, 0.01, 5e-4, [60, 90]),
        (140, 0.01, 5e-4, [80, 120]),
        [2.3],
        "CIFAR10",
    ),
    "resnet26_cifar10_224": (
        (100, 0.01, 5e-4, [60, 90]),
        (140, 0.01, 5e-4, [80, 120]),
        [2.3],
        "CIFAR10",
    ),
    "resnet50": (
        (200, 0.01, 1e-4, [120, 160, 185]),
        (200, 0.01, 1e-4, [120, 160, 185]),
        [2.3095],
        "ImageNet",
    ),
    "vit_b_16": ((300, 1e-4, 0.01, []), (100, 1e-4, 1e-4, []), [1.7], "ImageNet"),
}
"""Finetuning after the metanetwork and after pruning, targets, images."""


@pytest.mark.parametrize("name", PRUNE)
def test_pruning(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, curve = settings(f"prune_{name}", capsys), settings(f"curve_{name}", capsys)
    before, after = found["finetune"], found["finetune_after"]
    kind = found["data"]["class_path"].rpartition(".")[2]
    assert PRUNE[name] == (
        short(before, before["optimizer"]),
        short(after, after["optimizer"]),
        found["speed_ups"],
        kind,
    )
    assert settings(name, capsys)["chain"]["speed_ups"] == found["speed_ups"]
    for key in ("finetune", "data", "criterion", "pruning"):
        assert curve[key] == found[key]
    assert found["metanetwork"].startswith(curve["metanetwork"])
    assert curve["grid"]["split"] == "validation"
    for stage in (found, curve):
        assert stage["network"].startswith(f"runs/{name}/data_models/networks/seed_")
    if name == "vit_b_16":
        assert [part["optimizer"]["schedule"] for part in (before, after)] == ["cosine", "cosine"]
        assert before["label_smoothing"] == after["label_smoothing"] == 0.1
        assert found["data"]["init_args"]["mixing"] == {"mixup": 0.2, "cutmix": 0.1}


# Each experiment through the command line, at toy size

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("cifar_resnet", {"depth": 8, "width": 8}),
    "vgg19": ("cifar_vgg", {"depth": 11, "width": 4}),
    "resnet18": ("timm/resnet10t", {"channels": [4, 4, 8, 8]}),
    "resnet26": ("timm/resnet26", {"channels": [4, 4, 8, 8]}),
    "resnet50": ("timm/resnet50", {"channels": [4, 4, 8, 8]}),
    "vit": ("timm/vit_tiny_patch16_224", {"depth": 2, "embed_dim": 24, "num_heads": 2}),
}
"""Networks of the same kind as the experiment's, but small."""


def overrides(name: str) -> dict[str, dict[str, Any]]:
    """What brings an experiment down to seconds."""
    kind = name.partition("_")[0]
    builder, arguments = SMALL.get(kind, SMALL["resnet"])
    batch: dict[str, Any] = {"data.init_args.batch_size": 32, "data.init_args.eval_batch_size": 32}
    if kind in {"resnet50", "vit"}:
        batch |= {
            "data.init_args.batch_size": 4,
            "data.init_args.workers": 0,
            "data.init_args.global_batch": 8,
        }
    if name.endswith("224"):
        batch["data.init_args.image_size"] = 56
    images = {
        k.replace("init_args.", "init_args.images.init_args.", 1): v
        for k, v in batch.items()
        if "data" in k
    }
    network = {
        "model.init_args.network.builder": builder,
        "model.init_args.network.arguments": arguments,
    }
    initial = {"initial.finetune.epochs": 1, "initial.pruning.step": 0.05}
    data = {**batch, **network, "model.init_args.seeds": [0, 1, 2], "trainer.max_epochs": 1}
    if not name.endswith("no_initial"):
        data |= initial
    small_metanetwork = {
        f"model.init_args.metanetwork.init_args.{k}": v for k, v in (("layers", 1), ("hidden", 4))
    }
    meta = {
        **images,
        **small_metanetwork,
        "data.init_args.big_batch": 64,
        "data.init_args.rounds": 1,
        "data.init_args.models_per_step": 1,
    }
    after = {**batch, "finetune.epochs": 1, "pruning.step": 0.05}
    return {
        "data_models": data,
        "meta_training": {**meta, "trainer.max_epochs": 1},
        "curve": {**after, "grid.points": 2, "grid.max_speed_up": 12.0 if "svhn" in name else 3.5},
        "prune": {**after, "finetune_after.epochs": 1, "latency_batches": [1]},
    }


QUICK = {"resnet56_cifar10", "vit_b_16"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in EXPERIMENTS]
)
def test_an_experiment_runs_on_small_images_of_its_format(name: str, workdir: Path) -> None:
    root = workdir / "datasets"
    if "cifar" in name:
        fake_cifar(root, *((100, 2) if "cifar100" in name else (10, 3)))
    elif "svhn" in name:
        fake_svhn(root)
    else:
        fake_folders(root / "imagenet")
    target = 4.5 if "svhn" in name else 3.2  # its toy data models are pruned to 3x
    main(
        [
            "experiment",
            "--config",
            f"{name}.yaml",
            *QUIET,
            "--trainer.accelerator=cpu",
            "--chain.held_out=1",
            "--chain.validation=1",
            "--chain.repeats=[]",
            "--chain.methods=[metanetwork]",
            f"--chain.speed_ups=[{target}]",
            f"--chain.overrides={json.dumps(overrides(name))}",
        ]
    )
    report = json.loads((workdir / "runs" / name / "report.json").read_text())
    assert [row["method"] for row in report["pruned"]] == ["metanetwork"]
    assert report["pruned"][0]["speed_up"] >= target
