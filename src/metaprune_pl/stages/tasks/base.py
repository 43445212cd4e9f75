"""What every task has in common."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LearningTask(ABC):
    """What a network learns from batches of its data, and how well it does."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar that a gradient step lowers.

        Args:
            network: In training mode.
            batch: What the data give, on the network's device.
        """

    @abstractmethod
    def metric(self, network: nn.Module, batch: Any) -> Tensor:
        """Return how well the network does on each example of a batch, [B]; more is better.

        Args:
            network: In evaluation mode.
            batch: What the data give, on the network's device.
        """
