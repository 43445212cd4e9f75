"""Accuracy of classifiers: metrics of the trainings, and the same measured at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from metaprune_pl.data import ImageDataModule
from metaprune_pl.data.images import Split
from metaprune_pl.data.loader import Order
from metaprune_pl.networks.storage import TRAINED

FEW = 10
"""Number of classes up to which the first five say nothing."""
CHANCE = 1.2
"""Accuracy below so many times that of guessing counts as chance."""


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


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Shares of images that are classified correctly.

    Attributes:
        top_1: Label is the highest score.
        top_5: Label is among the five highest; None for up to 10 classes.
    """

    top_1: float
    top_5: float | None

    def record(self, name: str) -> dict[str, float]:
        """Return what a card remembers of it: `NAME`, and `NAME_top_5` where there is one."""
        top_5 = {} if self.top_5 is None else {f"{name}_top_5": self.top_5}
        return {name: self.top_1, **top_5}


@torch.inference_mode()
def measure_accuracy(
    network: nn.Module,
    data: ImageDataModule,
    split: Split,
    device: torch.device,
    order: Order | None = None,
) -> Accuracy:
    """Measure the accuracy on a part of the data, or on an order of its images."""
    network = network.to(device).eval()
    first = five = total = 0
    few = False
    for images, labels in data.evaluation(split, device, order):
        scores = network(images)
        few = scores.shape[1] <= FEW
        first += int((scores.argmax(1) == labels).sum())
        if not few:
            five += int((scores.topk(5).indices == labels[:, None]).sum())
        total += len(labels)
    return Accuracy(top_1=first / total, top_5=None if few else five / total)


def accuracy(
    network: nn.Module,
    data: ImageDataModule,
    split: Split,
    device: torch.device,
    order: Order | None = None,
) -> float:
    """Share of images of a part of the data, or of an order, that are classified correctly."""
    return measure_accuracy(network, data, split, device, order).top_1


def by_chance(top_1: float, classes: int) -> str:
    """Say of an accuracy on the test images that it is that of guessing; nothing otherwise."""
    if top_1 * classes >= CHANCE:
        return ""
    return f"classifies {100 * top_1:.1f} % of the test images, hardly better than chance"


@dataclass(frozen=True, kw_only=True)
class AccuracyBefore:
    """Test accuracies of a network before it is pruned.

    Attributes:
        base: Trained, before any pruning; that of `given` where nobody has recorded another.
        given: As given.
        ready: Ready for pruning.
    """

    base: Accuracy
    given: float
    ready: float


def accuracy_before(
    given: nn.Module,
    ready: nn.Module,
    record: Mapping[str, Any],
    data: ImageDataModule,
    device: torch.device,
) -> AccuracyBefore:
    """Measure a network before pruning, on the test images.

    Args:
        given: The network as it was given.
        ready: The network ready for pruning.
        record: What its card remembers.
        data: The images.
        device: Where to measure.
    """
    measured = measure_accuracy(given, data, "test", device)
    if said := by_chance(measured.top_1, data.num_classes):
        rank_zero_info(
            f"The network as given {said}: has it its weights (--state), and have the images "
            "the normalization that it was trained with?"
        )
    base = measured
    if TRAINED in record:
        base = Accuracy(top_1=record[TRAINED], top_5=record.get(f"{TRAINED}_top_5"))
    own = accuracy(ready, data, "test", device)
    return AccuracyBefore(base=base, given=measured.top_1, ready=own)
