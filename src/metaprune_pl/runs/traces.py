"""What every run leaves, also one that came to nothing."""

from collections.abc import Iterable
from pathlib import Path

from metaprune_pl.files import claim

LOCK = ".lock"
"""File that whoever is at a run holds locked."""
CLAIMS = "claims"
"""Folder of the files that those who share a run hold locked."""
TRACES = (
    LOCK,
    f"{CLAIMS}/*",
    "run.json",
    "config.yaml",
    "hparams.yaml",
    "images.json",
    "*.tfevents.*",
)
"""Files of every run, with or without a result."""


def came_to_nothing(paths: Iterable[Path]) -> bool:
    """Whether the files among paths are those of every run: no network, checkpoint or result."""
    files = (path for path in paths if not path.is_dir() or path.is_symlink())
    return all(any(path.match(name) for name in TRACES) for path in files)


def is_held(path: Path) -> bool:
    """Whether another process holds a file locked."""
    with claim(path) as mine:
        return not mine
