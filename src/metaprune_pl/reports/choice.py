"""The choice of a metanetwork by validation curves (paper, D.1.1 and D.1.2)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from metaprune_pl.errors import StorageError
from metaprune_pl.records import as_record, read_record
from metaprune_pl.reports.curves import FLAT_DROP, OVER, Curve
from metaprune_pl.reports.text import Grid, Part, percent


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the curves of a metanetwork come to: means over networks.

    Attributes:
        accuracy: In the flat region, that is before pruning.
        flat_region: Where accuracy first falls `FLAT_DROP` below that.
        area: Mean accuracy over the whole curve.
    """

    accuracy: float
    flat_region: float
    area: float

    @classmethod
    def of(cls, curves: Sequence[Curve], end: float = math.inf) -> Self:
        """Return the shape of a metanetwork's curves, one for each network.

        Args:
            curves: The curves.
            end: Where flat regions end at the latest.
        """
        return cls(
            accuracy=fmean(curve.points[0].accuracy for curve in curves),
            flat_region=fmean(min(end, curve.flat_region(FLAT_DROP)) for curve in curves),
            area=fmean(curve.area for curve in curves),
        )


def shapes_of(drawn: Mapping[str, Sequence[Curve]]) -> dict[str, Shape]:
    """Return the shapes of several metanetworks' curves, as far as all of them go.

    A step of pruning may go beyond the last target, which makes no flat region longer.
    """
    end = min(curve.line[-1][0] for curves in drawn.values() for curve in curves)
    return {name: Shape.of(curves, end) for name, curves in drawn.items()}


def best_shape(shapes: Mapping[str, Shape], target: float) -> str:
    """Return the name of the best curve.

    Among those whose flat region keeps the target that is the longest flat region, and of equal
    ones the largest area; where none keeps it, the most accurate (paper, D.1.1).
    """
    kept = {name: shape for name, shape in shapes.items() if shape.accuracy >= target}
    if kept:
        return max(kept, key=lambda name: (kept[name].flat_region, kept[name].area))
    return max(shapes, key=lambda name: (shapes[name].accuracy, shapes[name].flat_region))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The choice of a metanetwork.

    Attributes:
        metanetwork: Folder of the one that was taken: see `best_shape`.
        curves: Validation curves that were drawn, by epoch; one for each network.
        candidates: Number of metanetworks there were to choose from.
        accuracy: Validation accuracy of the networks before any metanetwork.
        target: Accuracy that the flat region was to keep.
        last_kept: Last epoch before the first that does not keep it, as far as curves were drawn;
            None where that is the first of all.
        milestone: Number of that epoch, after which to lower the learning rate of a new training;
            None if all keep it, or the first does not.
    """

    metanetwork: str
    curves: Mapping[str, Sequence[Curve]]
    candidates: int
    accuracy: float
    target: float
    last_kept: str | None
    milestone: int | None

    @classmethod
    def of(
        cls,
        epochs: Sequence[Path],
        drawn: Mapping[int, Sequence[Curve]],
        kept: int,
        *,
        accuracy: float,
        target: float,
        milestone: int | None,
    ) -> Self:
        """Take the best metanetwork of those whose curves were drawn.

        Args:
            epochs: Folders of all metanetworks.
            drawn: Index of a metanetwork to its curves.
            kept: Number of the first that keep accuracy.
            accuracy: Validation accuracy of the networks before any metanetwork.
            target: Accuracy that the flat region was to keep.
            milestone: Epoch of the last of these; None if all do, or none.
        """
        curves = {epochs[index].name: drawn[index] for index in sorted(drawn)}
        shapes = shapes_of(curves)
        folders = {path.name: path for path in epochs}
        return cls(
            metanetwork=str(folders[best_shape(shapes, target)]),
            curves=curves,
            candidates=len(epochs),
            accuracy=accuracy,
            target=target,
            last_kept=epochs[kept - 1].name if kept else None,
            milestone=milestone,
        )

    @property
    def chosen(self) -> str:
        """Name of the epoch that was taken."""
        return Path(self.metanetwork).name

    @property
    def shapes(self) -> dict[str, Shape]:
        """Means over networks, by epoch."""
        return shapes_of(self.curves)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each epoch whose curves were drawn."""
        return [
            {
                "epoch": name,
                "accuracy": shape.accuracy,
                "kept": shape.accuracy >= self.target,
                "flat_region": shape.flat_region,
                "area": shape.area,
                "chosen": name == self.chosen,
            }
            for name, shape in self.shapes.items()
        ]

    @property
    def reason(self) -> str:
        """Why this one was taken, and what the curves say of the learning rate."""
        shape = self.shapes[self.chosen]
        flat = f"flat to {shape.flat_region:.2f}x, area {shape.area:.4f}"
        kept = f"{100 * shape.accuracy:.2f} % of the validation images in the flat region"
        target = f"{100 * self.target:.2f} %"
        if self.candidates == 1:
            missed = (
                "" if shape.accuracy >= self.target else f" That is below the target, {target}."
            )
            return f"{self.chosen} is the only one to choose from: {kept}, {flat}.{missed}"
        drawn = f"{len(self.curves)} drawn of {self.candidates}"
        before = f"before the metanetwork: {100 * self.accuracy:.2f} %"
        if shape.accuracy < self.target:
            return (
                f"None of {drawn} keeps {target} in the flat region ({before}): {self.chosen} is "
                f"the most accurate, {kept}, {flat}. Meta-train with a lower learning rate or "
                "sparsity weight."
            )
        return (
            f"{self.chosen} has the longest flat region of those that keep {target} ({before}), "
            f"{drawn}: {kept}, {flat}. {self._advice}"
        )

    @property
    def _advice(self) -> str:
        """The end of `reason` where the target is kept: how far, and what to do about it."""
        if self.last_kept is None:
            return "Earlier epochs do not keep it."
        if self.milestone is None:
            return f"All up to the last, {self.last_kept}, do: longer training may bring more."
        return (
            f"That is possible up to {self.last_kept}: a new meta-training may lower its learning "
            f"rate there, `milestones: [{self.milestone}]`."
        )

    def tables(self) -> list[Part]:
        """Return the metanetworks whose curves were drawn."""
        rows = [
            (
                row["epoch"],
                percent(row["accuracy"]),
                "yes" if row["kept"] else "no",
                f"{row['flat_region']:.2f}x",
                f"{row['area']:.4f}",
                "chosen" if row["chosen"] else "",
            )
            for row in self.rows()
        ]
        curves = self.curves[self.chosen]
        name, _ = OVER[curves[0].over]
        networks = f"mean over {len(curves)} networks" if len(curves) > 1 else curves[0].network
        title = f"Validation curves over {name}, {networks}; {len(rows)} of {self.candidates}"
        columns = ["metanetwork", "flat region %", "kept", "flat to", "area", ""]
        return [Grid(title, columns, rows), self.reason]

    @classmethod
    def from_json(cls, path: Path) -> Self:
        """Read a choice that was written with its reason.

        Raises:
            StorageError: The file is missing or damaged.
        """
        data = read_record(dict[str, Any], path)
        values = {name: data[name] for name in data if name != "reason"}
        choice = as_record(cls, values, path)
        drawn = all(
            curves and all(curve.points for curve in curves) for curves in choice.curves.values()
        )
        if choice.chosen not in choice.curves or not drawn:
            raise StorageError(f"{path} is damaged (a curve or its points are missing).")
        return choice
