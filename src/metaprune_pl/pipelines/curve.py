"""`curve`: accuracy over speed-up, or over compression by masks, without finetuning (C.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch

from metaprune_pl.data import ImageDataModule
from metaprune_pl.data.images import Split
from metaprune_pl.errors import ConfigError
from metaprune_pl.pipelines.preparation import Preparation
from metaprune_pl.pipelines.prepare import Ready, classifier_pruner, prepare
from metaprune_pl.pruning import MaskSettings, PruningSettings, SpeedUp, Target, ZeroShare
from metaprune_pl.reports import Curve
from metaprune_pl.reports.curves import check_beside
from metaprune_pl.reports.figures import draw_beside, save_figure
from metaprune_pl.reports.writing import write_result
from metaprune_pl.runs.context import Context
from metaprune_pl.stages.curve_points import curve_points


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
    check_beside(others, grid.split, over)
    targets: Sequence[Target] = [grid.last(before.pruning)] if masks is None else _shares(masks)
    ready = prepare(context, data, before, targets)
    if masks is None:
        targets = grid.targets(before.pruning, ready)
    pruner = classifier_pruner(context, data, before, masks=masks is not None)
    pruned = pruner.reach(targets, ready.network, ready.unpruned)
    networks = chain([ready.network], (each.network for each in pruned))
    points = curve_points(networks, ready.unpruned, data, grid.split, context.device)
    result = Curve(
        network=ready.name, method=ready.method, split=grid.split, points=points, over=over
    )
    if context.is_global_zero:
        if others:
            drawn = {**others, str(context.folder): result}
            save_figure(draw_beside(drawn), context.folder / "beside.png")
        write_result(result, context.folder, context.events)
    return result


def _shares(masks: MaskSettings) -> list[ZeroShare]:
    if not masks.sparsities:
        raise ConfigError(
            "a curve is over shares of weights that become zero: give masks.sparsities."
        )
    return sorted(masks.shares, key=lambda target: target.share)
