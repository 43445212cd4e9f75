"""`select`: which epoch's metanetwork, by validation curves (paper, D.1.2)."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.files import whole_folder
from metaprune_pl.metanetworks.storage import epoch_of, stored_metanetworks
from metaprune_pl.pipelines.curve import CurveSettings, curve
from metaprune_pl.pipelines.preparation import Preparation
from metaprune_pl.pruning import MaskSettings
from metaprune_pl.reports import Curve, Selection
from metaprune_pl.reports.choice import Shape, count_kept
from metaprune_pl.reports.writing import write_result
from metaprune_pl.runs.context import Context
from metaprune_pl.stages.accuracy import accuracy


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How metanetworks are searched.

    Attributes:
        how: `binary` starts in the middle and goes to later epochs, which make networks easier to
            prune, as long as the flat region of the curve keeps its accuracy; `all` draws every
            curve.
        drop: How much lower than the networks' own validation accuracy that of the flat region may
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

    def floor(self, own: float) -> float:
        """Return the accuracy to keep, where that of the networks themselves is `own`."""
        return own - self.drop if self.target is None else self.target


def select(
    context: Context,
    data: ImageDataModule,
    *,
    grid: CurveSettings = CurveSettings(),  # noqa: B008  (frozen)
    masks: MaskSettings | None = None,
    search: SearchSettings = SearchSettings(),
    others: tuple[str, ...] = (),
    **preparation: Any,
) -> Selection:
    """Choose among the metanetworks of all epochs by their validation curves.

    The longest flat region of those that keep the accuracy; where none does, the most accurate.

    Args:
        context: Where to run.
        data: The images.
        grid: Which points.
        masks: Shares of weights that become zero, in place of `grid`: see `curve`.
        search: Which metanetworks are tried.
        others: Folders of further networks: the choice is by the means over all of them.
        preparation: The network, unknown to the metanetworks: see `Preparation`.

    Example:
        metaprune select --config select_quickstart.yaml
    """
    before = Preparation(**preparation)
    epochs = _epochs(before, grid, search)
    networks = _networks(before, others)
    own = fmean(_accuracy(context, data, network) for network in networks)
    floor = search.floor(own)
    curves: dict[int, list[Curve]] = {}

    def keeps_accuracy(index: int) -> bool:
        curves[index] = [_curve(context, data, one, epochs[index], grid, masks) for one in networks]
        return Shape.of(curves[index]).accuracy >= floor

    kept = count_kept(len(epochs), keeps_accuracy, search.how)
    milestone = epoch_of(epochs[kept - 1]) if 0 < kept < len(epochs) else None
    result = Selection.of(epochs, curves, kept, accuracy=own, target=floor, milestone=milestone)
    if context.is_global_zero:
        with whole_folder(context.folder / "metanetwork") as new:
            shutil.copytree(result.metanetwork, new, dirs_exist_ok=True)
        write_result(result, context.folder, context.events)
    return result


def _epochs(preparation: Preparation, grid: CurveSettings, search: SearchSettings) -> list[Path]:
    """Return the metanetworks to choose from.

    Raises:
        ConfigError: The curves would be of test images, or there is no folder of metanetworks, or
            not that epoch.
        StorageError: There is no metanetwork in it.
    """
    if grid.split != "validation":
        raise ConfigError(
            f"a metanetwork is chosen by validation images: set grid.split, which is {grid.split}."
        )
    if preparation.metanetwork is None:
        raise ConfigError("set metanetwork to the folder of the metanetworks to choose from.")
    epochs = stored_metanetworks(preparation.metanetwork)
    if search.epochs is not None:
        epochs = [path for path in epochs if epoch_of(path) in search.epochs]
    if not epochs:
        raise ConfigError(
            f"search.epochs: '{preparation.metanetwork}' holds no metanetwork of these epochs."
        )
    return epochs


def _networks(preparation: Preparation, others: Sequence[str]) -> list[Preparation]:
    """Return the networks whose curves are drawn.

    Raises:
        ConfigError: Two of them have one name.
    """
    if len({Path(path).name for path in (preparation.network, *others)}) <= len(others):
        raise ConfigError("others: each network once, in a folder of a name of its own.")
    return [preparation, *(replace(preparation, network=other) for other in others)]


def _accuracy(context: Context, data: ImageDataModule, preparation: Preparation) -> float:
    """Return the validation accuracy of a network as it is."""
    source = preparation.source
    network, _ = source.open(input_shape=data.input_shape, num_classes=data.num_classes)
    return accuracy(network, data, "validation", context.device)


def _curve(
    context: Context,
    data: ImageDataModule,
    preparation: Preparation,
    metanetwork: Path,
    grid: CurveSettings,
    masks: MaskSettings | None,
) -> Curve:
    """Draw the curve of a metanetwork, or read it where it was drawn before."""
    folder = context.folder / "curves" / metanetwork.name / Path(preparation.network).name
    if context.broadcast((folder / "curve.json").is_file()):
        return Curve.from_json(folder / "curve.json")
    inside, own = (
        replace(context, folder=folder),
        replace(preparation, metanetwork=str(metanetwork)),
    )
    return curve(inside, data, grid=grid, masks=masks, **vars(own))
