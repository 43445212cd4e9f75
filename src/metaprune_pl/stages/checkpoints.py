"""Checkpoints that appear whole or not at all, and that load without unpickling code."""

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from metaprune_pl.errors import StorageError
from metaprune_pl.files import check_file, whole_file
from metaprune_pl.networks.bounds import memory
from metaprune_pl.networks.states import DAMAGED, check_unpacked

_KEYS = {"epoch", "global_step", "state_dict"}
_AGAIN = "Train again in a new folder, or remove this file."


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, and that load without unpickling code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write beside the target and rename.

        Raises:
            StorageError: The file cannot be written.
        """
        try:
            with whole_file(Path(path)) as new:
                torch.save(checkpoint, new)
        except RuntimeError as error:  # what its writer in C++ makes of a full disk
            raise StorageError(
                f"cannot write '{path}': {error}. Free some space; the same command then continues."
            ) from error

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read tensors and plain values only.

        Raises:
            StorageError: The file is missing, damaged, or holds more than tensors and plain values.
        """
        file = Path(path)
        if not file.exists():
            raise StorageError(f"no checkpoint {path}.")
        check_file(file, memory())
        try:
            check_unpacked(file, file.stat().st_size)  # it is stored without compression
            checkpoint = torch.load(file, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise StorageError(
                f"{path} is no checkpoint of tensors only; it is not loaded. {_AGAIN}"
            ) from error
        except (OSError, *DAMAGED) as error:
            raise StorageError(f"{path} is damaged. {_AGAIN}") from error
        if not isinstance(checkpoint, dict) or not _KEYS <= checkpoint.keys():
            raise StorageError(f"{path} is no checkpoint of a training. {_AGAIN}")
        return checkpoint
