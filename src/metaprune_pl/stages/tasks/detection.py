"""Detection of objects."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from metaprune_pl.data import VOC
from metaprune_pl.stages.detection import (
    AveragePrecision,
    DetectorTraining,
    check_detector,
    losses_of,
    total,
)
from metaprune_pl.stages.optimizers import OptimizerSettings
from metaprune_pl.stages.tasks.base import LearningTask


@dataclass(frozen=True, kw_only=True)
class Detection(LearningTask):
    """Boxes of objects, by a detector of torchvision, whose backbone is pruned (paper, F.4)."""

    part: ClassVar[str] = "backbone"

    def check(self, network: nn.Module, data: LightningDataModule) -> None:
        """Refuse what is no detector, or no boxes of its classes: see `check_detector`."""
        check_detector(network, data)

    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        """Sum of the losses of proposals and head: see `LearningTask.loss`."""
        return total(losses_of(network, batch))

    def scores(self, network: nn.Module, batches: Iterable[Any]) -> Sequence[float]:
        """Mean average precision over overlaps of 0.5 to 0.95, and at 0.5: see `AveragePrecision`.

        Args:
            network: In evaluation mode.
            batches: `Scenes`.
        """
        precision = AveragePrecision()
        for images, targets in batches:
            precision.update(network(images), targets)
        return precision.summary()

    def sample(
        self, network: nn.Module, data: LightningDataModule, device: torch.device, examples: int
    ) -> Iterator[Tensor]:
        """Training images as the detector resizes them: see `LearningTask.sample`."""
        assert isinstance(data, VOC)
        transform = network.get_submodule("transform")
        for batch in data.evaluation("train", device, examples):
            yield transform(batch.images)[0].tensors

    def training(self, network: Path, optimizer: OptimizerSettings) -> DetectorTraining:
        """Training that logs each loss, and validates: see `LearningTask.training`."""
        return DetectorTraining(network=str(network), optimizer=optimizer)
