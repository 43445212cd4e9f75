"""Configs that come with the program. Imports nothing heavy, for `--help`."""

import os
from pathlib import Path

from metaprune_pl.errors import StorageError, did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")  # installed; in a checkout


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configs by name."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {path.name: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find_config(name: str) -> Path:
    """Return the path of a config: a file, or else a shipped config or part of that name.

    Raises:
        StorageError: There is neither.
    """
    for path in (Path(name), *(folder / name for folder in _FOLDERS)):
        if os.path.isfile(path):  # unlike Path's, false for what can be no name
            return path
    hint = did_you_mean(name, shipped_configs())
    listed = "`metaprune --help` says where the shipped ones are."
    raise StorageError(f"no config '{name}': no such file.{hint} {listed}")
