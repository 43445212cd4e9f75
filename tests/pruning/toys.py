"""An importance, a cost and a target that somebody adds: a class each, and nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.pruning import Cost, Importance, Parameters, PruningGroups, Unpruned
from metaprune_pl.pruning.targets import ChannelTarget


@dataclass(frozen=True, kw_only=True)
class LastFirst(Importance):
    """The last channels of each layer go first.

    Attributes:
        sign: -1 lets the first ones go.
    """

    sign: float = 1.0

    def scores(
        self, groups: PruningGroups, measured: Mapping[str, Tensor], kept: Tensor | None = None
    ) -> Tensor:
        """Score each unit by its number in its group."""
        rank = torch.arange(len(groups.group)).double()
        first = torch.full((len(groups.names),), torch.inf, dtype=torch.double)
        first = first.scatter_reduce(0, groups.group, rank, "amin")
        return self.sign * (first[groups.group] - rank)


@dataclass(frozen=True, kw_only=True)
class Neurons(Cost):
    """Number of neurons."""

    unit: ClassVar[str] = "neurons"

    def of_network(self, network: nn.Module, example: Tensor) -> float:
        """Count output channels."""
        layers = (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
        return float(sum(layer.weight.shape[0] for layer in layers))

    def of_kept(
        self, network: nn.Module, graph: WeightGraph, example: Tensor
    ) -> Callable[[Tensor], float]:
        """Count kept neurons of all layers that write to them."""
        layers = [connection.target for connection in graph.connections if connection.parameter]
        return lambda kept: float(sum(int(kept[layer].sum()) for layer in layers))


@dataclass(frozen=True, kw_only=True)
class Bytes(ChannelTarget):
    """A size of the parameters in memory.

    Attributes:
        most: Bytes, four for each parameter.
    """

    most: int
    cost: ClassVar[Cost] = Parameters()

    @property
    def label(self) -> str:
        """The size."""
        return f"{self.most} bytes"

    @property
    def folder(self) -> str:
        """Name of the folder that its networks go to."""
        return f"bytes_{self.most}"

    def speed_up(self, unpruned: Unpruned) -> float:
        """Return the size of the network before any pruning over the one asked for."""
        return 4 * unpruned.base(self.cost) / self.most
