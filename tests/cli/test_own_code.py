"""The user's own code: what a message advises works as it stands, in a new process."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_errors import fails

from metaprune_pl.__main__ import main
from metaprune_pl.networks import read_card, trust
from metaprune_pl.runs.run_folder import RunFolder

OWN = """
from torch import nn


def build(width: int = 8) -> nn.Module:
    layers = [nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
"""
FILES = ["own_beside.py", "nets/own_below.py", "my-own.v2.py", "nets/random.py"]
QUICK = ["--finetune_after.epochs=0", "--latency_batches=[1]", "--repair=null"]


@pytest.fixture
def forget(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Put the user's module beside and below the current folder; return a new process's start."""
    monkeypatch.setenv("COLUMNS", "250")
    paths = list(sys.path)
    for name in FILES:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(OWN)

    def start() -> None:
        monkeypatch.setattr(trust, "_TRUSTED", {})
        monkeypatch.setattr(sys, "path", list(paths))
        for name in ("own_beside", "own_below", "my_own_v2", "random_"):
            sys.modules.pop(name, None)

    start()
    return start


def advised(text: str) -> list[list[str]]:
    """Return the commands in a text."""
    lines = [line.partition("metaprune ") for line in text.splitlines()]
    return [shlex.split(words) for before, _, words in lines if before in {"Next: ", "      "}]


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("own_beside.py:build", "own_beside:build"),
        ("nets/own_below.py:build", "nets/own_below.py:build"),
        ("my-own.v2.py:build", "my-own.v2:build"),
        ("nets/random.py:build", "nets/random.py:build"),
    ],
)
def test_the_next_command_runs(
    typed: str, named: str, forget: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", typed, "--data=Digits", "--training.steps=1", "--out=runs/my net"])
    (prune,) = advised(capsys.readouterr().err)
    assert prune[-2:] == ["--trust", named] and prune[1] == "runs/my net/network"
    forget()
    main([*prune, *QUICK, "--out=runs/pruned"])
    export, benchmark = advised(capsys.readouterr().err)
    assert export[-2:] == benchmark[-2:] == ["--trust", named]
    assert benchmark[-3] == "runs/pruned/speed_up_2/network.onnx"
    page = Path("runs/pruned/report.md").read_text()
    again = next(line for line in page.splitlines() if "--config" in line)
    forget()
    main(shlex.split(again.strip("` ").partition("metaprune ")[2]))
    assert Path("runs/pruned.again/report.json").is_file()


@pytest.mark.parametrize("written", ["own_beside.py:build", "own_beside:build"])
@pytest.mark.parametrize("added", ["own_beside.py:build", "own_beside:build"])
def test_all_spellings_of_a_trusted_network_are_one(
    written: str, added: str, forget: Callable[[], None]
) -> None:
    Path("mine.yaml").write_text(f"network: {written}\ndata: Digits\n")
    main(["prune", "--config=mine.yaml", *QUICK, "--trust", added, "--out=out"])
    assert read_card("out/source").settings.builder == "own_beside:build"


def test_what_a_config_needs_is_what_is_advised(
    forget: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    written = "nets/own_below.py:build"
    Path("mine.yaml").write_text(f"network: {written}\ndata: Digits\nspeed_ups: [2]\n")
    args = ["prune", "--config=mine.yaml", *QUICK, "--out=out"]
    for trusted in ([], ["--trust=own_below:build"], ["--trust=own_beside.py:build"]):
        status, message = fails([*args, *trusted], capsys)
        assert status == 1 and message.endswith(
            f"add --trust {written} (in Python: pass builder=FUNCTION)"
        )
        assert "own_below" not in sys.modules
        forget()
    main([*args, "--trust", written])


@pytest.mark.parametrize(
    ("network", "data", "said"),
    [
        ("own_beside.py:build", "photoz", "no folder 'photoz'"),
        ("own_beside.py:bild", "photos", "Did you mean 'build'?"),
        ("runs/own_beside", "photos", "Did you mean 'runs/own_beside/network'?"),
        (
            "own_beside.py:build",
            "photos",
            "'runs/own_beside_pruned' holds another run. Set --out NEW_FOLDER.",
        ),
    ],
)
def test_a_mistake_beside_a_finished_run_is_told(
    network: str,
    data: str,
    said: str,
    forget: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in ("photos/cat", "photos/dog", "runs/own_beside/network"):
        Path(folder).mkdir(parents=True)
    Path("runs/own_beside/network/network.json").touch()
    with RunFolder(Path("runs/own_beside_pruned"), "prune", "another").running():
        Path("runs/own_beside_pruned/report.json").touch()
    status, message = fails(["prune", network, "--data", data, "--speed_up=2"], capsys)
    assert status == 1 and said in message
