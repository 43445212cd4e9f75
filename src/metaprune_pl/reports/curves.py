"""Curves of accuracy over speed-up or compression."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from metaprune_pl.errors import ConfigError, StorageError
from metaprune_pl.records import read_record
from metaprune_pl.reports.text import Grid, Part, count, percent

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
        parameters: Number of parameters; with masks that of the network before any pruning.
        left: Share of that number that are there and not zero.
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

    def tables(self) -> list[Part]:
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
        return [Grid(title, [OVER[self.over][0], "accuracy %", "MACs", "parameters"], rows)]

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


def check_beside(others: Mapping[str, Curve], split: str, over: str) -> None:
    """Refuse curves that do not belong in one picture with another one.

    Args:
        others: Folder to its curve.
        split: Images of the other one.
        over: What that is over.

    Raises:
        ConfigError: A curve is of other images, or over something else.
    """
    for folder, other in others.items():
        if other.split != split:
            raise ConfigError(
                f"beside: '{folder}' is a curve of {other.split} images, and this one of {split}."
            )
        if other.over != over:
            raise ConfigError(
                f"beside: '{folder}' is a curve over {other.over}, and this one over {over}."
            )
