"""Train a network for a task of one's own, and measure it."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from rich.progress import track
from torch import Tensor, nn

from metaprune_pl.networks import NetworkSource
from metaprune_pl.stages.network_training import NetworkTraining
from metaprune_pl.stages.optimizers import OptimizerSettings
from metaprune_pl.stages.tasks import LearningTask
from metaprune_pl.stages.tasks.base import batches_of


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

    def probe(self, batch: Any) -> Tensor:
        """Squared norms of the weights, as a task's loss may do anything: see `Stage.probe`."""
        return torch.stack([weight.square().sum() for weight in self.network.parameters()])


@torch.no_grad()
def task_scores(
    network: nn.Module, task: LearningTask, data: LightningDataModule, device: torch.device
) -> Sequence[float]:
    """Return a task's scores on the test examples: see `LearningTask.scores`."""
    batches = track(batches_of(data, "test", device), "Test examples", transient=True)
    return task.scores(network.to(device).eval(), batches)
