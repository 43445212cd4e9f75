"""Which network is pruned, and how it is made ready for that."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import NetworkSource
from metaprune_pl.pruning import (
    ChoiceSettings,
    Elimination,
    Importance,
    Magnitude,
    PruningSettings,
    Sparsity,
)
from metaprune_pl.pruning.pruner import Measured, Pruner
from metaprune_pl.pruning.recovery import RepairSettings, Statistics, StatisticsSettings
from metaprune_pl.stages.accuracy import accuracy
from metaprune_pl.stages.budgeted_training import BudgetedTraining, BudgetSettings
from metaprune_pl.stages.finetuning import Finetuning
from metaprune_pl.stages.samples import measured_images, training_recovery
from metaprune_pl.stages.training_settings import RECIPE, FinetuneSettings

PRUNING = PruningSettings(step=1.0, max_ratio=0.9)
"""One ranking, and no layer that collapses."""
BEFORE = replace(RECIPE, epochs=0, keep="last")
"""No finetuning before pruning: all of it comes after."""


@dataclass(frozen=True, kw_only=True)
class InitialPruning:
    """Pruning of a trained network before a metanetwork sees it (paper, C.2).

    Attributes:
        speed_up: Multiply-accumulates of the unpruned network over those of the result.
        criterion: Which channels matter.
        pruning: Steps and floors.
        finetune: Finetuning after it.
    """

    speed_up: float
    criterion: Importance = field(default_factory=Magnitude)
    pruning: PruningSettings = field(default_factory=PruningSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)

    def __post_init__(self) -> None:
        if not 1 < self.speed_up < math.inf:
            raise ConfigError(
                f"initial.speed_up is {self.speed_up:g}; it is finite and above 1. Leave `initial` "
                "out for none."
            )


@dataclass(frozen=True, kw_only=True)
class PrunedSource(NetworkSource):
    """Which network is pruned, and what goes with that.

    Attributes:
        metanetwork: Folder of a metanetwork (or of several: the last is taken); going without one
            is a control.
        pruning: Steps and floors.
        statistics: Images that batch-norm statistics are re-estimated on after the metanetwork and
            after pruning; `stale` leaves them as they were, as the paper does.
        repair: Images by which layers of the pruned network learn what they gave before.
    """

    metanetwork: str | None = None
    pruning: PruningSettings = PRUNING
    statistics: Statistics = field(default_factory=StatisticsSettings)
    repair: RepairSettings | None = field(default_factory=RepairSettings)


@dataclass(frozen=True, kw_only=True)
class Preparation(PrunedSource):
    """How a classifier is made ready for pruning, and how it will be pruned.

    Attributes:
        initial: Pruning and finetuning of the network as given, before everything else; None is
            none.
        sparsity: Sparsity term of the finetuning, instead of a metanetwork: sparsity learning, a
            control.
        budgeted: Finetuning for every speed-up at once, instead of a metanetwork: another control,
            to which a sparsity term may be added.
        criterion: Which channels matter: Magnitude, Scales, Taylor, Lamp, Random, Energy,
            Elimination, UnitTaylor, or your own; None is Elimination, and Magnitude for masks and
            with `sparsity` or `budgeted`.
        balance: Balance the scales of channels before pruning.
        finetune: Finetuning before pruning.
        choice: Several plans are carried out, and that of the highest validation accuracy is taken;
            None is the plan of `criterion` and `pruning`.
    """

    initial: InitialPruning | None = None
    sparsity: Sparsity | None = None
    budgeted: BudgetSettings | None = None
    criterion: Importance | None = None
    balance: bool = False
    finetune: FinetuneSettings = BEFORE
    choice: ChoiceSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        trained = {"a sparsity term": self.sparsity, "budgeted training": self.budgeted}
        for name, settings in trained.items():
            if settings is not None and self.metanetwork is not None:
                raise ConfigError(
                    f"give a metanetwork or {name} for the finetuning, not both: they are two "
                    "methods."
                )
            if settings is not None and not isinstance(self.importance(), Magnitude):
                raise ConfigError(
                    f"criterion is {type(self.criterion).__name__}; {name} follows Magnitude alone."
                )
            if settings is not None and not self.finetune.length:
                raise ConfigError(f"{name} is part of the finetuning: set finetune.epochs above 0.")
        if self.pruning.pruner != "own" and (self.repair is not None or self.choice is not None):
            raise ConfigError(
                "pruning.pruner: depgraph goes without repair and choice, which need our own; set "
                "both to null."
            )

    def importance(self, *, masks: bool = False) -> Importance:
        """Return the criterion, or the one that goes with the other settings.

        Args:
            masks: Whether single weights are ranked.
        """
        if self.criterion is not None:
            return self.criterion
        followed = self.sparsity is not None or self.budgeted is not None
        return Magnitude() if masks or followed else Elimination()

    @property
    def method(self) -> str | None:
        """What makes the network ready, as reports call it; None where nothing does."""
        steps = {
            "metanetwork": self.metanetwork,
            "budgeted": self.budgeted,
            "sparsity_learning": self.sparsity,
        }
        return next((name for name, settings in steps.items() if settings is not None), None)

    def pruner(
        self,
        data: ImageDataModule,
        device: torch.device,
        broadcast: Callable[[Any], Any],
        *,
        masks: bool = False,
        finetuning: int = 0,
    ) -> Pruner:
        """Return how the network is pruned, by its images.

        Args:
            data: The images.
            device: Where the network is.
            broadcast: Gives all processes of a run the main one's value.
            masks: Whether single weights become zero.
            finetuning: Training images that follow for each target.
        """
        settings, choice = self.choice, None
        if settings is not None:
            sample = partial(data.sample, "validation", settings.images)
            choice = Measured(
                settings=settings,
                limit=settings.limit(finetuning, self._recovered),
                score=lambda network: accuracy(network, data, "validation", device, sample()),
                broadcast=broadcast,
            )
        return Pruner(
            criterion=self.importance(masks=masks),
            images=partial(measured_images, data, device),
            recovery=training_recovery(data, device, self.statistics, self.repair),
            choice=choice,
            balance=self.balance,
        )

    @property
    def _recovered(self) -> int:
        """Images that a pruned network is repaired by, or that its statistics are of."""
        if self.repair is not None:
            return self.repair.images
        return 0 if self.statistics == "stale" else self.statistics.images

    def training(self, network: Path, teacher: Path) -> Finetuning:
        """Return the finetuning of a network before pruning: see `FinetuneSettings.build`."""
        kind: Callable[..., Finetuning] = Finetuning
        if self.budgeted is not None:
            kind = partial(BudgetedTraining, pruning=self.pruning, **asdict(self.budgeted))
        criterion = self.importance()
        return self.finetune.build(
            network,
            teacher,
            kind,
            sparsity=self.sparsity,
            criterion=criterion if isinstance(criterion, Magnitude) else Magnitude(),
            attention=self.pruning.attention,
        )
