"""Curves of accuracy over speed-up or compression, and the choice of a metanetwork by them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from rich.console import RenderableType

from metaprune_pl.errors import StorageError
from metaprune_pl.records import as_record, read_record
from metaprune_pl.reports.text import count, percent, text_table

FLAT_DROP = 0.02
"""A curve is flat as long as accuracy stays within this of the unpruned network's."""

OVER = {
    "speed_up": ("speed-up", "multiply-accumulates of the unpruned network / of the pruned one"),
    "compression": ("compression", "parameters / those that are not zero"),
}
"""What a curve is over to what it is called, and what that is."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One pruned network on a curve.

    Attributes:
        speed_up: Multiply-accumulates of the unpruned network over those of this one.
        accuracy: Share of images classified correctly, without finetuning after pruning.
        macs: Multiply-accumulates for one image.
        parameters: Number of parameters.
        left: Share of them that are not zero.
    """

    speed_up: float
    accuracy: float
    macs: int
    parameters: int
    left: float = 1.0

    @property
    def compression(self) -> float:
        """Parameters over those that are not zero."""
        return 1 / self.left


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy over speed-up, or over compression where weights are masked (paper, C.1).

    Nothing is finetuned after pruning.

    Attributes:
        network: Name of the network.
        method: `none`, `sparsity_learning` or `metanetwork`.
        split: Images that the accuracy is of.
        points: In the order of what it is over; the first is the network before pruning.
        over: What it is over.
    """

    network: str
    method: str
    split: str
    points: Sequence[CurvePoint]
    over: Literal["speed_up", "compression"] = "speed_up"

    @property
    def line(self) -> list[tuple[float, float]]:
        """Speed-up or compression, and accuracy, of each point."""
        return [(getattr(point, self.over), point.accuracy) for point in self.points]

    @property
    def area(self) -> float:
        """Mean accuracy over the curve's range of speed-ups or compressions.

        The area under it over its width.
        """
        first, accuracy = self.line[0]
        last, _ = self.line[-1]
        if last <= first:
            return accuracy
        area = sum((x - w) * (a + b) / 2 for (w, a), (x, b) in pairwise(self.line))
        return area / (last - first)

    def flat_region(self, drop: float) -> float:
        """Where accuracy first falls more than `drop` below the first point's, interpolated."""
        return self.reach_above(self.points[0].accuracy - drop)

    def reach_above(self, floor: float) -> float:
        """Where accuracy first falls below `floor`, interpolated; at least the first point's."""
        first, accuracy = self.line[0]
        if accuracy < floor:
            return first
        for (w, a), (x, b) in pairwise(self.line):
            if b < floor:
                return w + (x - w) * (a - floor) / (a - b)
        return self.line[-1][0]

    def tables(self) -> list[RenderableType]:
        """Return the points of this curve."""
        rows = [
            (f"{x:.2f}x", percent(accuracy), count(p.macs), count(p.left * p.parameters))
            for p, (x, accuracy) in zip(self.points, self.line, strict=True)
        ]
        title = (
            f"{self.network}, {self.method}, {self.split}: flat to "
            f"{self.flat_region(FLAT_DROP):.2f}x, "
            f"area {self.area:.4f}"
        )
        return [text_table(title, [OVER[self.over][0], "accuracy %", "MACs", "parameters"], rows)]

    @classmethod
    def from_json(cls, path: Path) -> "Curve":
        """Read a curve that `write_json` wrote.

        Raises:
            StorageError: The file is missing or damaged.
        """
        curve = read_record(cls, path)
        if not curve.points:
            raise StorageError(f"{path} is damaged (there are no points).")
        return curve


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The choice of a metanetwork.

    Attributes:
        metanetwork: Folder of the one that was taken: the largest area under its validation curve.
        curves: Curves that were drawn, by epoch.
        candidates: Number of metanetworks there were to choose from.
        accuracy: Validation accuracy of the network before any metanetwork.
        target: Accuracy that the flat region was to keep.
        last_kept: Last epoch that keeps it, as far as curves were drawn; None if none does.
        milestone: Number of epochs after which accuracy is no longer kept, where to lower the
            learning rate of a new training; None if all keep it, or none.
    """

    metanetwork: str
    curves: Mapping[str, Curve]
    candidates: int
    accuracy: float
    target: float
    last_kept: str | None
    milestone: int | None

    @property
    def areas(self) -> dict[str, float]:
        """Area under each curve."""
        return {name: curve.area for name, curve in self.curves.items()}

    def rows(self) -> list[dict[str, Any]]:
        """One row for each curve."""
        return [
            {
                "epoch": name,
                "accuracy": curve.points[0].accuracy,
                "kept": curve.points[0].accuracy >= self.target,
                "area": curve.area,
                "chosen": name == Path(self.metanetwork).name,
            }
            for name, curve in self.curves.items()
        ]

    @property
    def reason(self) -> str:
        """Why this one was taken, and what the curves say of the learning rate."""
        name = Path(self.metanetwork).name
        area = f"{self.areas[name]:.4f}"
        if self.candidates == 1:
            accuracy = self.curves[name].points[0].accuracy
            return (
                f"{name} is the only one to choose from: {100 * accuracy:.2f} % of the validation "
                f"images in the flat region, area {area}."
            )
        return (
            f"{name} has the largest area under its validation curve, {area}, of "
            f"{len(self.curves)} drawn of {self.candidates}. To keep {100 * self.target:.2f} % in "
            f"the flat region (before the metanetwork: {100 * self.accuracy:.2f} %) {self._advice}"
        )

    @property
    def _advice(self) -> str:
        """The end of `reason`: whether the target can be kept, and what to do about it."""
        if self.last_kept is None:
            return (
                "is too much for all of them: meta-train with a lower learning rate or sparsity "
                "weight."
            )
        if self.milestone is None:
            return (
                f"is possible up to the last, {self.last_kept}: longer meta-training may bring "
                "more."
            )
        return (
            f"is possible up to {self.last_kept}: a new meta-training may lower its learning rate "
            f"there, `milestones: [{self.milestone}]`."
        )

    def tables(self) -> list[RenderableType]:
        """Return the metanetworks whose curves were drawn."""
        rows = [
            (
                row["epoch"],
                percent(row["accuracy"]),
                "yes" if row["kept"] else "no",
                f"{row['area']:.4f}",
                "chosen" if row["chosen"] else "",
            )
            for row in self.rows()
        ]
        columns = ["metanetwork", "flat region %", "kept", "area", ""]
        return [
            text_table(f"Validation curves, {len(rows)} of {self.candidates}", columns, rows),
            self.reason,
        ]

    @classmethod
    def from_json(cls, path: Path) -> "Selection":
        """Read a choice that was written with its reason and areas.

        Raises:
            StorageError: The file is missing or damaged.
        """
        data = read_record(dict[str, Any], path)
        values = {name: data[name] for name in data if name not in ("reason", "areas")}
        choice = as_record(cls, values, path)
        drawn = choice.curves.get(Path(choice.metanetwork).name)
        if drawn is None or not all(curve.points for curve in choice.curves.values()):
            raise StorageError(f"{path} is damaged (a curve or its points are missing).")
        return choice
