"""A checkpoint is read whole, or refused in one line; it is never larger than its file."""

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from metaprune_pl.errors import StorageError
from metaprune_pl.stages.checkpoints import WholeFileCheckpointIO

FILE = Path("last.ckpt")
CHECKPOINT = {"epoch": 1, "global_step": 2, "loops": {}, "state_dict": {"w": torch.ones(1000)}}


def read() -> dict[str, Any]:
    return WholeFileCheckpointIO().load_checkpoint(FILE)


def refused(said: str) -> None:
    with pytest.raises(StorageError, match=said) as caught:
        read()
    assert "\n" not in str(caught.value)


def test_round_trip(workdir: Path) -> None:
    WholeFileCheckpointIO().save_checkpoint(CHECKPOINT, FILE)
    assert read()["state_dict"]["w"].equal(CHECKPOINT["state_dict"]["w"])  # type: ignore[index]


def test_what_unpacks_to_more_than_the_file_has(workdir: Path) -> None:
    torch.save({**CHECKPOINT, "bomb": torch.zeros(10**7)}, "large")
    with zipfile.ZipFile("large") as large, zipfile.ZipFile(FILE, "w") as small:
        for name in large.namelist():
            small.writestr(name, large.read(name), zipfile.ZIP_DEFLATED)
    assert FILE.stat().st_size < 10**6
    refused(r"last\.ckpt' unpacks to \d+ bytes, and \d+ at most are expected")


def test_a_file_that_is_cut_or_changed(workdir: Path) -> None:
    torch.save(CHECKPOINT, FILE)
    whole = FILE.read_bytes()
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        FILE.write_bytes(whole[:cut])
        refused(r"last\.ckpt is (damaged|no checkpoint)")
    FILE.write_bytes(b"\xff" * 1000)
    refused(r"last\.ckpt is (damaged|no checkpoint)")


@pytest.mark.parametrize("other", [[1], {}, {"state_dict": {}}, torch.zeros(1)])
def test_what_is_no_checkpoint(other: Any, workdir: Path) -> None:
    torch.save(other, FILE)
    refused(r"last\.ckpt is no checkpoint of a training")


def test_no_file_a_folder_and_a_pipe(workdir: Path) -> None:
    refused(r"no checkpoint last\.ckpt")
    os.mkfifo(FILE)
    refused("it is no ordinary file")
    FILE.unlink()
    FILE.mkdir()
    refused("it is no ordinary file")
