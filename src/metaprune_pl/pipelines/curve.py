"""`curve`: accuracy over speed-up, or over compression by masks, without finetuning (C.1)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import track
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.data.images import Split
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks.examples import Example
from metaprune_pl.pipelines.classifiers import classifier_pruner
from metaprune_pl.pipelines.preparation import Preparation
from metaprune_pl.pipelines.prepare import Ready, prepare
from metaprune_pl.pruning import (
    MaskSettings,
    PruningSettings,
    SpeedUp,
    Target,
    ZeroShare,
    count_macs,
    count_parameters,
    left_parameters,
)
from metaprune_pl.reports import Curve, CurvePoint
from metaprune_pl.reports.figures import draw_beside, save_figure
from metaprune_pl.reports.writing import write_result
from metaprune_pl.runs.context import Context
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

    def last(self, pruning: PruningSettings) -> SpeedUp:
        """Return the target of the last point."""
        return SpeedUp(value=self.max_speed_up, settings=pruning)

    def targets(self, pruning: PruningSettings, ready: Ready) -> list[SpeedUp]:
        """Return the targets of all points but the first, which is the network as it is."""
        now = ready.unpruned.speed_up(pruning.cost, ready.network)
        values = torch.linspace(now, self.max_speed_up, self.points, dtype=torch.float64)
        return [SpeedUp(value=value, settings=pruning) for value in values[1:].tolist()]


def curve(
    context: Context,
    data: ImageDataModule,
    *,
    grid: CurveSettings = CurveSettings(),
    masks: MaskSettings | None = None,
    beside: tuple[str, ...] = (),
    **preparation: Any,
) -> Curve:
    """Draw accuracy over speed-up, or over compression by masks.

    Args:
        context: Where to run.
        data: The images.
        grid: Which points.
        masks: Shares of weights that become zero, in place of the speed-ups of `grid` and of
            `pruning`, which have no effect then; patterns are no points of a curve.
        beside: Folders of finished curves to draw in one picture with this one, `beside.png`.
        preparation: The network, and what comes before pruning: see `Preparation`.

    Example:
        metaprune curve --config curve_quickstart.yaml
    """
    before = Preparation(**preparation)
    others = {folder: Curve.from_json(Path(folder) / "curve.json") for folder in beside}
    over: Literal["speed_up", "compression"] = "speed_up" if masks is None else "compression"
    _check(others, grid, over)
    if masks is not None:
        targets: Sequence[Target] = _shares(masks)
        ready = prepare(context, data, before, targets)
    else:
        ready = prepare(context, data, before, [grid.last(before.pruning)])
        targets = grid.targets(before.pruning, ready)
    pruner = classifier_pruner(context, data, before, masks=masks is not None)
    pruned = pruner.reach(targets, ready.network, ready.unpruned)
    networks = chain([ready.network], (each.network for each in pruned))
    points = _points(context, data, ready, networks, grid.split)
    result = Curve(
        network=ready.name, method=ready.method, split=grid.split, points=points, over=over
    )
    if context.is_global_zero:
        _write(context, result, others)
    return result


def _check(others: Mapping[str, Curve], grid: CurveSettings, over: str) -> None:
    """Refuse curves that do not belong in one picture with this one."""
    for folder, other in others.items():
        if other.split != grid.split:
            raise ConfigError(
                f"beside: '{folder}' is a curve of {other.split} images, and this one of "
                f"{grid.split}."
            )
        if other.over != over:
            raise ConfigError(
                f"beside: '{folder}' is a curve over {other.over}, and this one over {over}."
            )


def _shares(masks: MaskSettings) -> list[ZeroShare]:
    if not masks.sparsities:
        raise ConfigError(
            "a curve is over shares of weights that become zero: give masks.sparsities."
        )
    return sorted(masks.shares, key=lambda target: target.share)


def _points(
    context: Context,
    data: ImageDataModule,
    ready: Ready,
    networks: Iterable[nn.Module],
    split: Split,
) -> list[CurvePoint]:
    """Measure networks, those that are the same once."""
    points: list[CurvePoint] = []
    example = ready.unpruned.example_for(ready.network)
    base_macs = count_macs(ready.unpruned.original, ready.unpruned.example)
    size = (-1, -1, -1.0)
    for network in track(networks, "Evaluating the curve", transient=True):
        before, size = size, _size(network, example)
        if size == before:
            continue  # one step of a small network comes to several targets
        macs, parameters, left = size
        points.append(
            CurvePoint(
                speed_up=base_macs / macs,
                macs=macs,
                parameters=parameters,
                left=left,
                accuracy=accuracy(network, data, split, context.device),
            )
        )
    return points


def _size(network: nn.Module, example: Example) -> tuple[int, int, float]:
    return count_macs(network, example), count_parameters(network), left_parameters(network)


def _write(context: Context, curve: Curve, others: Mapping[str, Curve]) -> None:
    folder = context.folder
    if others:
        save_figure(draw_beside({**others, str(folder): curve}), folder / "beside.png")
    write_result(curve, folder, context.events)
