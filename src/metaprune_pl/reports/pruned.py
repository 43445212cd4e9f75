"""Networks pruned to speed-ups."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from torch import nn

from metaprune_pl.networks.widths import widths_before_and_after
from metaprune_pl.pruning import Unpruned, count_macs, count_parameters
from metaprune_pl.pruning.cost import Macs, Parameters
from metaprune_pl.pruning.cost.timing import Timing
from metaprune_pl.pruning.targets import ChannelTarget, PrunedNetwork
from metaprune_pl.reports.exactness import Exactness, in_row
from metaprune_pl.reports.result import Result
from metaprune_pl.reports.steps import legend, step_cells, step_columns, steps_of, trained_in_vain
from metaprune_pl.reports.text import Grid, count, milliseconds, percent, weight_size
from metaprune_pl.reports.uncertainty import difference, said_difference


@dataclass(frozen=True, kw_only=True)
class Pruned(Result):
    """One network pruned to one target.

    Attributes:
        network: Name of the network.
        method: `none`, `sparsity_learning` or `metanetwork`.
        target: Speed-up asked for.
        speed_up: Speed-up reached: `cost` of the unpruned network over that of this one.
        macs: Multiply-accumulates for one image.
        parameters: Number of parameters.
        accuracy_given: Test accuracy of the network as it was given.
        accuracy_before: Test accuracy straight before pruning.
        accuracy_pruned: Test accuracy straight after pruning, and after the re-estimate of
            statistics or the repair that belong to it.
        accuracy_finetuned: Test accuracy after pruning and finetuning.
        accuracy_stale: Test accuracy straight after pruning without these; None where there
            are none.
        images: Training images on the way from the network as it was given, each time that one went
            forward and backward.
        budget: Share of the finetuning after pruning that it got.
        path: Folder that the network is stored in, where another command looks at it.
        plan: Plan that was chosen among several; None where there was one.
        latency: Measured milliseconds of a forward pass, by number of images in it.
        latency_unpruned: The same of the unpruned network in the same run.
        accuracy_base: Test accuracy of the trained network before any pruning, the initial one
            included; this and the following are None in results of before.
        macs_unpruned: Multiply-accumulates of the unpruned network.
        parameters_unpruned: Its parameters.
        accuracy_base_top_5: `accuracy_base` among the five highest scores; None for up to 10
            classes.
        accuracy_finetuned_top_5: The same of `accuracy_finetuned`.
        latency_spread: Half the distance of the quartiles of `latency`.
        latency_unpruned_spread: The same of `latency_unpruned`.
        widths: Output channels of each layer, before any pruning and now.
        latency_gain: How many times faster than the unpruned network; None within the spread.
        exactness: What was compared with the masked original; None where another pruner ran.
        test_images: Number of images that the accuracies are of.
        training_kept: False where no epoch of the training after pruning was better on the
            validation images than before it, so that its weights were thrown away.
        cost: What speed-ups count.
        runtime: What times were measured in.
        batch: Images of the pass whose time speed-ups count; None where they count no time.
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
    images: int = 0
    budget: float = 1.0
    path: str = ""
    plan: str | None = None
    widths: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    latency: Mapping[str, float] = field(default_factory=dict)
    latency_unpruned: Mapping[str, float] = field(default_factory=dict)
    latency_spread: Mapping[str, float] = field(default_factory=dict)
    latency_unpruned_spread: Mapping[str, float] = field(default_factory=dict)
    latency_gain: Mapping[str, float | None] = field(default_factory=dict)
    accuracy_base: float | None = None
    macs_unpruned: int | None = None
    parameters_unpruned: int | None = None
    accuracy_base_top_5: float | None = None
    accuracy_finetuned_top_5: float | None = None
    exactness: Exactness | None = None
    test_images: int | None = None
    training_kept: bool = True
    cost: str = Macs.unit
    runtime: str = "PyTorch"
    batch: int | None = None

    @classmethod
    def of(
        cls,
        target: ChannelTarget,
        unpruned: Unpruned,
        pruned: PrunedNetwork,
        final: nn.Module,
        **measured: Any,
    ) -> Self:
        """Return the result of a network: what follows from it, and what was measured.

        Args:
            target: What was asked for.
            unpruned: What is known of the network before pruning.
            pruned: The network straight after pruning.
            final: The network as it is in the end.
            measured: Further attributes.
        """
        original = unpruned.original
        return cls(
            target=target.speed_up(unpruned),
            speed_up=target.reached(unpruned, final),
            macs=count_macs(final, unpruned.example_for(final)),
            macs_unpruned=count_macs(original, unpruned.example_for(original)),
            parameters=count_parameters(final),
            parameters_unpruned=count_parameters(original),
            plan=pruned.plan,
            cost=target.cost.unit,
            widths=widths_before_and_after(original, final),
            exactness=Exactness.of(pruned),
            **measured,
        )

    def timed(
        self,
        own: Mapping[str, Timing],
        unpruned: Mapping[str, Timing],
        runtime: str,
        batch: int | None,
    ) -> Self:
        """Return this result with times, by number of images, beside the unpruned network's.

        Args:
            own: Its times.
            unpruned: Those of the unpruned network in the same run.
            runtime: What they were measured in.
            batch: Images of the pass that the speed-up is of, if it is one of time.
        """
        reached = unpruned[str(batch)].median / own[str(batch)].median if batch else self.speed_up
        return replace(
            self,
            speed_up=reached,
            runtime=runtime,
            batch=batch,
            latency={size: time.median for size, time in own.items()},
            latency_unpruned={size: time.median for size, time in unpruned.items()},
            latency_spread={size: time.spread for size, time in own.items()},
            latency_unpruned_spread={size: time.spread for size, time in unpruned.items()},
            latency_gain={size: time.gain_over(unpruned[size]) for size, time in own.items()},
        )

    @property
    def derived(self) -> dict[str, float | None]:
        """What the paper's tables print and follows from the rest.

        Differences of accuracy to the trained network, the share of multiply-accumulates that was
        pruned, and that of parameters that are left.
        """
        return {
            "difference": _minus(self.accuracy_finetuned, self.accuracy_base),
            "difference_top_5": _minus(self.accuracy_finetuned_top_5, self.accuracy_base_top_5),
            "macs_pruned": self.macs_unpruned and 1 - self.macs / self.macs_unpruned,
            "left": self.parameters_unpruned and self.parameters / self.parameters_unpruned,
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
    def axis(self) -> float:
        """Speed-up."""
        return self.speed_up

    @property
    def values(self) -> Mapping[str, float]:
        """What came out, for TensorBoard."""
        return {
            "speed_up": self.speed_up,
            "test_accuracy_pruned": self.accuracy_pruned,
            "test_accuracy_finetuned": self.accuracy_finetuned,
            **{f"milliseconds_batch_{size}": value for size, value in self.latency.items()},
            **{name: value for name, value in self.derived.items() if value is not None},
        }

    def gained(self, folder: Path) -> str:
        """Say in one sentence where the network is, and what it has gained."""
        times = [
            f"batch {size} {'within the spread' if gain is None else f'{gain:.2f}x faster'}"
            for size, gain in self.latency_gain.items()
            if size != str(self.batch)
        ]
        reached = f"{self.speed_up:.2f}x in {self.counted}"
        now, before = percent(self.accuracy_finetuned), percent(self.accuracy_given)
        return (
            f"The network is in {folder}: {', '.join([reached, *times])}; test "
            f"accuracy {now} %, {before} % before: {self.change}."
        )

    @property
    def counted(self) -> str:
        """What speed-ups count, of which pass, and in what."""
        return self.cost if self.batch is None else f"{self.cost}, {self._of_pass(self.batch)}"

    def _of_pass(self, size: object) -> str:
        return f"batch {size} in {self.runtime}"

    @property
    def change(self) -> str:
        """Accuracy in the end minus that of the network as given, with its standard error."""
        return said_difference(self.accuracy_finetuned, self.accuracy_given, self.test_images)

    def row(self) -> dict[str, Any]:
        """Return this result's row of a table on disk, a column for each measured time."""
        row = in_row(asdict(self) | self.derived, self.exactness)
        del row["widths"]
        for name in [name for name in row if name.startswith("latency")]:
            times = row.pop(name)
            unit = "" if name == "latency_gain" else "_ms"
            row |= {f"{name}_batch_{size}{unit}": value for size, value in times.items()}
        return row

    @staticmethod
    def cells(results: Sequence["Pruned"]) -> tuple[list[str], list[list[str]]]:
        """Return the columns of a table for people, and its rows, without times."""
        steps = steps_of(results)
        sized = results[0].cost == Parameters.unit
        columns = ["target", "reached", "MACs", "parameters", *["weights"] * sized]
        columns += [*step_columns(steps), "difference"]
        rows = [
            [
                f"{result.target:g}x",
                f"{result.speed_up:.2f}x",
                count(result.macs),
                count(result.parameters),
                *[weight_size(result.parameters)] * sized,
                *step_cells(result, steps),
                difference(result.accuracy_finetuned, result.accuracy_given, result.test_images),
            ]
            for result in results
        ]
        return columns, rows

    @classmethod
    def table(cls, results: Sequence[Self]) -> Grid:
        """Return the table of one network's targets for the console."""
        sizes = list(results[0].latency)
        columns, rows = cls.cells(results)
        columns += [f"ms, {results[0]._of_pass(size)}" for size in sizes]
        pairs = zip(results, rows, strict=True)
        timed = [[*row, *(result.time(size) for size in sizes)] for result, row in pairs]
        return Grid(cls.title(results), columns, timed)

    @staticmethod
    def title(results: Sequence["Pruned"]) -> str:
        """Say what a table is of."""
        first = results[0]
        after = "" if first.method == "none" else f" after {first.method}"
        images = "" if first.test_images is None else f" of {first.test_images:,} images"
        return f"{first.network}, pruned{after}: test accuracy{images}"

    @classmethod
    def notes(cls, results: Sequence[Self]) -> list[str]:
        """Say what the columns are, and what was compared for the furthest target."""
        furthest = results[-1].exactness
        compared = [] if furthest is None else furthest.sentences()
        points = "Difference: finetuned minus as given, in points, ± its standard error."
        first = results[0]
        counted = f"Target and reached count {first.counted}."
        if first.batch is not None:
            counted += f" {first.target:g}x is {1 / first.target:.2g} of the unpruned network's."
        unkept = trained_in_vain(f"{r.target:g}x" for r in results if not r.training_kept)
        return [f"{legend(steps_of(results))} {points} {counted}", *unkept, *compared]

    def time(self, size: str) -> str:
        """Write the measured time for a number of images, and how much faster that is."""
        if size not in self.latency_spread:  # an older report
            factor = self.latency_unpruned[size] / self.latency[size]
            return f"{self.latency[size]:.2f} ({factor:.2f}x)"
        return milliseconds(self.latency[size], self.latency_spread[size], self.latency_gain[size])


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
