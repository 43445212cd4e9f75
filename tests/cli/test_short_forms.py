"""What is typed most often has a short form, and means what the long one means."""

from pathlib import Path

import pytest
import yaml

from metaprune_pl.errors import ConfigError
from metaprune_pl.settings.short_forms import write_out


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("prune", "--speed_up 2", "--speed_ups=[2]"),
        ("prune", "--speed_up=1.5", "--speed_ups=[1.5]"),
        ("prune", "--speed_ups 2,3", "--speed_ups=[2,3]"),
        ("prune", "--speed_ups 3,1.5x,2x", "--speed_ups=[1.5,2,3]"),
        ("prune", "--speed_ups [2,3]", "--speed_ups=[2,3]"),
        ("prune", "--latency_batches 1", "--latency_batches=[1]"),
        ("prune", "--out runs/x", "--trainer.default_root_dir=runs/x"),
        ("prune", "--data Digits", "--data=Digits"),
        ("prune", "--data {class_path: Digits}", "--data={class_path: Digits}"),
        ("prune", "--network a/b.py:f --state c", "--network b:f --state c"),
        ("fit", "--trust=a/b.py:f", "--trust=b:f"),
        ("prune", "net --out x", "--network=net --trainer.default_root_dir=x"),
        ("prune", "net", "--network=net --trainer.default_root_dir=runs/net_pruned"),
        (
            "prune",
            "x.py:build",
            "--network=x:build --trainer.default_root_dir=runs/x_pruned",
        ),
        ("prune", "net --config a.yaml", "--network=net --config a.yaml"),
        ("train", "timm/r18", "--network=timm/r18 --trainer.default_root_dir=runs/r18"),
        (
            "curve",
            "runs/r18/network",
            "--network=runs/r18/network --trainer.default_root_dir=runs/r18_curve",
        ),
        ("inspect", "timm/r18", "timm/r18"),
        ("prune", "--out ~", "--trainer.default_root_dir=/home/me"),
        ("prune", "--out=~/r", "--trainer.default_root_dir=/home/me/r"),
        ("export", "net --file=~/a.onnx", "net --file=/home/me/a.onnx"),
        ("export", "net --file ~/a.onnx", "net --file /home/me/a.onnx"),
        ("train", "--state=~", "--state=~"),
        ("train", "--out=~nobody_at_all/r", "--trainer.default_root_dir=~nobody_at_all/r"),
        ("inspect", "net --input_shape 3,32,32", "net --input_shape 3,32,32"),
    ],
)
def test_a_short_form_is_written_out(
    command: str, typed: str, meant: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for file in ("x.py", "a/b.py"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    assert " ".join(write_out(command, typed.split(" "))) == meant


@pytest.mark.parametrize("goal", ["--latency=0.5", "--size=1MB", "--max_drop=1%"])
@pytest.mark.parametrize("other", ["--speed_up=2", "--masks={}", "--targets=[]"])
def test_nothing_is_said_beside_a_goal(goal: str, other: str) -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        write_out("prune", ["net", other, goal])
    assert write_out("prune", [other, "--goal", "null"])
    assert write_out("prune", [goal, "--masks=null"])


@pytest.mark.parametrize("name", ['a"b', "a\\db", "a, b", "caf\u00e9"])
def test_any_name_may_stand_in_a_row(name: str) -> None:
    (listed,) = write_out("benchmark", [name])
    assert yaml.safe_load(listed) == [f"./{name}"]


def test_files_in_a_row_are_a_list() -> None:
    assert write_out("benchmark", ["a", "b", "--batches", "1,2"]) == [
        '["./a", "./b"]',
        "--batches=[1,2]",
    ]


@pytest.mark.parametrize("folder", ["photos", "./elsewhere", "data/photos"])
def test_a_folder_of_images_is_as_the_network_expects_it(folder: str) -> None:
    typed = ["--data.image_size", "32", "--data", folder, "--config=x.yaml", "--data.seed=1"]
    short = ["--data=ImageFolder", f"--data.folder={folder}", "--data.image_size=network"]
    short += ["--data.normalization=network", "--data.batch_size=32"]
    written = ["--config=x.yaml", "--data.image_size", "32", "--data.seed=1"]
    assert write_out("prune", typed) == [*short, *written]


def test_few_images_are_gone_through_for_a_thousand_steps(workdir: Path) -> None:
    for index in range(10):
        (workdir / "photos" / str(index)).mkdir(parents=True)
        (workdir / "photos" / str(index) / "a.jpg").touch()
    assert write_out("prune", ["--data=photos"])[-1] == "--finetune_after.steps=1000"
    assert write_out("train", ["--data=photos"])[-1] == "--training.steps=1000"
    said = ["--data=photos", "--finetune_after.epochs=3"]
    assert not any("steps" in flag for flag in write_out("prune", said))
    assert not any("steps" in flag for flag in write_out("curve", ["--data=photos"]))


def test_what_is_no_short_form_stays_in_its_place() -> None:
    typed = ["--config", "a.yaml", "--data=ImageFolder", "--data.folder=x", "--data", "b.yaml"]
    assert write_out("prune", typed) == [*typed[:4], "--data=b.yaml"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--latency 0.5", "--goal.latency=0.5"),
        ("--latency 12ms --latency_batch 8", "--goal.latency=12ms --goal.batch=8"),
        ("--runtime onnx", "--goal.runtime=onnx"),
        ("--size 2MB", "--goal.size=2MB"),
        ("--max_drop 1%", "--goal.max_drop=1%"),
    ],
)
def test_targets_as_a_person_has_them(typed: str, meant: str) -> None:
    assert " ".join(write_out("prune", typed.split(" "))) == meant
