"""A run that is killed at any file operation goes on to what an uninterrupted one gives.

`METAPRUNE_FUZZ=500` kills so often, instead of for some seconds: at one operation of each kind
first. What only reads is none: a kill before it is one before what comes next.
"""

import builtins
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from helpers import random_resnet
from metaprune_pl import files
from metaprune_pl.__main__ import main
from metaprune_pl.files import UNFINISHED, whole_file, whole_folder, write_json, write_text
from metaprune_pl.networks import NetworkCard, NetworkSettings, load_network, save_network
from metaprune_pl.runs.run_folder import RunFolder

STRIDE = 1 if "METAPRUNE_FUZZ" in os.environ else 5
BY_CHANCE = re.compile(rf"[0-9]+|(?<={UNFINISHED}).*")
"""Parts of names that are not the same again."""
MOST = int(os.environ["METAPRUNE_FUZZ"]) if "METAPRUNE_FUZZ" in os.environ else None
ARGUMENTS = {"depth": 8, "width": 4, "num_classes": 10, "in_channels": 3}
CARD = NetworkCard(settings=NetworkSettings(arguments=ARGUMENTS), input_shape=(3, 8, 8))
ELSEWHERE = ("/proc", "/sys", "/dev", sys.prefix, sys.base_prefix, str(Path.home() / ".cache"))
"""Files that are not the run's."""
DONE = "../operations.json"
"""File for the operations of work that was not killed, each by its name and that of the file."""
OPERATIONS: list[tuple[Any, str]] = [
    (builtins, "open"),
    (io, "open"),
    *((os, name) for name in ("open", "fsync", "replace", "rename", "rmdir", "unlink", "mkdir")),
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


def killed_at(number: int, work: Callable[[], Any]) -> bool:
    """Do the work in a process that is killed before its n-th operation, if it has so many."""
    if not (child := os.fork()):
        done: list[str] = []
        write = Path.write_text
        for owner, name in OPERATIONS:
            setattr(owner, name, counted(owner, name, done, number))
        try:
            work()
            write(Path(DONE), json.dumps(done))
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def counted(owner: Any, name: str, done: list[str], number: int) -> Callable[..., Any]:
    operation = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        file = str(args[0]) if args else ""
        if not file.startswith(ELSEWHERE) and changes(name, args, kwargs):
            if len(done) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(f"{name} {BY_CHANCE.sub('', Path(file).name)}")
        return operation(*args, **kwargs)

    return call


def changes(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation is more than to read."""
    if name == "mkdir":
        return not os.path.isdir(args[0])
    if name != "open":
        return True
    mode = args[1] if len(args) > 1 else kwargs.get("mode", "r")
    if isinstance(mode, int):
        return bool(mode & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return mode not in {"r", "rb", "rt"}


def one_of_each_first(done: list[str]) -> list[int]:
    """Return the numbers of all operations in an order by chance, one of each kind first."""
    numbers = list(range(len(done)))
    random.Random(0).shuffle(numbers)
    first = {done[number]: number for number in numbers}.values()
    return [*first, *(number for number in numbers if number not in set(first))]


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
        killed = killed_at(number, lambda: work(Path("out")))
        if (Path("out") / "pruned" / "network.json").exists():
            load_network("out/pruned")  # what is there is whole
        work(Path("out"))
        assert contents(Path("out")) == expected, number
        assert not list(workdir.rglob(f"{UNFINISHED}*")), number
        if not killed:
            break
    assert number > 60


OVERRIDES = {
    "data_models": {
        "model.init_args.network.arguments": {"depth": 8, "width": 4},
        "model.init_args.seeds": [0, 1, 2],
        "side_by_side": 3,
        "trainer.max_epochs": 1,
    },
    "meta_training": {
        "model.init_args.metanetwork.init_args.layers": 1,
        "model.init_args.metanetwork.init_args.hidden": 4,
        "data.init_args.big_batch": 50,
        "data.init_args.rounds": 1,
        "trainer.max_epochs": 1,
    },
    "curve": {
        "grid.points": 2,
        "grid.max_speed_up": 1.5,
        "pruning.step": 0.3,
        "finetune.epochs": 1,
    },
    "prune": {"finetune_after.epochs": 1, "latency_batches": [1], "pruning.step": 0.3},
}
IMAGES = {"class_path": "Digits", "init_args": {"fraction": 0.05, "batch_size": 50}}
SECONDS = 15
"""Time for a sample of kills."""
MEASURED = ("cost", "latency", "seconds", "bytes", "started")
"""Parts of the names of what no two runs have alike."""


def experiment() -> None:
    """Run a whole experiment, of one step or epoch each."""
    main(
        [
            "experiment",
            "--config=quickstart.yaml",
            "--trainer.default_root_dir=run",
            "--trainer.enable_progress_bar=false",
            "--chain.held_out=1",
            "--chain.validation=1",
            "--chain.methods=[metanetwork]",
            "--chain.speed_ups=[1.5]",
            f"--chain.images={json.dumps(IMAGES)}",
            f"--chain.overrides={json.dumps(OVERRIDES)}",
        ]
    )


def comparable(value: Any) -> Any:
    """Return what two runs have alike of their results."""
    if isinstance(value, list):
        return [comparable(part) for part in value]
    if not isinstance(value, dict):
        return value
    kept = {key: part for key, part in value.items() if not any(m in key for m in MEASURED)}
    return {key: comparable(part) for key, part in kept.items()}


def results(folder: Path) -> dict[str, Any]:
    """Return all of a run's files by name, with what two runs have alike of them."""
    known: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if "tfevents" in name or path.is_dir():
            continue
        known[name] = path.read_bytes() if path.suffix == ".safetensors" else None
        if path.name in {"report.json", "result.json", "curve.json", "choice.json"}:
            known[name] = comparable(json.loads(path.read_text()))
    return known


def run_alone(test: pytest.Item) -> None:
    """Run a test in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-n", "0", f"{test.path}::{test.name}"]
    options = {"env": environment, "cwd": test.config.rootpath, "text": True}
    done = subprocess.run(command, stdout=-1, stderr=subprocess.STDOUT, **options)
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*")
def test_a_kill_at_any_operation_of_an_experiment(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # what other tests have started does not bear a fork
        return run_alone(request.node)
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: Path(path).write_text("drawn"))
    Path("whole").mkdir()
    monkeypatch.chdir("whole")
    experiment()
    expected = results(Path("run"))
    monkeypatch.chdir("..")
    Path("first").mkdir()
    monkeypatch.chdir("first")
    assert not killed_at(-1, experiment)
    done = json.loads(Path(DONE).read_text())
    monkeypatch.chdir("..")
    assert results(Path("first/run")) == expected and len(done) > 200
    start, kills = time.monotonic(), 0
    for number in one_of_each_first(done)[:MOST]:
        folder = Path(f"kill_{number}")
        folder.mkdir()
        monkeypatch.chdir(folder)
        killed = killed_at(number, experiment)
        assert not killed_at(-1, experiment), number
        assert results(Path("run")) == expected, number
        assert not list(folder.rglob(f"{UNFINISHED}*")), number
        monkeypatch.chdir("..")
        shutil.rmtree(folder)
        kills += killed
        if MOST is None and time.monotonic() - start > SECONDS:
            break
    kinds = len(set(done))
    sys.stdout.write(f"{kills} kills at {len(done)} operations of {kinds} kinds\n")
    assert kills
