"""Baselines that an experiment compares with, each a way to prune that any run can take."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from metaprune_pl.pruning import Elimination, Importance, Lamp, Magnitude, Random, Scales, Taylor
from metaprune_pl.pruning.recovery import RepairSettings
from metaprune_pl.stages.budgeted_training import BudgetSettings
from metaprune_pl.stages.preparation import PRUNING


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """How a baseline prunes.

    Attributes:
        criterion: Which channels matter.
        pruner: Who prunes: see `PruningSettings`.
        repair: What follows pruning without labels or training: see `Preparation`.
        budgeted: Finetuning before pruning for every speed-up: see `Preparation`.
        rounds: Rounds of pruning and training.
        rewind: Whether weights are rewound after each round.
        balance: Whether the scales of channels are balanced before pruning.
        untrained: Whether it prunes the network as it was before any training, and then trains it
            as the data models were. There is no curve of a network that is not trained.
    """

    criterion: Importance
    pruner: Literal["own", "depgraph"] = "own"
    repair: RepairSettings | None = None
    budgeted: BudgetSettings | None = None
    rounds: int = 1
    rewind: bool = True
    balance: bool = False
    untrained: bool = False

    @property
    def has_curve(self) -> bool:
        """Whether one network is pruned to all targets, as on a curve."""
        return self.rounds == 1 and not self.untrained

    def overrides(self, uniform: bool, *, masks: bool) -> dict[str, dict[str, Any]]:
        """Return the settings of stages that make it; masks rank weights in place of channels."""
        criterion = {
            "class_path": type(self.criterion).__name__,
            "init_args": asdict(self.criterion),
        }
        ranking = "masks.ranking" if masks else "pruning.ranking"
        shared: dict[str, Any] = {
            "criterion": criterion,
            ranking: "uniform" if uniform else "global",
            "balance": self.balance,
        }
        if self.pruner != "own":
            step = {"pruning.step": 0.005}  # it takes all of a step, and may overshoot
            shared |= {"pruning.pruner": self.pruner, "repair": None, "choice": None, **step}
        if self.repair is not None:
            floor = {"pruning.step": PRUNING.step, "pruning.max_ratio": PRUNING.max_ratio}
            shared |= {"repair": asdict(self.repair), **floor}
        budgeted = {} if self.budgeted is None else {"budgeted": asdict(self.budgeted)}
        rounds = {"rounds": self.rounds, "rewind": self.rewind}
        return {"curve": shared | budgeted, "prune": shared | rounds}


BASELINES: Mapping[str, Baseline] = {
    "random": Baseline(criterion=Random(normalize="none")),
    "magnitude_l1": Baseline(criterion=Magnitude(p=1.0, normalize="mean")),
    "magnitude_l2": Baseline(criterion=Magnitude(p=2.0, normalize="mean")),
    "batch_norm_scale": Baseline(criterion=Scales(p=1.0, normalize="none")),
    "taylor": Baseline(criterion=Taylor(p=1.0, normalize="mean")),
    "lamp": Baseline(criterion=Lamp()),
    "iterative_magnitude": Baseline(criterion=Magnitude(p=1.0, normalize="mean"), rounds=3),
    "iterative_magnitude_trained": Baseline(
        criterion=Magnitude(p=1.0, normalize="none"), rounds=5, rewind=False
    ),
    "balanced_magnitude": Baseline(criterion=Magnitude(p=1.0, normalize="none"), balance=True),
    "repair": Baseline(criterion=Elimination(), repair=RepairSettings()),
    "budgeted": Baseline(criterion=Magnitude(), budgeted=BudgetSettings()),
    "depgraph": Baseline(criterion=Magnitude(), pruner="depgraph"),
    "snip": Baseline(criterion=Taylor(p=1.0, normalize="none"), untrained=True),
    "snip_trained": Baseline(criterion=Taylor(p=1.0, normalize="none")),
}
"""Name of a method to what it does. With `_uniform` behind it, each group loses the same share of
its channels.

Scores are normalised as torch-pruning does by default, but those of norm scales, SNIP, balanced and
iteratively trained magnitudes, which are ranked over the whole network as they are. The group norm
without anything else is the method `none`, and sparsity learning `sparsity_learning`."""

UNIFORM = "_uniform"


def baseline(method: str) -> Baseline | None:
    """Return the baseline of a name, ranked globally or uniformly; None for other methods."""
    return BASELINES.get(method.removesuffix(UNIFORM))
