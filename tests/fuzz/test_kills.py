"""A run that is killed at any file operation goes on to what an uninterrupted one gives.

A kill leaves what is on the disk. So one run notes before each of its operations what is there, and
other runs go on from each of that, and from files that are half written. Some real kills show that
they leave the same. With `METAPRUNE_FUZZ` all states of an experiment are gone on from, in some ten
minutes, instead of a sample for some seconds.
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
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from helpers import random_resnet
from metaprune_pl import files
from metaprune_pl.__main__ import main
from metaprune_pl.files import UNFINISHED, whole_file, whole_folder, write_json, write_text
from metaprune_pl.networks import NetworkCard, NetworkSettings, load_network, save_network
from metaprune_pl.runs.command import Run
from metaprune_pl.runs.run_folder import RunFolder
from metaprune_pl.runs.stage import Stage

ALL = "METAPRUNE_FUZZ" in os.environ
SECONDS = 15
"""Time for a sample of states."""
HOME = Path("home")
"""Folder of the run's folder: all that is looked at."""
State = dict[str, bytes | None]
"""What a folder holds: names to the bytes of files, and to None of folders."""
MEASURED = ("cost", "latency", "seconds", "bytes", "started")
"""Parts of the names of what no two runs have alike."""
ARGUMENTS = {"depth": 8, "width": 4, "num_classes": 10, "in_channels": 3}
CARD = NetworkCard(settings=NetworkSettings(arguments=ARGUMENTS), input_shape=(3, 8, 8))
OPERATIONS: list[tuple[Any, str]] = [
    (builtins, "open"),
    (io, "open"),
    *((os, name) for name in ("open", "fsync", "replace", "rename", "rmdir", "unlink", "mkdir")),
    (files, "_exchange"),
]
_LOCK = threading.RLock()
_KNOWN: dict[bytes, bytes] = {}
"""Contents of files, each once."""


def on_disk(folder: Path) -> State:
    """Return what a folder holds; what a process has not yet written out is not there."""
    state: State = {}
    for path in files.paths_below(folder):
        content = None if path.is_dir() else path.read_bytes()
        state[str(path.relative_to(folder))] = content and _KNOWN.setdefault(content, content)
    return state


def restore(state: State) -> None:
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir()
    for name, content in state.items():
        if content is None:
            (HOME / name).mkdir()
        else:
            (HOME / name).write_bytes(content)


