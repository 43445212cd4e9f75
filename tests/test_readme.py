"""What the three READMEs say is so: their commands, their YAML and their Python."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from conftest import TINY
from metaprune_pl.__main__ import main
from metaprune_pl.settings.shipped import find_config

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "configs/README.md", "src/metaprune_pl/README.md")
README = "\n".join((ROOT / page).read_text() for page in PAGES)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    """The command lines of `metaprune` in the READMEs."""
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    return [
        shlex.split(line.partition("metaprune ")[2], comments=True)
        for line in re.findall(r"metaprune \w.*", text)
    ]


def test_the_stages_by_hand_are_those_that_the_line_runs() -> None:
    with_config = [
        c
        for c in commands()
        if c[0] in {"data_models", "fit", "curve", "prune"} and c[1] == "--config"
    ]
    by_hand = {f"{c[0]} {c[2].partition('_')[0]}" for c in with_config}
    assert by_hand >= set(TINY)


@pytest.mark.parametrize("args", [c for c in commands() if c[0] != "inspect"], ids=" ".join)
def test_every_command_is_accepted(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*args, "--print_config"])
    assert stop.value.code == 0, capsys.readouterr().err


def test_the_yaml_is_the_shipped_one() -> None:
    assert find_config("meta_quickstart.yaml").read_text().strip() in README


def test_the_first_page_is_short() -> None:
    assert len((ROOT / PAGES[0]).read_text().splitlines()) <= 200


@pytest.mark.parametrize("code", blocks("python"), ids=["prune", "line"])
def test_the_python_runs(code: str, workdir: Path) -> None:
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert "faster" in names


def test_every_setting_on_the_command_line_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    flags = re.findall(r"`(--[^`]+)`", README)
    assert len(flags) >= 3
    for text in flags:
        words = shlex.split(text)
        if words[0].startswith(("--trainer", "--model")):
            with pytest.raises(SystemExit) as stop:
                main(["fit", "--config", "meta_quickstart.yaml", *words, "--print_config"])
            assert stop.value.code == 0, capsys.readouterr().err


QUICK = ["--criterion=Magnitude", "--repair=null"]
"""Flags for networks whose layers are too wide to be repaired in a moment."""


def draw_photos(folder: Path) -> None:
    """Write photographs of two classes that differ in their colour."""
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for index in range(20):
            pixels = np.random.default_rng(index).integers(0, 156, (40, 32, 3), np.uint8)
            pixels[:, :, label] += 100
            Image.fromarray(pixels).save(folder / name / f"{index}.jpg")


def test_the_path_of_a_new_user(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(workdir / "cache"))
    draw_photos(workdir / "photos")
    small = {
        "train": ["--training.epochs=3", "--data.image_size=32"],
        "prune": ["--finetune_after.epochs=1", "--latency_batches=[1]", *QUICK],
        "export": [],
        "benchmark": ["--batches=1", "--seconds=0.01"],
    }
    path = [c for c in commands() if c[0] in small and "resnet18" in " ".join(c[:2])]
    assert [c[0] for c in path][:4] == [*small]
    for command in path[:4]:
        main([*command, *small[command[0]]])
    out = capsys.readouterr()
    assert "agree on 8 images of photos" in out.out and "runs in" in out.out
    assert "Next: metaprune export runs/resnet18_pruned/speed_up_2/network" in out.err
    left = {path.name for path in Path("runs/resnet18_pruned/speed_up_2").iterdir()}
    assert left >= {"network", "network.onnx", "predict_network_onnx.py", "result.json"}
    assert "pruned" not in left and not list(Path("runs/resnet18_pruned").rglob("*.ckpt"))
    main(
        ["export", "runs/resnet18_pruned/speed_up_2/network", "--format=pt2", "--file=network.pt2"]
    )
    (code,) = blocks("py")
    names: dict[str, Any] = {}
    exec(compile(code.replace("224", "32"), "README.md", "exec"), names)
    assert names["scores"].shape == (1, 2)


OWN = """
from torch import nn


def build(width: int = 4) -> nn.Module:
    layers = [nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3)]
    layers += [nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
"""


def test_a_metanetwork_for_ones_own_networks_is_made_and_used(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "my_package").mkdir()
    (workdir / "my_package" / "my_module.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(workdir))
    experiment = next(c for c in commands() if "runs/my_kind" in c)
    prune = next(c for c in commands() if "runs/my_kind/choice" in c)
    small = {
        "data_models": {"model.init_args.seeds": "[0, 1, 2]", "trainer.max_epochs": 1},
        "meta_training": {"data.init_args.rounds": 1, "trainer.max_epochs": 1},
        "curve": {"finetune.epochs": 0, "grid.points": 3},
        "prune": {"finetune.epochs": 0, "finetune_after.epochs": 0},
    }
    toy = [
        f"--chain.overrides.{stage}.{key}={value}"
        for stage, own in small.items()
        for key, value in own.items()
    ]
    at = experiment.index("--chain.images")
    del experiment[at : at + 2]  # digits in place of a folder
    toy += ["--chain.held_out=1", "--chain.methods=[none, metanetwork]", "--chain.speed_ups=[1.5]"]
    main([*experiment, *toy])
    folder = workdir / "runs" / "my_kind"
    states = load_file(folder / "data_models" / "networks" / "seed_0000" / "weights.safetensors")
    torch.save(states, "my_weights.pth")
    at = prune.index("--data")
    prune[at + 1] = "Digits"
    main(
        [
            *prune,
            "--speed_ups=[1.5]",
            "--finetune.epochs=0",
            "--finetune_after.epochs=0",
            "--trainer.accelerator=cpu",
        ]
    )
    (result,) = json.loads((workdir / "runs" / "my_pruned" / "report.json").read_text())
    assert (result["method"], result["speed_up"] >= 1.5) == ("metanetwork", True)


def test_every_file_that_contributing_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`([\w./{},]+/[\w./{},]+\.(?:py|yaml))`", text)
    assert len(named) > 50
    for name in named:
        folder, _, choices = name.partition("{")
        choices, _, rest = choices.partition("}")
        for choice in choices.split(","):
            path = Path(folder + choice + rest)
            path = path.parent if path.stem == "NAME" else path
            assert (ROOT / path).exists() or (ROOT / "src" / "metaprune_pl" / path).exists(), path
