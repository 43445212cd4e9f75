"""Parameters as a cost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.networks.examples import Example
from metaprune_pl.pruning.cost.base import Cost

BYTES_EACH = 4
"""Of a parameter, as it is stored."""


@dataclass(frozen=True, kw_only=True)
class Parameters(Cost):
    """Trainable and frozen parameters."""

    unit: ClassVar[str] = "parameters"

    def of_network(self, network: nn.Module, example: Example) -> int:
        """Count them: see `count_parameters`."""
        return count_parameters(network)

    def of_kept(
        self, network: nn.Module, graph: WeightGraph, example: Example
    ) -> Callable[[Tensor], float]:
        """Count the graph's, and add those that no pruning reaches: see `Cost.of_kept`."""
        shapes = {name: value.shape for name, value in network.named_parameters()}
        everything = torch.ones(graph.num_nodes, dtype=torch.bool)
        outside = count_parameters(network) - _in_graph(graph, shapes, everything)
        return lambda kept: _in_graph(graph, shapes, kept) + outside


def count_parameters(network: nn.Module) -> int:
    """Count trainable and frozen parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _in_graph(graph: WeightGraph, shapes: Mapping[str, torch.Size], kept: Tensor) -> int:
    """Count the entries of parameters that belong to kept nodes."""
    count = 0
    for connection in graph.connections:
        if connection.parameter in shapes:
            targets = kept[connection.target].sum(1)
            sources = kept[connection.source].sum(1)
            count += int((targets * sources).sum()) * connection.shape[-1]
    for group in graph.groups:
        nodes = int(kept[group.start : group.stop].sum())
        for name in set(group.slots.values()) & shapes.keys():
            slots = [slot for slot in group.slots if group.slots[slot] == name]
            count += nodes * max(1, sum(slot in group.rows for slot in slots))
    for follower in graph.constraints.followers:
        if (shape := shapes.get(follower.parameter)) is not None:
            stays = int(((follower.nodes < 0) | kept[follower.nodes]).sum())
            count += stays * (shape.numel() // shape[follower.dim])
    return count
