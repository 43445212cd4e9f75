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

    return Recovery(sample=sample, statistics=statistics, repair=repair)


def classifier_pruner(context: Context, data: ImageDataModule, preparation: Preparation) -> Pruner:
    """Return how classifiers are pruned."""
    settings = preparation.choice

    def images(importance: Importance) -> Images:
        if not importance.unlabelled:
            return partial(data.evaluation, "validation", context.device)
        order = data.sample("train", importance.unlabelled)
        return partial(data.evaluation, "train", context.device, order)

    def score(network: nn.Module) -> float:
        assert settings is not None
        order = data.sample("validation", settings.images)
        return accuracy(network, data, "validation", context.device, order)

    choice = None
    if settings is not None:
        choice = Measured(settings=settings, score=score, broadcast=context.broadcast)
    return Pruner(
        criterion=preparation.criterion,
        images=images,
        recovery=training_recovery(context, data, preparation.statistics, preparation.repair),
        choice=choice,
    )
