"""What every cost has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.networks.examples import Example


@dataclass(frozen=True, kw_only=True)
class Cost(ABC):
    """What a speed-up is of: a number that falls as channels are removed.

    Attributes:
        unit: What it counts, for people.
    """

    unit: ClassVar[str]

    @abstractmethod
    def of_network(self, network: nn.Module, example: Example) -> float:
        """Return the cost of a network.

        Args:
            network: In evaluation mode; left as it is.
            example: One input as a batch, such as an image [1, C, H, W], on the network's device.
        """

    def ratio(
        self, network: nn.Module, example: Example, other: nn.Module, others: Example
    ) -> float:
        """Return how many times more a network costs than another.

        Args:
            network: The one.
            example: Its input.
            other: The other.
            others: Its input.
        """
        return self.of_network(network, example) / self.of_network(other, others)

    @abstractmethod
    def of_kept(
        self, network: nn.Module, graph: WeightGraph, example: Example
    ) -> Callable[[Tensor], float]:
        """Return a function that gives the cost of a network of which some nodes are kept.

        A plan calls it some hundred times, so what needs the network itself is done before.

        Args:
            network: As it is now.
            graph: Its graph.
            example: One input as a batch, such as an image [1, C, H, W], on the network's device.

        Returns:
            Function from which nodes are kept (bool [N]) to the cost.
        """
