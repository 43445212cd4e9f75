"""Train a network for a task of one's own, and measure it."""

from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import NetworkSource
from metaprune_pl.stages.network_training import NetworkTraining
from metaprune_pl.stages.optimizers import OptimizerSettings
from metaprune_pl.stages.tasks import LearningTask


class TaskTraining(NetworkTraining):
    """Trains a network and stores the result as `network` in the run's folder.

    Args:
        network: Folder of a stored network.
        task: What it learns.
        optimizer: Optimiser and learning rate.
    """

    def __init__(self, *, network: str, task: LearningTask, optimizer: OptimizerSettings) -> None:
        super().__init__()
        self.network, self.card = NetworkSource(network=network).open()
        self.task = task
        self.optimizer = optimizer

    def setup(self, stage: str) -> None:
        """Lightning's hook."""
        self.network.train()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Lightning's hook."""
        loss = self.task.loss(self.network, batch)
        self.watch(loss)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss


@torch.no_grad()
def test_metric(
    network: nn.Module, task: LearningTask, data: LightningDataModule, device: torch.device
) -> float:
    """Return the mean of a task's metric over the test examples.

    Raises:
        ConfigError: There are none.
    """
    data.prepare_data()
    data.setup("test")
    network = network.to(device).eval()
    values = [
        task.metric(network, move_data_to_device(batch, device)).double().cpu().reshape(-1)
        for batch in data.test_dataloader()
    ]
    if not values:
        raise ConfigError("data: its test_dataloader gives no batches, which the metric is of.")
    return float(torch.cat(values).mean())