@contextmanager
def watched(look: Callable[[], Any]) -> Iterator[None]:
    """Call a function before each operation that changes something, and after files are opened."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in OPERATIONS:
            patch.setattr(owner, name, partial(_watched, getattr(owner, name), name, look))
        yield


def _watched(operation: Any, name: str, look: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
    with _LOCK:
        if not changes(name, args, kwargs):
            return operation(*args, **kwargs)
        look()
        result = operation(*args, **kwargs)
        if name == "open":
            look()
        return result


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


def recorded(work: Callable[[], Any]) -> list[State]:
    """Do the work; return what is there before each of its operations, and at last after them."""
    states: list[State] = []
    with watched(lambda: states.append(on_disk(HOME))):
        work()
    return [*states, on_disk(HOME)]


def left_by_kills(states: list[State]) -> list[State]:
    """Return all different states that a kill may leave, in an order by chance."""
    halves = [half_written(*pair) for pair in pairwise(states)]
    different = {frozenset(state.items()): state for state in [*states, *halves]}
    return random.Random(0).sample([*different.values()], len(different))


def half_written(before: State, after: State) -> State:
    """Return what is there when half of what was written to open files is."""
    half = dict(after)
    for name, new in after.items():
        old = before.get(name)
        if old is not None and new is not None and new.startswith(old):
            half[name] = new[: (len(old) + len(new)) // 2]
    return half


def forked(work: Callable[[], Any]) -> int:
    """Do work in a process of its own, and return its exit status, or minus what killed it."""
    if not (child := os.fork()):
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(number: int, work: Callable[[], Any]) -> None:
    """Do work in a process that is killed before its n-th operation."""
    operations = count()

    def kill() -> None:
        if next(operations) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def doomed() -> None:
        with watched(kill):
            work()

    restore({})
    assert forked(doomed) == -signal.SIGKILL


def results(state: State) -> dict[str, Any]:
    """Return what two runs have alike of what they leave, unfinished files among it."""
    known: dict[str, Any] = {}
    for path, content in state.items():
        name = re.sub(f"{UNFINISHED}[a-z0-9_]*", UNFINISHED, path)
        if "tfevents" in name:
            continue
        known[name] = content if name.endswith((".safetensors", ".ckpt")) else None
        if content and name.endswith(".json"):
            known[name] = comparable(json.loads(content))
    return known


def differing(one: State, other: State) -> list[str]:
    """Return the names of what two runs do not have alike."""
    a, b = results(one), results(other)
    return sorted(name for name in {**a, **b} if a.get(name, 0) != b.get(name, 0))


def comparable(value: Any) -> Any:
    """Return what two runs have alike of their results."""
    if isinstance(value, list):
        return [comparable(part) for part in value]
    if not isinstance(value, dict):
        return value
    kept = {key: part for key, part in value.items() if not any(m in key for m in MEASURED)}
    return {key: comparable(part) for key, part in kept.items()}


def work() -> None:
    """Do what every run does with files, in the order that runs do it."""
    folder = HOME / "run"
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
                write_text(new / "choice.json", json.dumps(text))
        write_json(folder / "report.json", [1])


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_operation(
    exchange: bool, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    restore({})
    states = recorded(work)
    for number in range(0, len(states) - 1, 10):
        kill_at(number, work)
        assert not differing(on_disk(HOME), states[number]), number
    for state in left_by_kills(states):
        restore(state)
        if "run/pruned/network.json" in state:
            load_network(HOME / "run/pruned")  # what is there is whole
        work()
        assert not differing(on_disk(HOME), states[-1])
    assert len(states) > 60


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


def experiment() -> Callable[[], Any]:
    """Return an experiment of one step or epoch each, up to where it looks at its folder."""
    ready: list[Callable[[], Any]] = []
    execute = Run.execute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "execute", lambda *args: ready.append(partial(execute, *args)))
        main(
            [
                "experiment",
                "--config=quickstart.yaml",
                f"--trainer.default_root_dir={HOME / 'run'}",
                "--trainer.enable_progress_bar=false",
                "--chain.held_out=1",
                "--chain.validation=1",
                "--chain.methods=[metanetwork]",
                "--chain.speed_ups=[1.5]",
                f"--chain.images={json.dumps(IMAGES)}",
                f"--chain.overrides={json.dumps(OVERRIDES)}",
            ]
        )
    return ready[0]


def start(work: Callable[[], Any]) -> None:
    """Do what an experiment does before its first stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "run", lambda *_, **__: os._exit(0))
        work()


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
    """Runs that start their first stage from the same go the same way: the first of them goes."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # what other tests have started does not bear a fork
        return run_alone(request.node)
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: Path(path).write_text("drawn"))
    restore({})
    states = recorded(experiment())
    work = experiment()
    for number in random.Random(0).sample(range(len(states) - 1), 10 if ALL else 2):
        kill_at(number, work)
        assert not differing(on_disk(HOME), states[number]), number
    left, starts, wrong = left_by_kills(states), list[dict[str, Any]](), list[str]()
    begun = time.monotonic()
    for number, state in enumerate(left, 1):
        restore(state)
        assert forked(partial(start, work)) == 0
        started = results(on_disk(HOME))
        assert not any(UNFINISHED in name for name in started)
        if started not in starts:
            starts.append(started)
            restore(state)
            assert forked(work) == 0
            wrong += differing(on_disk(HOME), states[-1])
        said = f"{len(states)} moments, {len(left)} states: {number} started, {len(starts)} of them"
        sys.stderr.write(f"{said} from something else and to the end, differing: {wrong}\n")
        if not ALL and time.monotonic() - begun > SECONDS:
            break
    assert len(states) > 200 and not wrong
