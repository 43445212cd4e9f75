"""What an experiment measured, and what it cost."""

from dataclasses import dataclass, field, replace

from metaprune_pl.reports.choice import Selection
from metaprune_pl.reports.curves import Curve
from metaprune_pl.reports.masked import Masked
from metaprune_pl.reports.paper import PaperRow
from metaprune_pl.reports.pruned import Pruned


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run costs.

    Attributes:
        seconds: Wall-clock time, those of processes that share the work added up.
        images: Training images, counted each time that one went forward and backward through a
            network.
        host_bytes: Largest resident memory of the main process.
        device_bytes: Largest memory that tensors took on its GPU; 0 without one.
    """

    seconds: float = 0.0
    images: float = 0
    host_bytes: int = 0
    device_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Cost of two runs, one after the other."""
        return Cost(
            seconds=self.seconds + other.seconds,
            images=self.images + other.images,
            host_bytes=max(self.host_bytes, other.host_bytes),
            device_bytes=max(self.device_bytes, other.device_bytes),
        )

    def shared_by(self, networks: int) -> "Cost":
        """Cost for each of so many networks."""
        return replace(self, seconds=self.seconds / networks, images=self.images / networks)


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage of an experiment costs.

    Attributes:
        stage: Which.
        method: Whose; empty for what all metanetworks share.
        once: Whether it is spent once, and not for each network that is pruned.
        cost: How much.
    """

    stage: str
    method: str
    once: bool
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that an experiment measured.

    Attributes:
        curves: One for each held-out network and method.
        pruned: One for each held-out network, method and speed-up.
        masked: One for each held-out network, method and share or pattern.
        choices: The choice of each metanetwork among those of all epochs, by method.
        costs: What each stage costs, once or for each network.
        paper: Rows of the paper's tables that it stands beside.
        tuning: Area under the validation curve of sparsity learning, by its weight.
        on_own: Methods whose metanetwork has learnt from the very network that it prunes.
    """

    curves: list[Curve] = field(default_factory=list)
    pruned: list[Pruned] = field(default_factory=list)
    masked: list[Masked] = field(default_factory=list)
    choices: dict[str, Selection] = field(default_factory=dict)
    costs: list[StageCost] = field(default_factory=list)
    paper: list[PaperRow] = field(default_factory=list)
    tuning: dict[float, float] = field(default_factory=dict)
    on_own: list[str] = field(default_factory=list)

    @property
    def best_weight(self) -> float:
        """Weight of sparsity learning with the largest area, the first of equals."""
        return max(self.tuning, key=self.tuning.__getitem__)

    def add_cost(self, stage: str, method: str, cost: Cost, *, once: bool) -> None:
        """Add what a stage costs."""
        self.costs.append(
            StageCost(
                stage=stage,
                method=method,
                once=once,
                cost=cost,
            )
        )
