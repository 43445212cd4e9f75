"""Networks pruned to speed-ups."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from rich.table import Table

from metaprune_pl.reports.result import Result
from metaprune_pl.reports.text import count, percent, text_table


@dataclass(frozen=True, kw_only=True)
class Pruned(Result):
    """One network pruned to one target.

    Attributes:
        network: Name of the network.
        method: `none`, `sparsity_learning` or `metanetwork`.
        target: Speed-up asked for.
        speed_up: Speed-up reached: multiply-accumulates of the unpruned network over those of this
            one.
        macs: Multiply-accumulates for one image.
        parameters: Number of parameters.
        accuracy_given: Test accuracy of the network as it was given.
        accuracy_before: Test accuracy straight before pruning.
        accuracy_pruned: Test accuracy straight after pruning, and after the re-estimate of
            statistics or the repair that belong to it.
        accuracy_finetuned: Test accuracy after pruning and finetuning.
        accuracy_stale: Test accuracy straight after pruning without these; None where there
            are none.
        plan: Plan that was chosen among several; None where there was one.
        latency: Measured milliseconds of a forward pass, by number of images in it.
        latency_unpruned: The same of the unpruned network in the same run.
    """

    network: str
    method: str
    target: float
    speed_up: float
    macs: int
    parameters: int
    accuracy_given: float
    accuracy_before: float
    accuracy_pruned: float
    accuracy_finetuned: float
    accuracy_stale: float | None = None
    plan: str | None = None
    latency: Mapping[str, float] = field(default_factory=dict)
    latency_unpruned: Mapping[str, float] = field(default_factory=dict)

    @property
    def accuracies(self) -> dict[str, float]:
        """Test accuracies in the order of the pipeline, by the name of the step."""
        stale = {} if self.accuracy_stale is None else {"stale": self.accuracy_stale}
        return {
            "as given": self.accuracy_given,
            "before": self.accuracy_before,
            **stale,
            "pruned": self.accuracy_pruned,
            "finetuned": self.accuracy_finetuned,
        }

    @property
    def name(self) -> str:
        """Name of this result among those of a run."""
        return f"speed_up_{self.target:g}"

    @property
    def record(self) -> dict[str, Any]:
        """What the stored network remembers of it."""
        return {"speed_up": self.speed_up, "test_accuracy": self.accuracy_finetuned}

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was asked for, for TensorBoard."""
        return {"method": self.method, "network": self.network, "target": self.target}

    @property
    def values(self) -> Mapping[str, float]:
        """What came out, for TensorBoard."""
        return {
            "speed_up": self.speed_up,
            "accuracy_pruned": self.accuracy_pruned,
            "accuracy_finetuned": self.accuracy_finetuned,
        }

    def row(self) -> dict[str, Any]:
        """Return this result's row of a table on disk, a column for each measured time."""
        row = asdict(self)
        for name in ("latency", "latency_unpruned"):
            times = row.pop(name)
            row |= {f"{name}_batch_{size}_ms": value for size, value in times.items()}
        return row

    @classmethod
    def table(cls, results: Sequence[Self]) -> Table:
        """Return the table of one network's targets for the console."""
        sizes = list(results[0].latency)
        columns = ["target", "reached", "MACs", "parameters"]
        columns += [f"{step} %" for step in results[0].accuracies]
        columns += [f"ms, batch {size}" for size in sizes]
        rows = [
            (
                f"{result.target:g}x",
                f"{result.speed_up:.2f}x",
                count(result.macs),
                count(result.parameters),
                *(percent(value) for value in result.accuracies.values()),
                *(result.time(size) for size in sizes),
            )
            for result in results
        ]
        title = f"{results[0].network}, {results[0].method}: test accuracy"
        return text_table(title, columns, rows)

    def time(self, size: str) -> str:
        """Write the measured time for a number of images, and how much faster that is."""
        milliseconds = self.latency[size]
        return f"{milliseconds:.2f} ({self.latency_unpruned[size] / milliseconds:.2f}x)"
