"""Accuracy over speed-up, or over compression by masks, without finetuning after it.

Paper, C.1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.progress import track
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.data.images import Split
from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import trace
from metaprune_pl.pipelines.context import Context
from metaprune_pl.pipelines.prepare import Preparation, Ready, accuracy, prepare
from metaprune_pl.pruning import (
    MaskSettings,
    apply_masks,
    count_macs,
    count_parameters,
    find_masks,
    left_parameters,
    prune,
)
from metaprune_pl.reports import Curve, CurvePoint, write_csv, write_json
from metaprune_pl.reports.figures import draw_beside, draw_curves, save_figure
from metaprune_pl.reports.tensorboard import log_curves


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
        if self.max_speed_up <= 1 or self.points < 2:
            raise ConfigError("grid: max_speed_up is above 1 and points at least 2.")


def run_curve(
    context: Context,
    data: ImageDataModule,
    how: Preparation,
    grid: CurveSettings,
    masks: MaskSettings | None = None,
    beside: Sequence[str] = (),
) -> Curve:
    """Make a network ready, prune or mask it step by step, and measure its accuracy at each step.

    Writes `curve.json`, `curve.csv`, `curve.png` and TensorBoard events to the run's folder, and
    `beside.png` with the other curves where there are some.

    Args:
        context: Where to run.
        data: The images.
        how: What to make ready, and how.
        grid: Which points.
        masks: Shares of weights that become zero, in place of the points of `grid`: the curve is
            over compression.
        beside: Folders of finished curves to draw in one picture with this one.

    Raises:
        ConfigError: The network is already faster than the last point, there is no share, or a
            curve beside it is of other images or over something else.
        StorageError: A folder holds no curve.
    """
    over: Literal["speed_up", "compression"] = "speed_up" if masks is None else "compression"
    others = {folder: Curve.from_json(Path(folder) / "curve.json") for folder in beside}
    for folder, curve in others.items():
        if curve.split != grid.split:
            raise ConfigError(
                f"beside: '{folder}' is a curve of {curve.split} images, and this one of "
                f"{grid.split}."
            )
        if curve.over != over:
            raise ConfigError(
                f"beside: '{folder}' is a curve over {curve.over}, and this one over {over}."
            )
    if masks is not None and not masks.sparsities:
        raise ConfigError(
            "a curve is over shares of weights that become zero: give masks.sparsities."
        )
    ready = prepare(context, data, how, [grid.max_speed_up] if masks is None else None)
    example = torch.zeros(1, *ready.card.input_shape, device=context.device)
    networks = (
        _pruned(context, data, ready, how, grid)
        if masks is None
        else _masked(context, data, ready, how, masks)
    )
    points: list[CurvePoint] = []
    for pruned in track([ready.network, *networks], "Evaluating the curve", transient=True):
        macs, parameters, left = (
            count_macs(pruned, example),
            count_parameters(pruned),
            left_parameters(pruned),
        )
        if points and (macs, parameters, left) == (
            points[-1].macs,
            points[-1].parameters,
            points[-1].left,
        ):
            continue  # one step of a small network comes to several targets
        points.append(
            CurvePoint(
                speed_up=ready.base_macs / macs,
                macs=macs,
                parameters=parameters,
                left=left,
                accuracy=accuracy(pruned, data, grid.split, context.device),
            )
        )
    result = Curve(
        network=ready.name, method=ready.method, split=grid.split, points=points, over=over
    )
    if context.is_global_zero:
        write_csv(context.folder / "curve.csv", [asdict(point) for point in points])
        save_figure(draw_curves([result]), context.folder / "curve.png")
        if others:
            save_figure(
                draw_beside({**others, str(context.folder): result}), context.folder / "beside.png"
            )
        log_curves(context.folder, [result])
        write_json(context.folder / "curve.json", asdict(result))
    return result


def _pruned(
    context: Context, data: ImageDataModule, ready: Ready, how: Preparation, grid: CurveSettings
) -> Iterator[nn.Module]:
    """Give the network without more and more channels."""
    example = torch.zeros(1, *ready.card.input_shape, device=context.device)
    now = ready.base_macs / count_macs(ready.network, example)
    return prune(
        ready.network,
        example,
        base_macs=ready.base_macs,
        criterion=how.criterion,
        settings=how.pruning,
        speed_ups=torch.linspace(now, grid.max_speed_up, grid.points, dtype=torch.float64).tolist()[
            1:
        ],
        images=partial(data.evaluation, "validation", context.device),
        checked=ready.checked,
    )


def _masked(
    context: Context, data: ImageDataModule, ready: Ready, how: Preparation, masks: MaskSettings
) -> Iterator[nn.Module]:
    """Give the network with more and more zeros."""
    graph = trace(ready.network, torch.zeros(1, *ready.card.input_shape, device=context.device))
    images = partial(data.evaluation, "validation", context.device)
    state = how.criterion.measure(ready.network, graph, images)
    for share in sorted(masks.sparsities):
        yield apply_masks(
            ready.network, find_masks(graph, state, how.criterion, share, masks.ranking)
        )
