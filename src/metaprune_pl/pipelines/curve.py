"""Accuracy over speed-up without finetuning after pruning (paper, C.1)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import track

from metaprune_pl.data.images import Split
from metaprune_pl.errors import ConfigError
from metaprune_pl.pipelines.prepare import Preparation, Workplace, accuracy, prepare
from metaprune_pl.pruning import count_macs, count_parameters, prune
from metaprune_pl.reports import Curve, CurvePoint, write_csv, write_json
from metaprune_pl.reports.figures import draw_beside, draw_curves, save_figure
from metaprune_pl.reports.tensorboard import log_curves


@dataclass(frozen=True, kw_only=True)
class CurveSettings:
    """Which points a curve has.

    Attributes:
        max_speed_up: Speed-up of the last point.
        points: Number of points, evenly spaced in speed-up from the network as it is.
        split: Images that the accuracy is of: `validation` to choose by, `test` for a report.
    """

    max_speed_up: float = 4.0
    points: int = 20
    split: Split = "validation"

    def __post_init__(self) -> None:
        if self.max_speed_up <= 1 or self.points < 2:
            raise ConfigError("grid: max_speed_up is above 1 and points at least 2.")


def run_curve(place: Workplace, how: Preparation, grid: CurveSettings, beside: Sequence[str] = ()) -> Curve:
    """Make a network ready, prune it step by step, and measure its accuracy at each step.

    Writes `curve.json`, `curve.csv`, `curve.png` and TensorBoard events to the run's folder, and `beside.png` with the
    other curves where there are some.

    Args:
        place: Where to run.
        how: What to make ready, and how.
        grid: Which points.
        beside: Folders of finished curves to draw in one picture with this one.

    Raises:
        ConfigError: The network is already faster than the last point, or a curve beside it is of other images.
        StorageError: A folder holds no curve.
    """
    others = {folder: Curve.from_json(Path(folder) / "curve.json") for folder in beside}
    for folder, curve in others.items():
        if curve.split != grid.split:
            raise ConfigError(f"beside: '{folder}' is a curve of {curve.split} images, and this one of {grid.split}.")
    ready = prepare(place, how, [grid.max_speed_up])
    example = torch.zeros(1, *ready.card.input_shape, device=place.device)
    now = ready.base_macs / count_macs(ready.network, example)
    if grid.max_speed_up <= now:
        raise ConfigError(f"grid.max_speed_up is {grid.max_speed_up:g} and the network is at {now:.2f}x already.")
    speed_ups = torch.linspace(now, grid.max_speed_up, grid.points, dtype=torch.float64).tolist()[1:]
    networks = prune(
        ready.network,
        example,
        speed_ups=speed_ups,
        base_macs=ready.base_macs,
        criterion=how.criterion,
        settings=how.pruning,
        images=place.images,
        checked=ready.checked,
    )
    points = []
    for pruned in track([ready.network, *networks], "Evaluating the curve", transient=True):
        macs = count_macs(pruned, example)
        points.append(
            CurvePoint(
                speed_up=ready.base_macs / macs, macs=macs, parameters=count_parameters(pruned),
                accuracy=accuracy(pruned, place.data, grid.split, place.device),
            )
        )  # fmt: skip
    result = Curve(network=ready.name, method=ready.method, split=grid.split, points=points)
    if place.writes:
        write_csv(place.folder / "curve.csv", [asdict(point) for point in points])
        save_figure(draw_curves([result]), place.folder / "curve.png")
        if others:
            save_figure(draw_beside({**others, str(place.folder): result}), place.folder / "beside.png")
        log_curves(place.folder, [result])
        write_json(place.folder / "curve.json", asdict(result))
    return result
