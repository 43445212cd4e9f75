"""`curve`: accuracy over speed-up, or over compression by masks, without finetuning (C.1)."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from metaprune_pl.data import ImageDataModule
from metaprune_pl.pipelines.prepare import prepare
from metaprune_pl.pruning import MaskSettings, Target
from metaprune_pl.reports import Curve
from metaprune_pl.reports.curves import check_beside
from metaprune_pl.reports.figures import draw_beside, save_figure
from metaprune_pl.runs.context import Context
from metaprune_pl.stages.curve_points import CurveSettings, curve_points
from metaprune_pl.stages.preparation import Preparation


def curve(
    context: Context,
    data: ImageDataModule,
    *,
    grid: CurveSettings = CurveSettings(),  # noqa: B008  (frozen)
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
    targets: Sequence[Target] = [grid.last(before.pruning)] if masks is None else masks.on_curve
    ready = prepare(context, data, before, targets)
    if masks is None:
        targets = grid.targets(before.pruning, ready.network, ready.unpruned)
    pruner = before.pruner(data, context.device, context.broadcast, masks=masks is not None)
    pruned = pruner.reach(targets, ready.network, ready.unpruned)
    networks = chain([ready.network], (each.network for each in pruned))
    points = curve_points(networks, ready.unpruned, data, grid.split, context.device)
    name, method = ready.card.record["name"], ready.card.record["method"]
    result = Curve(network=name, method=method, split=grid.split, points=points, over=over)
    if others and context.is_global_zero:
        drawn = {**others, str(context.folder): result}
        save_figure(draw_beside(drawn), context.folder / "beside.png")
    return context.write(result)
