"""Accuracy of classifiers: metrics of the trainings, and the same measured at once."""

import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from metaprune_pl.data import ImageDataModule
from metaprune_pl.data.images import Split
from metaprune_pl.data.loader import Order

FEW = 10
"""Number of classes up to which the first five say nothing."""


def accuracies(classes: int, part: str) -> MetricCollection:
    """Return `accuracy`, and `accuracy_top_5` where there are more than 10 classes.

    Args:
        classes: Number of scores that the network gives.
        part: Which images they are of: the first half of their names in the logs.
    """
    sizes = {"accuracy": 1} | ({"accuracy_top_5": 5} if classes > FEW else {})
    metrics = {name: top(size, classes) for name, size in sizes.items()}
    return MetricCollection(dict(metrics), prefix=f"{part}/", compute_groups=False)


def top(size: int, classes: int) -> MulticlassAccuracy:
    """Return the share of images whose label is among so many classes of the highest scores."""
    return MulticlassAccuracy(classes, size, average="micro", validate_args=False)


@torch.inference_mode()
def accuracy(
    network: nn.Module,
    data: ImageDataModule,
    split: Split,
    device: torch.device,
    order: Order | None = None,
) -> float:
    """Share of images of a part of the data, or of an order, that are classified correctly."""
    network = network.to(device).eval()
    correct = total = 0
    for images, labels in data.evaluation(split, device, order):
        correct += int((network(images).argmax(1) == labels).sum())
        total += len(labels)
    return correct / total
