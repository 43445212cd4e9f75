"""A run that is killed at any file operation goes on to what an uninterrupted one gives.

`METAPRUNE_FUZZ=500` kills at every operation instead of a sample.
"""

import builtins
import io
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from helpers import random_resnet
from metaprune_pl import files
from metaprune_pl.files import UNFINISHED, whole_file, whole_folder, write_json, write_text
from metaprune_pl.networks import NetworkCard, NetworkSettings, load_network, save_network
from metaprune_pl.runs.run_folder import RunFolder

STRIDE = 1 if "METAPRUNE_FUZZ" in os.environ else 9
ARGUMENTS = {"depth": 8, "width": 4, "num_classes": 10, "in_channels": 3}
CARD = NetworkCard(settings=NetworkSettings(arguments=ARGUMENTS), input_shape=(3, 8, 8))
OPERATIONS: list[tuple[Any, str]] = [
    (builtins, "open"),
    (io, "open"),
    *((os, name) for name in ("open", "fsync", "replace", "rename", "rmdir", "unlink", "mkdir")),
    (tempfile, "mkdtemp"),
    (files, "_exchange"),
]


def work(folder: Path) -> None:
    """Do what every run does with files, in the order that runs do it."""
    run = RunFolder(folder, "prune", "key")
    if run.finished:
        return
    with run.running("a: 1\n"):
        for step in range(3):
            with whole_file(folder / "checkpoints" / "last.ckpt") as new:
                new.write_bytes(b"%d" % step)
        if not (folder / "pruned" / "network.json").is_file():
            save_network(folder / "pruned", random_resnet(), CARD)
        for text in ("first", "second"):
            with whole_folder(folder / "choice") as new:
                write_text(new / "choice.json", text)
        write_json(folder / "report.json", [1])


def killed_at(number: int, folder: Path) -> bool:
    """Do the work in a process that is killed before its n-th operation, if it has so many."""
    if not (child := os.fork()):
        done = count()
        for owner, name in OPERATIONS:
            setattr(owner, name, counted(getattr(owner, name), done, number))
        work(folder)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def counted(operation: Callable[..., Any], done: "count[int]", number: int) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if next(done) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return operation(*args, **kwargs)

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {"run.json", ".lock"}
    }


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_operation(
    exchange: bool, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    work(Path("whole"))
    expected = contents(Path("whole"))
    for number in count(0, STRIDE):
        shutil.rmtree("out", ignore_errors=True)
        killed = killed_at(number, Path("out"))
        if (Path("out") / "pruned" / "network.json").exists():
            load_network("out/pruned")  # what is there is whole
        work(Path("out"))
        assert contents(Path("out")) == expected, number
        assert not list(workdir.rglob(f"{UNFINISHED}*")), number
        if not killed:
            break
    assert number > 60
