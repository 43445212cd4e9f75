"""The largest speed-up of a classifier that keeps its accuracy."""

from collections.abc import Callable

from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import PruningError
from metaprune_pl.pruning.targets.search import largest_speed_up
from metaprune_pl.reports.text import percent
from metaprune_pl.stages.accuracy import accuracy


def largest_within(
    given: nn.Module,
    trained: Callable[[float], nn.Module],
    data: ImageDataModule,
    *,
    drop: float,
    trials: int,
) -> tuple[float, dict[str, float]]:
    """Return the largest speed-up that keeps the validation accuracy, and that of each trial.

    Args:
        given: The network whose accuracy is to be kept, on the device to measure on.
        trained: Prunes to a speed-up and finetunes.
        data: The images, of which those of the test are left alone.
        drop: Share of the validation images that may be lost.
        trials: Trainings at most.

    Raises:
        PruningError: No speed-up keeps it.
    """
    device = next(given.parameters()).device
    before = accuracy(given, data, "validation", device)
    kept: dict[str, float] = {"1": before}

    def allowed(value: float) -> bool:
        try:
            network = trained(value)
        except PruningError as error:
            rank_zero_info(f"{value:g}x: {error}")
            return False
        reached = accuracy(network, data, "validation", device)
        kept[f"{value:g}"] = reached
        fits = bool(reached >= before - drop)
        said = f"{value:g}x has {percent(reached)} % of the validation images, {percent(before)} %"
        side = "within" if fits else "not within"
        rank_zero_info(
            f"Trial {len(kept) - 1} of {trials}: {said} before: {side} {100 * drop:g} %."
        )
        return fits

    best = largest_speed_up(allowed, trials)
    if best is None:
        text = f"no speed-up keeps the validation accuracy within {100 * drop:g} %"
        raise PruningError(f"{text}: train longer (--finetune_after.epochs), or raise max_drop.")
    return best, kept
