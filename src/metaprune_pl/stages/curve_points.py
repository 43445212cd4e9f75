"""Accuracies of the networks that a curve is drawn through."""

from collections.abc import Iterable

import torch
from rich.progress import track
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.data.images import Split
from metaprune_pl.pruning import Unpruned, count_macs, count_parameters, left_parameters
from metaprune_pl.reports import CurvePoint
from metaprune_pl.stages.accuracy import accuracy


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
