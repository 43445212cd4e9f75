"""Networks of any task pruned to speed-ups."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import nn

from metaprune_pl.pruning import Target, Unpruned, count_macs
from metaprune_pl.pruning.targets import ChannelTarget, PrunedNetwork
from metaprune_pl.reports.exactness import Exactness, in_row
from metaprune_pl.reports.result import Result
from metaprune_pl.reports.text import Grid, count


@dataclass(frozen=True, kw_only=True)
class PrunedTask(Result):
    """One network pruned to one target, measured by the metric of its task on the test examples.

    Attributes:
        network: Name of the network.
        task: Class of its task.
        target: Speed-up asked for.
        speed_up: Speed-up reached.
        macs: Multiply-accumulates for one input.
        parameters: Number of parameters.
        metric_given: Of the network as it was given.
        metric_pruned: Straight after pruning.
        metric_finetuned: After pruning and finetuning.
        exactness: What was compared with the masked original; None where another pruner ran.
    """

    network: str
    task: str
    target: float
    speed_up: float
    macs: int
    parameters: int
    metric_given: float
    metric_pruned: float
    metric_finetuned: float
    exactness: Exactness | None = None

    @classmethod
    def of(
        cls,
        target: Target,
        unpruned: Unpruned,
        pruned: PrunedNetwork,
        final: nn.Module,
        **measured: Any,
    ) -> Self:
        """Return the result of what is pruned, a network or a part of one: see `Pruned.of`."""
        assert isinstance(target, ChannelTarget)
        return cls(
            target=target.speed_up(unpruned),
            speed_up=target.reached(unpruned, final),
            macs=count_macs(final, unpruned.example_for(final)),
            exactness=Exactness.of(pruned),
            **measured,
        )

    @property
    def name(self) -> str:
        """Name of this result among those of a run."""
        return f"speed_up_{self.target:g}"

    @property
    def record(self) -> dict[str, Any]:
        """What the stored network remembers of it."""
        return {"speed_up": self.speed_up, "test_metric": self.metric_finetuned}

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was asked for, for TensorBoard."""
        return {"task": self.task, "network": self.network, "target": self.target}

    @property
    def axis(self) -> float:
        """Speed-up."""
        return self.speed_up

    @property
    def values(self) -> Mapping[str, float]:
        """What came out, for TensorBoard."""
        return {"speed_up": self.speed_up, "metric_finetuned": self.metric_finetuned}

    def row(self) -> dict[str, Any]:
        """Return this result's row of a table on disk."""
        return in_row(asdict(self), self.exactness)

    @classmethod
    def table(cls, results: Sequence[Self]) -> Grid:
        """Return the table of one network's targets for the console."""
        steps = ["as given", "pruned", "finetuned"]
        rows = [
            (
                f"{result.target:g}x",
                f"{result.speed_up:.2f}x",
                count(result.macs),
                count(result.parameters),
                f"{result.metric_given:.4f}",
                f"{result.metric_pruned:.4f}",
                f"{result.metric_finetuned:.4f}",
            )
            for result in results
        ]
        title = f"{results[0].network}, {results[0].task}: test metric"
        return Grid(title, ["target", "reached", "MACs", "parameters", *steps], rows)

    @classmethod
    def notes(cls, results: Sequence[Self]) -> list[str]:
        """Say what was compared for the furthest target."""
        furthest = results[-1].exactness
        return [] if furthest is None else furthest.sentences()
