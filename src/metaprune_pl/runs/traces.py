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
FINISHED = ("result.json", "metanetwork.json", "network/network.json", "networks/*/network.json")
"""Files of what a run has finished on its way."""


def came_to_nothing(paths: Iterable[Path]) -> bool:
    """Whether the files among paths are those of every run: no network, checkpoint or result.

    A folder in the place of a report counts as one.
    """
    files = (
        path for path in paths if not path.is_dir() or path.is_symlink() or path.suffix == ".json"
    )
    return all(any(path.match(name) for name in TRACES) for path in files)


def finished_nothing(paths: Iterable[Path]) -> bool:
    """Whether nothing among paths is a result, or a network or metanetwork that was trained."""
    return not any(path.match(name) for path in paths for name in FINISHED)


def is_held(path: Path) -> bool:
    """Whether another process holds a file locked."""
    with claim(path) as mine:
        return not mine
