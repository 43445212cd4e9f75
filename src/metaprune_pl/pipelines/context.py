"""Where a command runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a command runs.

    Attributes:
        folder: The run's folder.
        device: Device of everything that is not a fit.
        make_trainer: Makes a fresh Trainer for a fit, given its folder and number of epochs.
        is_global_zero: Whether this process writes files.
        broadcast: Gives all processes of a run the main one's value, which they wait for.
    """

    folder: Path
    device: torch.device
    make_trainer: Callable[[Path, int], Trainer]
    is_global_zero: bool = True
    broadcast: Callable[[Any], Any] = field(default=lambda value: value)

    def barrier(self) -> None:
        """Wait until the main process is here."""
        self.broadcast(None)
