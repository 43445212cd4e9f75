"""Choice of the metanetwork among those of all epochs, by the validation curve (paper, D.1.2)."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.files import whole_folder
from metaprune_pl.metanetworks.storage import stored_metanetworks
from metaprune_pl.pipelines.context import Context
from metaprune_pl.pipelines.curve import CurveSettings, run_curve
from metaprune_pl.pipelines.prepare import Preparation, accuracy
from metaprune_pl.pruning import MaskSettings
from metaprune_pl.reports import Curve, Selection, read_json, write_csv, write_json
from metaprune_pl.reports.figures import draw_epochs, save_figure
from metaprune_pl.reports.tensorboard import log_curves


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How metanetworks are searched.

    Attributes:
        how: `binary` starts in the middle and goes to later epochs, which make networks easier to
            prune, as long as the flat region of the curve keeps its accuracy; `all` draws every
            curve.
        drop: How much lower than the network's own validation accuracy that of the flat region may
            be.
        target: Accuracy that the flat region has to keep, instead of `drop`.
        epochs: Meta-training epochs to choose from; None is all.
    """

    how: Literal["binary", "all"] = "binary"
    drop: float = 0.02
    target: float | None = None
    epochs: list[int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1 or not (self.target is None or 0 < self.target <= 1):
            raise ConfigError(
                "search: drop and target are shares of the images, such as 0.02 and 0.93."
            )


def run_select(
    context: Context,
    data: ImageDataModule,
    how: Preparation,
    grid: CurveSettings,
    search: SearchSettings,
    masks: MaskSettings | None = None,
) -> Selection:
    """Draw the validation curves that the search asks for, and take the metanetwork with the largest area under it.

    Writes `metanetwork`, a folder for each curve, `choice.json`, `choice.csv`, `curves.png` and
    TensorBoard events.

    Args:
        context: Where to run.
        data: The images.
        how: Network to draw the curves of, and how; its metanetwork is the folder of all epochs.
        grid: Which points.
        search: Which epochs.
        masks: Shares of weights that become zero, in place of the points of `grid`.

    Raises:
        ConfigError: The curves would be of test images, or there is no folder of metanetworks, or
            not that epoch.
        StorageError: There is no metanetwork in it.
    """
    if grid.split != "validation":
        raise ConfigError(
            f"a metanetwork is chosen by validation images: set grid.split, which is {grid.split}."
        )
    if how.metanetwork is None:
        raise ConfigError("set metanetwork to the folder of the metanetworks to choose from.")
    epochs = stored_metanetworks(how.metanetwork)
    if search.epochs is not None:
        epochs = [path for path in epochs if _epoch(path) in search.epochs]
    if not epochs:
        raise ConfigError(
            f"search.epochs: '{how.metanetwork}' holds no metanetwork of these epochs."
        )
    network, _ = how.source.open(input_shape=data.input_shape, num_classes=data.num_classes)
    own = accuracy(network, data, "validation", context.device)
    target = own - search.drop if search.target is None else search.target
    curves: dict[int, Curve] = {}

    def keeps_accuracy(number: int) -> bool:
        curves[number] = _curve(context, data, how, epochs[number], grid, masks)
        return curves[number].points[0].accuracy >= target

    kept = count_kept(len(epochs), keeps_accuracy, search.how)
    best = max(sorted(curves), key=lambda number: curves[number].area)
    result = Selection(
        metanetwork=str(epochs[best]),
        curves={epochs[number].name: curves[number] for number in sorted(curves)},
        candidates=len(epochs),
        accuracy=own,
        target=target,
        last_kept=epochs[kept - 1].name if kept else None,
        milestone=_epoch(epochs[kept - 1]) if 0 < kept < len(epochs) else None,
    )
    if context.is_global_zero:
        with whole_folder(context.folder / "metanetwork") as new:
            shutil.copytree(epochs[best], new, dirs_exist_ok=True)
        _write(context.folder, result)
    return result


def count_kept(count: int, keeps: Callable[[int], bool], how: Literal["binary", "all"]) -> int:
    """Return after how many epochs accuracy is no longer kept.

    `binary` asks at most log2(count) + 1 times.

    Args:
        count: Number of epochs.
        keeps: Whether the metanetwork of an epoch, counted from 0, keeps accuracy.
        how: `binary` search, or asking for `all`.
    """
    if how == "all":
        answers = [keeps(number) for number in range(count)]
        return answers.index(False) if False in answers else count
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if keeps(middle) else (low, middle)
    return low


def _epoch(metanetwork: Path) -> int:
    return int(read_json(metanetwork / "metanetwork.json")["record"]["epoch"])


def _curve(
    context: Context,
    data: ImageDataModule,
    how: Preparation,
    metanetwork: Path,
    grid: CurveSettings,
    masks: MaskSettings | None,
) -> Curve:
    """Draw a curve, or read it where it was drawn before."""
    folder = context.folder / "curves" / metanetwork.name
    if context.broadcast((folder / "curve.json").is_file()):
        return Curve.from_json(folder / "curve.json")
    return run_curve(
        replace(context, folder=folder),
        data,
        replace(how, metanetwork=str(metanetwork)),
        grid,
        masks,
    )


def _write(folder: Path, selection: Selection) -> None:
    curves: Sequence[Curve] = [
        replace(curve, network=name) for name, curve in selection.curves.items()
    ]
    write_csv(folder / "choice.csv", selection.rows())
    save_figure(draw_epochs(selection), folder / "curves.png")
    log_curves(folder, curves)
    write_json(
        folder / "choice.json",
        {"reason": selection.reason, "areas": selection.areas, **asdict(selection)},
    )
