"""How classifiers are pruned, by their images."""

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.pipelines.preparation import Preparation
from metaprune_pl.pruning import Importance
from metaprune_pl.pruning.importance import Images
from metaprune_pl.pruning.pruner import Measured, Pruner
from metaprune_pl.pruning.recovery import Recovery, RepairSettings, Statistics
from metaprune_pl.runs.context import Context
from metaprune_pl.stages.accuracy import accuracy


def training_recovery(
    context: Context,
    data: ImageDataModule,
    statistics: Statistics,
    repair: RepairSettings | None = None,
) -> Recovery:
    """Return the recovery of classifiers, by training images without augmentation."""

    def sample(images: int) -> Iterator[Tensor]:
        order = data.sample("train", images)
        return (batch for batch, _ in data.evaluation("train", context.device, order))

    _, height, width = data.input_shape
    own = None if repair is None else repair.of_size(height, width)
    return Recovery(sample=sample, statistics=statistics, repair=own)


def measured_images(context: Context, data: ImageDataModule, importance: Importance) -> Images:
    """Return what an importance measures: training images without labels, or validation images."""
    if not importance.unlabelled:
        return partial(data.evaluation, "validation", context.device)
    order = data.sample("train", importance.unlabelled)
    return partial(data.evaluation, "train", context.device, order)


def classifier_pruner(
    context: Context,
    data: ImageDataModule,
    preparation: Preparation,
    *,
    masks: bool = False,
    finetuning: int = 0,
) -> Pruner:
    """Return how classifiers are pruned.

    Args:
        context: Where to run.
        data: The images.
        preparation: How.
        masks: Whether single weights become zero.
        finetuning: Training images that follow for each target.
    """
    settings = preparation.choice

    def score(network: nn.Module) -> float:
        assert settings is not None
        order = data.sample("validation", settings.images)
        return accuracy(network, data, "validation", context.device, order)

    choice = None
    if settings is not None:
        limit = settings.limit(finetuning, preparation.recovered)
        choice = Measured(settings=settings, limit=limit, score=score, broadcast=context.broadcast)
    return Pruner(
        criterion=preparation.importance(masks=masks),
        images=partial(measured_images, context, data),
        recovery=training_recovery(context, data, preparation.statistics, preparation.repair),
        choice=choice,
        balance=preparation.balance,
    )
