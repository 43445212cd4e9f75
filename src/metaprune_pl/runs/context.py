"""Where a command runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import torch

from metaprune_pl.errors import ConfigError
from metaprune_pl.reports.events import Events
from metaprune_pl.reports.writing import write_result
from metaprune_pl.stages.trainer import StageTrainer, is_main_process

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a command runs.

    Attributes:
        folder: The run's folder.
        device: Device of everything that is not a fit.
        make_trainer: Makes a fresh Trainer for a fit, given its folder and number of epochs.
        is_global_zero: Whether this process writes files.
        broadcast: Gives all processes of a run the main one's value, which they wait for.
        max_epochs: Length of a training whose command has no epochs among its own settings.
        seed: Seed of all generators; False seeds none.
        hardware: Settings of the Trainer that a command which runs others gives to them.
        events: Where TensorBoard's events go.
        is_rehearsal: Whether fits take a few batches only, and nothing is kept.
        is_part: Whether the command is a part of a larger one, which has the word.
        closing: What a person reads last, below the result.
    """

    folder: Path
    device: torch.device
    make_trainer: Callable[[Path, int | None], StageTrainer]
    events: Events
    is_global_zero: bool = True
    broadcast: Callable[[Any], Any] = field(default=lambda value: value)
    max_epochs: int | None = None
    seed: int | bool = False
    hardware: Mapping[str, Any] = field(default_factory=dict)
    is_rehearsal: bool = False
    is_part: bool = False
    closing: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, trainer: StageTrainer, *, seed: int | bool = False, is_part: bool = False) -> Self:
        """Return the context of a Trainer: its folder and device.

        Args:
            trainer: The Trainer.
            seed: Seed that all generators have; False is none.
            is_part: Whether the command is a part of a larger one.
        """
        folder = trainer.run_folder
        is_rehearsal = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        if is_rehearsal:
            trainer.events = Events.of(folder)
        return cls(
            folder=folder,
            device=trainer.strategy.root_device,
            make_trainer=trainer.for_stage,
            events=trainer.events,
            is_global_zero=is_main_process(),
            broadcast=trainer.broadcast,
            max_epochs=trainer.max_epochs,
            seed=seed,
            hardware=trainer.hardware,
            is_rehearsal=is_rehearsal,
            is_part=is_part,
        )

    def barrier(self) -> None:
        """Wait until the main process is here."""
        self.broadcast(None)

    def write(self, result: T) -> T:
        """Write a result to the run's folder, once for all processes, and return it."""
        if self.is_global_zero:
            write_result(result, self.folder, self.events)
        return result

    def refuse_rehearsal(self, command: str) -> None:
        """Refuse to run stages that keep nothing, since one needs what another has made.

        Raises:
            ConfigError: The Trainer has `fast_dev_run`.
        """
        if self.is_rehearsal:
            raise ConfigError(
                f"trainer.fast_dev_run has no effect on {command}: run its stages with it, one by "
                "one."
            )
