"""The networks that a curve is drawn through, and their accuracies."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.data.images import Split
from metaprune_pl.errors import ConfigError
from metaprune_pl.pruning import (
    PruningSettings,
    SpeedUp,
    Unpruned,
    count_macs,
    count_parameters,
    left_parameters,
)
from metaprune_pl.reports import CurvePoint
from metaprune_pl.stages.accuracy import accuracy


@dataclass(frozen=True, kw_only=True)
class CurveSettings:
    """Which points a curve has.

    Attributes:
        max_speed_up: Speed-up of the last point.
        points: Number of points, evenly spaced in speed-up from the network as it is; those that
            are the same network count once.
        split: Images that the accuracy is of: `validation` to choose by, `test` for a report.
    """

    max_speed_up: float = 4.0
    points: int = 20
    split: Split = "validation"

    def __post_init__(self) -> None:
        if not 1 < self.max_speed_up < float("inf") or self.points < 2:
            raise ConfigError("grid: max_speed_up is above 1 and points at least 2.")

    def check_chooses(self, what: str) -> None:
        """Refuse to choose by test images.

        Args:
            what: What is done by the curve, for the error.
        """
        if self.split != "validation":
            text = f"{what} by validation images: set grid.split, which is {self.split}."
            raise ConfigError(text)

    def last(self, pruning: PruningSettings) -> SpeedUp:
        """Return the target of the last point."""
        return SpeedUp(value=self.max_speed_up, settings=pruning)

    def targets(
        self, pruning: PruningSettings, network: nn.Module, unpruned: Unpruned
    ) -> list[SpeedUp]:
        """Return the targets of all points but the first, which is the network as it is."""
        now = unpruned.speed_up(pruning.cost, network)
        values = torch.linspace(now, self.max_speed_up, self.points, dtype=torch.float64)
        return [SpeedUp(value=value, settings=pruning) for value in values[1:].tolist()]


def curve_points(
    networks: Iterable[nn.Module],
    unpruned: Unpruned,
    data: ImageDataModule,
    split: Split,
    device: torch.device,
) -> list[CurvePoint]:
    """Measure networks that follow each other on a curve; those that are the same count once.

    Args:
        networks: The networks, the first as it is before pruning.
        unpruned: What is known of that.
        data: The images.
        split: Images that the accuracies are of.
        device: Where to measure.
    """
    points: list[CurvePoint] = []
    base = count_macs(unpruned.original, unpruned.example_for(unpruned.original))
    before = (-1, -1, -1.0)
    for network in track(networks, "Evaluating the curve", transient=True):
        macs = count_macs(network, unpruned.example_for(network))
        whole = unpruned.original if unpruned.groups is None else network  # masks count from it
        size = (macs, count_parameters(whole), left_parameters(network, whole))
        if size == before:
            continue  # one step of a small network comes to several targets
        before = size
        point = CurvePoint(
            speed_up=base / macs,
            macs=macs,
            parameters=size[1],
            left=size[2],
            accuracy=accuracy(network, data, split, device),
        )
        points.append(point)
    return points
