"""How long a network is trained, and how: settings of commands that train."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from metaprune_pl.errors import ConfigError
from metaprune_pl.stages.checks import check_smoothing
from metaprune_pl.stages.distillation import Distillation
from metaprune_pl.stages.finetuning import Finetuning, Keep
from metaprune_pl.stages.optimizers import OptimizerSettings


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How long a network is trained, and how.

    Attributes:
        epochs: Length in passes over the images; 0 leaves the step out.
        steps: Length in optimiser steps, in place of epochs.
        optimizer: Optimiser and learning rate.
    """

    epochs: int = 10
    steps: int | None = None
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(lr=0.01))

    def __post_init__(self) -> None:
        if self.epochs < 0 or (self.steps is not None and self.steps < 0):
            raise ConfigError(f"epochs {self.epochs} and steps {self.steps} are at least 0.")

    @property
    def length(self) -> int:
        """Largest number of epochs: a step is the shortest."""
        return self.epochs if self.steps is None else self.steps

    def images(self, step: int, epoch: int) -> int:
        """Return how many images it takes, where a step and an epoch take so many."""
        return self.epochs * epoch if self.steps is None else self.steps * step

    def make_trainer(self, make: Callable[[Path, int | None], Trainer], folder: Path) -> Trainer:
        """Return a Trainer for so many epochs or steps.

        Args:
            make: Makes a Trainer for a folder and a number of epochs.
            folder: Where the training's files go.
        """
        trainer = make(folder, self.length)
        if self.steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = self.steps
        return trainer


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """An ordinary training of a classifier that was trained before.

    Attributes:
        epochs: Length in passes over the images; 0 leaves the step out.
        steps: Length in optimiser steps, in place of epochs.
        optimizer: Optimiser and learning rate.
        label_smoothing: Share of the label spread over the other classes.
        distillation: What the network learns from the scores of the one that was given; None is
            nothing.
        keep: Which weights are kept: those of the `last` step, or those of the epoch with the
            `best` accuracy on the validation images.
    """

    label_smoothing: float = 0.0
    distillation: Distillation | None = None
    keep: Keep = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_smoothing(self.label_smoothing)

    def build(
        self,
        network: Path,
        teacher: Path,
        kind: Callable[..., Finetuning] = Finetuning,
        **others: Any,
    ) -> Finetuning:
        """Return the training of a stored network.

        Args:
            network: Folder of the network.
            teacher: Folder of the network that it learns from, where the settings say so.
            kind: Class of the training.
            others: Further settings of the training.
        """
        return kind(
            network=str(network),
            optimizer=self.optimizer,
            label_smoothing=self.label_smoothing,
            teacher=None if self.distillation is None else str(teacher),
            distillation=self.distillation or Distillation(),
            keep=self.keep,
            **others,
        )


RECIPE = FinetuneSettings(
    optimizer=OptimizerSettings(lr=0.03, schedule="cosine", interval="step", warm_up=20),
    distillation=Distillation(),
    keep="best",
)
"""What kept most accuracy of pruned networks."""
