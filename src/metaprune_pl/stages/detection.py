"""Train a detector, dense or with a pruned backbone."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision

from metaprune_pl.data.voc import VOC, Scenes
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import NetworkSource
from metaprune_pl.networks.detector import is_detector, num_classes_of
from metaprune_pl.stages.network_training import NetworkTraining
from metaprune_pl.stages.optimizers import OptimizerSettings


def check_detector(network: nn.Module, data: object) -> None:
    """Refuse a network that detects nothing, or other objects than the data have.

    Raises:
        ConfigError: It is no detector, or the numbers of classes differ.
    """
    if not is_detector(network):
        raise ConfigError(
            f"the network is a {type(network).__name__}, no detector. Set network to faster_rcnn."
        )
    if not isinstance(data, VOC):
        raise ConfigError("a detector learns from boxes: set data to VOC.")
    if num_classes_of(network) != data.num_classes:
        raise ConfigError(
            f"the detector tells {num_classes_of(network)} classes apart, the background among "
            "them, and the data have "
            f"{data.num_classes}."
        )


class AveragePrecision(MeanAveragePrecision):
    """Mean average precision as COCO defines it, of detectors' answers.

    Difficult objects do not count.

    It is no mean over images, so each process of a run sees them all and counts for itself.
    """

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        self.warn_on_many_detections = False  # a detector gives 100 at most

    def summary(self) -> tuple[float, float]:
        """Return the mean over overlaps of 0.5 to 0.95, and that at 0.5.

        0 where there are no objects.
        """
        precisions = self.compute()
        return max(0.0, float(precisions["map"])), max(0.0, float(precisions["map_50"]))


def losses_of(detector: nn.Module, batch: Scenes) -> dict[str, Tensor]:
    """Return the losses of proposals and head, classes and boxes (Ren et al., 2015)."""
    losses: dict[str, Tensor] = detector(
        batch.images, [_learnt(target) for target in batch.targets]
    )
    return losses


def total(losses: dict[str, Tensor]) -> Tensor:
    """Return the sum of losses."""
    return torch.stack(list(losses.values())).sum()


class DetectorTraining(NetworkTraining):
    """Trains a detector and stores the result as `network` in the run's folder.

    Args:
        network: Folder of a stored detector, or `faster_rcnn`.
        optimizer: Optimiser and learning rate.
        arguments: Keyword arguments of the builder that is named.

    Raises:
        ConfigError: The network is no detector.
        StorageError: There is no such network.
    """

    def __init__(
        self, *, network: str, optimizer: OptimizerSettings, arguments: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.network, self.card = NetworkSource(network=network, arguments=arguments).open()
        self.optimizer = optimizer
        self.precision_at = AveragePrecision()

    def setup(self, stage: str) -> None:
        """Check that the detector fits the data."""
        check_detector(self.network.train(), self.trainer.datamodule)  # type: ignore[attr-defined]

    def training_step(self, batch: Scenes, batch_idx: int) -> Tensor:
        """Sum of the losses of proposals and head: see `losses_of`."""
        losses = losses_of(self.network, batch)
        loss = total(losses)
        self.watch(loss)
        values = {f"train/{name}": value.detach() for name, value in losses.items()} | {
            "train/loss": loss.detach()
        }
        self.log_dict(
            values, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch.images)
        )
        return loss

    def probe(self, batch: Scenes) -> Tensor:
        """Loss of a batch: see `Stage.probe`."""
        return total(losses_of(self.network, batch))

    def validation_step(self, batch: Scenes, batch_idx: int) -> None:
        """Collect detections on the validation images."""
        self.precision_at.update(self.network(batch.images), batch.targets)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the mean average precision on the validation images."""
        self._log_precision("val")

    def on_test_epoch_end(self) -> None:
        """Log the mean average precision on the test images."""
        self._log_precision("test")

    def _log_precision(self, part: str) -> None:
        mean, half = self.precision_at.summary()
        self.precision_at.reset()
        self.log_dict({f"{part}/map": mean, f"{part}/map_50": half}, prog_bar=True, sync_dist=True)


def _learnt(target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Objects that a detector learns: those that are not difficult."""
    easy = target["iscrowd"] == 0
    return {name: target[name][easy] for name in ("boxes", "labels")}
