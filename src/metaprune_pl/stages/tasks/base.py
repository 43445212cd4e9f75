"""What every task has in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import ConfigError
from metaprune_pl.stages.network_training import NetworkTraining
from metaprune_pl.stages.optimizers import OptimizerSettings


@dataclass(frozen=True, kw_only=True)
class LearningTask(ABC):
    """What a network learns from batches of its data, and how well it does.

    Attributes:
        part: Name of the part of the network that is pruned; empty is all of it.
    """

    part: ClassVar[str] = ""

    def check(  # noqa: B027  (not every task needs it)
        self, network: nn.Module, data: LightningDataModule
    ) -> None:
        """Refuse a network or data that the task is not for, before any time is spent."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar that a gradient step lowers.

        Args:
            network: In training mode.
            batch: What the data give, on the network's device.
        """

    def metric(self, network: nn.Module, batch: Any) -> Tensor:
        """Return how well the network does on each example of a batch, [B]; more is better.

        Args:
            network: In evaluation mode.
            batch: What the data give, on the network's device.

        Raises:
            ConfigError: The task has none; a task needs this or `scores`.
        """
        raise ConfigError(f"task: {type(self).__name__} has no `metric`. Write that, or `scores`.")

    def scores(self, network: nn.Module, batches: Iterable[Any]) -> Sequence[float]:
        """Return how well the network does on all test batches; the first number is what counts.

        It is the mean of `metric`. A task of another kind of score has a method of its own.

        Args:
            network: In evaluation mode.
            batches: As those of `metric`.

        Raises:
            ConfigError: There are none.
        """
        values = [self.metric(network, batch).double().cpu().reshape(-1) for batch in batches]
        if not values:
            raise ConfigError("data: its test_dataloader gives no batches, which the metric is of.")
        return [float(torch.cat(values).mean())]

    def sample(
        self, network: nn.Module, data: LightningDataModule, device: torch.device, examples: int
    ) -> Iterator[Tensor]:
        """Give what the part that is pruned reads of so many training examples, in batches.

        Args:
            network: The whole network.
            data: What it learns from.
            device: Where to.
            examples: How many.

        Raises:
            ConfigError: A batch does not begin with a tensor.
        """
        for batch in batches_of(data, "train", device):
            inputs = batch[0] if isinstance(batch, tuple | list) else batch
            if not isinstance(inputs, Tensor):
                raise ConfigError(
                    f"statistics and repair: a batch begins with {type(inputs).__name__}, no "
                    f"tensor. Set statistics to stale and repair to null, or write "
                    f"{type(self).__name__}.sample."
                )
            yield inputs[:examples]
            examples -= len(inputs)
            if examples <= 0:
                return

    def training(self, network: Path, optimizer: OptimizerSettings) -> NetworkTraining:
        """Return the training of a stored network."""
        from metaprune_pl.stages.task_training import TaskTraining  # which knows this class

        return TaskTraining(network=str(network), task=self, optimizer=optimizer)


def batches_of(data: LightningDataModule, split: str, device: torch.device) -> Iterator[Any]:
    """Give the batches of a part of some data on a device, `train` or `test`."""
    if isinstance(data, ImageDataModule):
        yield from data.evaluation("train" if split == "train" else "test", device)
        return
    data.prepare_data()
    data.setup("fit" if split == "train" else "test")
    for batch in data.train_dataloader() if split == "train" else data.test_dataloader():
        yield data.on_after_batch_transfer(data.transfer_batch_to_device(batch, device, 0), 0)
