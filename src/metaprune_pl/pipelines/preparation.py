"""How a network is made ready for pruning: settings."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

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
from metaprune_pl.pruning.recovery import RepairSettings, Statistics, StatisticsSettings
from metaprune_pl.stages import BudgetedTraining, Finetuning
from metaprune_pl.stages.budgeted_training import BudgetSettings
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
class PrunedSource:
    """Which network is pruned, and what goes with that.

    Attributes:
        network: Folder of a stored network, or a name: cifar_resnet, torchvision/NAME, timm/NAME, a
            NAME that only one of these knows, or package.module:function of your own.
        arguments: Keyword arguments of the builder that is named.
        state: File of its weights: safetensors, or a state dict of torch.save.
        metanetwork: Folder of a metanetwork (or of several: the last is taken); going without one
            is a control.
        pruning: Steps and floors.
        statistics: Images that batch-norm statistics are re-estimated on after the metanetwork and
            after pruning; `stale` leaves them as they were, as the paper does.
        repair: Images by which layers of the pruned network learn what they gave before.
    """

    network: str
    arguments: dict[str, Any] | None = None
    state: str | None = None
    metanetwork: str | None = None
    pruning: PruningSettings = PRUNING
    statistics: Statistics = field(default_factory=StatisticsSettings)
    repair: RepairSettings | None = field(default_factory=RepairSettings)

    @property
    def source(self) -> NetworkSource:
        """The network."""
        return NetworkSource(network=self.network, arguments=self.arguments or {}, state=self.state)


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
        _ = self.source  # refuses what does not go together
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
    def recovered(self) -> int:
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
