"""Mutated networks, metanetworks, states and runs: each is read, or refused in one line.

No code runs, nothing hangs, and no file is touched. `METAPRUNE_FUZZ=500` tries as many mutations
of each instead of a few; `pytest -l` shows the seed of one that fails.
"""

import json
import os
import random
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import random_resnet
from metaprune_pl.errors import LONGEST, MetapruneError
from metaprune_pl.files import write_json
from metaprune_pl.metanetworks import PNAMetanetwork, load_metanetwork, save_metanetwork
from metaprune_pl.networks import NetworkCard, NetworkSettings, load_network, save_network
from metaprune_pl.networks.states import load_state, read_state
from metaprune_pl.runs.run_folder import RunFolder

MUTATIONS = int(os.environ.get("METAPRUNE_FUZZ", "60"))
ARGUMENTS = {"depth": 8, "width": 4, "num_classes": 10, "in_channels": 3}
CANARY = "canary_of_the_fuzzer"
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    2**31,
    2**63,
    10**40,
    float("nan"),
    float("inf"),
    "",
    "x" * 100_000,
    "\0",
    "../..",
    f"{CANARY}:build",
    f"{CANARY}.Build",
    "os:system",
    [],
    {},
    [[[[]]]],
    {"": {"": None}},
    [2**40, 2**40],
]


def make_network(folder: Path) -> None:
    card = NetworkCard(settings=NetworkSettings(arguments=ARGUMENTS), input_shape=(3, 8, 8))
    save_network(folder, random_resnet(), card)


def make_metanetwork(folder: Path) -> None:
    save_metanetwork(folder, PNAMetanetwork(layers=1, hidden=4), {"epoch": 1})


def make_state(folder: Path) -> None:
    folder.mkdir()
    torch.save({"state_dict": random_resnet().state_dict()}, folder / "state.pt")


def make_run(folder: Path) -> None:
    with RunFolder(folder, "prune", "key").running("a: {b: 1}\n"):
        write_json(folder / "fit" / "images.json", 100)
        write_json(folder / "report.json", [1])
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace("true", "false"))
    (folder / ".lock").unlink()


def read_run(folder: Path) -> None:
    run = RunFolder(folder, "prune", "other")
    assert run.foreign or not run.finished
    with pytest.raises(MetapruneError) as caught:
        run.running("a: {b: 2}\n").__enter__()
    raise caught.value


def read_a_state(folder: Path) -> None:
    network = random_resnet()
    load_state(network, read_state(folder / "state.pt", network))


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "network": (make_network, load_network),
    "metanetwork": (make_metanetwork, load_metanetwork),
    "state": (make_state, read_a_state),
    "run": (make_run, read_run),
}


def mutate(folder: Path, rng: random.Random) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    if path.suffix == ".json" and rng.random() < 0.7:
        data = mutated_json(json.loads(path.read_text()), rng)
        path.write_text(json.dumps(data))
    elif path.suffix == ".pt" and rng.random() < 0.5:
        mutate_archive(path, rng)
    elif rng.random() < 0.8:
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    else:
        exchange(path, rng.randrange(5))


def mutated_json(data: Any, rng: random.Random) -> Any:
    """Exchange, remove or add a value, at any depth."""
    if isinstance(data, dict | list) and data and rng.random() < 0.75:
        keys = list(data) if isinstance(data, dict) else list(range(len(data)))
        key = rng.choice(keys)
        way = rng.random()
        if way < 0.15:
            del data[key]
        elif way < 0.25 and isinstance(data, dict):
            data[str(rng.choice(VALUES))[:50]] = data[key]
        else:
            data[key] = mutated_json(data[key], rng)
        return data
    return rng.choice(VALUES)


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    new, at = bytearray(data), rng.randrange(len(data) or 1)
    if rng.random() < 0.3:  # headers are at the beginning
        at = rng.randrange(min(len(data), 64) or 1)
    way = rng.randrange(5)
    if way == 0:
        return bytes(new[:at])
    if way == 1:
        new[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, b"[" * 50_000])
    elif way == 2:
        new[at:at] = rng.randbytes(8)
    elif way == 3:
        del new[at : at + rng.choice([1, 8])]
    else:
        new[at : at + 1] = rng.randbytes(1)
    return bytes(new)


def mutate_archive(path: Path, rng: random.Random) -> None:
    """Change one file within the archive that `torch.save` writes."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([*parts, *(part for part in parts if part.endswith("data.pkl"))])
    parts[name] = mutated_bytes(parts[name] or b"x", rng)
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)


def exchange(path: Path, way: int) -> None:
    """Put something else in a file's place."""
    path.unlink()
    if way == 0:
        os.mkfifo(path)
    elif way == 1:
        path.symlink_to("/dev/zero")
    elif way == 2:
        path.mkdir()
    elif way == 3:
        path.touch()
        os.truncate(path, 2**40)  # sparse: it takes no space


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    facts = {path: path.lstat() for path in folder.rglob("*")}
    return {str(path): (fact.st_mtime_ns, fact.st_size) for path, fact in facts.items()}


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("kind", KINDS)
def test_mutations(kind: str, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, read = KINDS[kind]
    make(Path("made"))
    Path(f"{CANARY}.py").write_text(f"open({str(workdir / 'ran')!r}, 'w')")
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("a shell ran"))
    refused = 0
    for seed in range(MUTATIONS):
        shutil.rmtree("mutant", ignore_errors=True)
        shutil.copytree("made", "mutant")
        mutate(Path("mutant"), random.Random(seed))
        before = listing(workdir)
        try:
            read(Path("mutant"))
        except MetapruneError as error:
            refused += 1
            assert "\n" not in str(error).strip(), seed
            assert len(str(error)) <= LONGEST + 4, seed
        assert listing(workdir) == before, seed
    assert not Path("ran").exists() and CANARY not in sys.modules
    assert refused > MUTATIONS // 4
