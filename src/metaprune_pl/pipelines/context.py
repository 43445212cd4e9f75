"""Where a command runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import Trainer, seed_everything

from metaprune_pl.stages.trainer import StageTrainer, is_main_process


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

    @classmethod
    def of(cls, trainer: StageTrainer) -> Self:
        """Return the context of a Trainer: its folder and device."""
        return cls(
            folder=trainer.run_folder,
            device=trainer.strategy.root_device,
            make_trainer=trainer.for_stage,
            is_global_zero=is_main_process(),
            broadcast=trainer.broadcast,
        )

    @classmethod
    def create(cls, folder: str | Path, *, seed: int = 0, **settings: Any) -> Self:
        """Return a context for a notebook or script, after all generators are seeded.

        Args:
            folder: Where files go.
            seed: Of all generators.
            settings: Those of Lightning's Trainer, such as `accelerator="gpu"`.
        """
        seed_everything(seed, workers=True, verbose=False)
        return cls.of(StageTrainer(default_root_dir=str(folder), **settings))

    def barrier(self) -> None:
        """Wait until the main process is here."""
        self.broadcast(None)
