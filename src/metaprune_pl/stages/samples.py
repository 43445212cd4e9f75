"""What importances, statistics and repairs measure: images of a classifier's data."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from metaprune_pl.data import ImageDataModule
from metaprune_pl.pruning import Importance
from metaprune_pl.pruning.importance import Images
from metaprune_pl.pruning.recovery import Recovery, RepairSettings, Statistics


def measured_images(data: ImageDataModule, device: torch.device, importance: Importance) -> Images:
    """Return what an importance measures: training images without labels, or validation images."""
    if not importance.unlabelled:
        return partial(data.evaluation, "validation", device)
    order = data.sample("train", importance.unlabelled)
    return partial(data.evaluation, "train", device, order)


def training_recovery(
    data: ImageDataModule,
    device: torch.device,
    statistics: Statistics,
    repair: RepairSettings | None = None,
) -> Recovery:
    """Return the recovery of classifiers, by training images without augmentation."""

    def sample(images: int) -> Iterator[Tensor]:
        order = data.sample("train", images)
        return (batch for batch, _ in data.evaluation("train", device, order))

    _, height, width = data.input_shape
    own = None if repair is None else repair.of_size(height, width)
    return Recovery(sample=sample, statistics=statistics, repair=own)
