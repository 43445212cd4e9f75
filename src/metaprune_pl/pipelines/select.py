"""`select`: which epoch's metanetwork, by validation curves (paper, D.1.2)."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.files import whole_folder
from metaprune_pl.metanetworks.search import SearchSettings
from metaprune_pl.metanetworks.storage import epoch_of
from metaprune_pl.pipelines.curve import curve
from metaprune_pl.pruning import MaskSettings
from metaprune_pl.reports import Curve, Selection
from metaprune_pl.reports.choice import Shape
from metaprune_pl.runs.context import Context
from metaprune_pl.stages.accuracy import accuracy
from metaprune_pl.stages.curve_points import CurveSettings
from metaprune_pl.stages.preparation import Preparation


def select(
    context: Context,
    data: ImageDataModule,
    *,
    grid: CurveSettings = CurveSettings(),  # noqa: B008  (frozen)
    masks: MaskSettings | None = None,
    search: SearchSettings = SearchSettings(),  # noqa: B008  (frozen)
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
    grid.check_chooses("a metanetwork is chosen")
    epochs, networks = search.among(before.metanetwork), _networks(before, others)
    own = fmean(_accuracy(context, data, network) for network in networks)
    floor = search.floor(own)
    curves: dict[int, list[Curve]] = {}

    def keeps_accuracy(index: int) -> bool:
        curves[index] = [_curve(context, data, one, epochs[index], grid, masks) for one in networks]
        return Shape.of(curves[index]).accuracy >= floor

    kept = search.count_kept(len(epochs), keeps_accuracy)
    milestone = epoch_of(epochs[kept - 1]) if 0 < kept < len(epochs) else None
    result = Selection.of(epochs, curves, kept, accuracy=own, target=floor, milestone=milestone)
    if context.is_global_zero:
        with whole_folder(context.folder / "metanetwork") as new:
            shutil.copytree(result.metanetwork, new, dirs_exist_ok=True)
    return context.write(result)


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
    network, _ = preparation.open(input_shape=data.input_shape, num_classes=data.num_classes)
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
