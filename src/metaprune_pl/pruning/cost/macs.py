"""Multiply-accumulates as a cost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.networks.examples import Example
from metaprune_pl.pruning.cost.base import Cost
from metaprune_pl.pruning.macs import count_macs


@dataclass(frozen=True, kw_only=True)
class Macs(Cost):
    """Multiply-accumulates for one image."""

    unit: ClassVar[str] = "multiply-accumulates"

    def of_network(self, network: nn.Module, example: Example) -> int:
        """Count all operators: see `count_macs`."""
        return count_macs(network, example)

    def of_kept(
        self, network: nn.Module, graph: WeightGraph, example: Example
    ) -> Callable[[Tensor], float]:
        """Count the graph's, and add those that no pruning reaches: see `Cost.of_kept`."""
        everything = torch.ones(graph.num_nodes, dtype=torch.bool)
        outside = count_macs(network, example) - graph.macs(everything)
        assert outside >= 0, f"{-outside} multiply-accumulates of the graph were not counted"
        return lambda kept: graph.macs(kept) + outside
