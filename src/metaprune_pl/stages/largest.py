"""The largest speed-up of a classifier that keeps its accuracy."""

from collections.abc import Callable

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import PruningError
from metaprune_pl.pruning.targets.search import largest_speed_up
from metaprune_pl.stages.accuracy import accuracy


def largest_within(
    given: nn.Module,
    trained: Callable[[float], nn.Module],
    data: ImageDataModule,
    device: torch.device,
    *,
    drop: float,
    trials: int,
) -> tuple[float, dict[str, float]]:
    """Return the largest speed-up after which a network keeps its validation accuracy.

    Args:
        given: The network whose accuracy is to be kept.
        trained: Prunes to a speed-up and finetunes.
        data: The images, of which those of the test are left alone.
        device: Where accuracy is measured.
        drop: Share of the validation images that may be lost.
        trials: Trainings at most.

    Returns:
        The speed-up, and the validation accuracy that each trial came to, by its speed-up.

    Raises:
        PruningError: No speed-up keeps it.
    """
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
        rank_zero_info(
            f"Trial {len(kept) - 1} of {trials} at most: {value:g}x has {100 * reached:.2f} % of "
            f"the validation images, {100 * before:.2f} % before: "
            f"{'within' if fits else 'not within'} {100 * drop:g} %."
        )
        return fits

    best = largest_speed_up(allowed, trials)
    if best is None:
        raise PruningError(
            f"no speed-up keeps the validation accuracy within {100 * drop:g} %: train longer "
            "(--finetune_after.epochs), or allow a larger max_drop."
        )
    return best, kept
