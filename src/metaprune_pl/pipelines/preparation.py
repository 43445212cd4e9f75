"""How a network is made ready for pruning, and trained: settings."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import (
    NetworkSource,
)
from metaprune_pl.pipelines.recovery import RepairSettings, Statistics
from metaprune_pl.pruning import (
    ChoiceSettings,
    Importance,
    Magnitude,
    PruningSettings,
    Sparsity,
)
from metaprune_pl.runs.context import Context
from metaprune_pl.stages import BudgetedTraining, Distillation, Finetuning, OptimizerSettings
from metaprune_pl.stages.checks import check_smoothing
from metaprune_pl.stages.finetuning import Keep


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

    def make_trainer(self, context: Context, folder: Path) -> Trainer:
        """Return a Trainer for so many epochs or steps."""
        trainer = context.make_trainer(folder, self.length)
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


@dataclass(frozen=True, kw_only=True)
class BudgetSettings:
    """Training for every budget: half of each batch goes without the least important channels.

    Attributes:
        max_speed_up: Speed-ups are drawn from 1 to this, evenly in their logarithm.
        temperature: How far from the threshold an importance feels the loss, in units of its
            logarithm.
        seed: Seed of the speed-ups.
    """

    max_speed_up: float = 6.0
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 < self.max_speed_up < float("inf") or not 0 < self.temperature < float("inf"):
            raise ConfigError("budgeted: max_speed_up is above 1, and temperature above 0.")


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a network is made ready for pruning, and how it will be pruned.

    Attributes:
        network: Folder of a stored network, or a name: cifar_resnet, torchvision/NAME, timm/NAME, a
            NAME that only one of these knows, or package.module:function of your own.
        arguments: Keyword arguments of the builder that is named.
        state: File of its weights: safetensors, or a state dict of torch.save.
        metanetwork: Folder of a metanetwork (or of several: the last is taken); going without one
            is a control.
        sparsity: Sparsity term of the finetuning, instead of a metanetwork: sparsity learning, a
            control.
        budgeted: Finetuning for every speed-up at once, instead of a metanetwork: another control,
            to which a sparsity term may be added.
        criterion: Which channels matter: Magnitude, Scales, Taylor, Lamp, Random,
            Energy, Elimination, UnitTaylor, or your own.
        pruning: Steps and floors.
        finetune: Finetuning before pruning.
        statistics: Images that batch-norm statistics are re-estimated on after the metanetwork and
            after pruning; `stale` leaves them as they were, as the paper does.
        repair: Images by which the layers of the pruned network learn what they gave before,
            without labels; statistics stay as they are then. None is no repair.
        choice: Several plans are carried out, with what `statistics` and `repair` say, and that of
            the highest validation accuracy is taken; None is the plan of `criterion` and `pruning`.
    """

    network: str
    arguments: dict[str, Any] | None = None
    state: str | None = None
    metanetwork: str | None = None
    sparsity: Sparsity | None = None
    budgeted: BudgetSettings | None = None
    criterion: Importance = field(default_factory=Magnitude)
    pruning: PruningSettings = field(default_factory=PruningSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    statistics: Statistics = "stale"
    repair: RepairSettings | None = None
    choice: ChoiceSettings | None = None

    def __post_init__(self) -> None:
        _ = self.source  # refuses what does not go together
        trained = {"a sparsity term": self.sparsity, "budgeted training": self.budgeted}
        for name, settings in trained.items():
            if settings is not None and self.metanetwork is not None:
                raise ConfigError(
                    f"give a metanetwork or {name} for the finetuning, not both: they are two "
                    "methods."
                )
            if settings is not None and not isinstance(self.criterion, Magnitude):
                raise ConfigError(
                    f"criterion is {type(self.criterion).__name__}; {name} follows Magnitude alone."
                )
        if self.pruning.pruner != "own" and (self.repair is not None or self.choice is not None):
            raise ConfigError(
                "pruning.pruner: depgraph goes without repair and choice, which need our own; set "
                "both to null."
            )

    @property
    def source(self) -> NetworkSource:
        """The network."""
        return NetworkSource(network=self.network, arguments=self.arguments or {}, state=self.state)

    @property
    def training(self) -> Callable[..., Finetuning]:
        """The finetuning before pruning, as a function of its other settings."""
        if self.budgeted is None:
            return Finetuning
        return partial(BudgetedTraining, pruning=self.pruning, **asdict(self.budgeted))
