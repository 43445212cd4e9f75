"""Detectors, their backbone pruned or not."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from torch import nn

from metaprune_pl.pruning import Unpruned, count_macs, count_parameters, measure_latencies
from metaprune_pl.records import as_record
from metaprune_pl.reports.result import Result
from metaprune_pl.reports.text import Grid, count, percent


@dataclass(frozen=True, kw_only=True)
class Detected(Result):
    """One detector, with its backbone as it was or pruned.

    Attributes:
        method: `origin`, `none` or `metanetwork`.
        target: Speed-up of the backbone asked for; 1 of the origin.
        speed_up: Speed-up of the backbone reached: multiply-accumulates of the unpruned one over
            those of this one.
        macs: Multiply-accumulates of the backbone for one image.
        parameters: Number of parameters of the whole detector.
        milliseconds: Measured time of the whole detector for one image.
        milliseconds_unpruned: The same of the detector before pruning, measured right after.
        average_precision: Mean average precision on the test images over overlaps of 0.5 to
            0.95, as COCO
            defines it.
        average_precision_50: The same at an overlap of 0.5.
        average_precision_pruned: `average_precision` straight after pruning, and after the
            re-estimate of statistics or the repair that belong to it; None of the origin.
        average_precision_stale: The same without these; None where there are none.
        average_precision_50_pruned: `average_precision_50` straight after pruning; None for the
            origin.
    """

    method: str
    target: float
    speed_up: float
    macs: int
    parameters: int
    milliseconds: float
    milliseconds_unpruned: float
    average_precision: float
    average_precision_50: float
    average_precision_pruned: float | None = None
    average_precision_50_pruned: float | None = None
    average_precision_stale: float | None = None

    @classmethod
    def of(
        cls,
        unpruned: Unpruned,
        backbone: nn.Module,
        before: nn.Module,
        final: nn.Module,
        **measured: Any,
    ) -> Self:
        """Return the result of a detector: what follows from it, its time, and what was measured.

        Args:
            unpruned: What is known of the backbone before pruning.
            backbone: That of the detector as it is in the end.
            before: The detector before pruning.
            final: The detector as it is in the end, on the same device.
            measured: Further attributes.
        """
        macs = count_macs(backbone, unpruned.example_for(backbone))
        own, other = measure_latencies([final, before], unpruned.example_for(final), 1)
        original = unpruned.original
        return cls(
            speed_up=count_macs(original, unpruned.example_for(original)) / macs,
            macs=macs,
            parameters=count_parameters(final),
            milliseconds=own.median,
            milliseconds_unpruned=other.median,
            **measured,
        )

    @property
    def name(self) -> str:
        """Name of this result among those of a run."""
        return f"{self.method}_{self.target:g}"

    @property
    def record(self) -> dict[str, Any]:
        """What the stored network remembers of it."""
        return asdict(self)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was asked for, for TensorBoard."""
        return {"method": self.method}

    @property
    def axis(self) -> float:
        """Speed-up."""
        return self.speed_up

    @property
    def values(self) -> Mapping[str, float]:
        """What came out, for TensorBoard."""
        return {
            "speed_up": self.speed_up,
            "map": self.average_precision,
            "map_50": self.average_precision_50,
        }

    @classmethod
    def from_plain(cls, data: Any, file: Path) -> Self:
        """Return the result of its plain values; those of before had shorter names."""
        values = as_record(dict[str, Any], data, file)
        names = {key: re.sub("^precision", "average_precision", key) for key in values}
        return super().from_plain({names[key]: values[key] for key in values}, file)

    @classmethod
    def table(cls, results: Sequence[Self]) -> Grid:
        """Return the table of a run's detectors for the console."""
        columns = ["detector", "speed-up", "MACs", "parameters"]
        columns += ["pruned mAP %", "mAP50 %", "finetuned mAP %", "mAP50 %", "ms"]
        title = (
            "Detectors: test mAP; speed-up and MACs are the backbone's, parameters and ms the "
            "whole detector's"
        )
        return Grid(title, columns, [result.cells() for result in results])

    def cells(self) -> tuple[str, ...]:
        """Return this result's row of the table for the console."""
        pruned = (self.average_precision_pruned, self.average_precision_50_pruned)
        return (
            self.method if self.method == "origin" else f"{self.method}, {self.target:g}x",
            f"{self.speed_up:.2f}x",
            count(self.macs),
            count(self.parameters),
            *("" if value is None else percent(value) for value in pruned),
            percent(self.average_precision),
            percent(self.average_precision_50),
            f"{self.milliseconds:.1f} ({self.milliseconds_unpruned / self.milliseconds:.2f}x)",
        )
