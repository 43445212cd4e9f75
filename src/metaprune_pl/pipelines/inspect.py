"""What the program sees in a network: the doctor that one runs before any training."""

from dataclasses import dataclass

import torch

from metaprune_pl.networks import load_network, read_card
from metaprune_pl.pruning import GroupNorm, PruningSettings, count_macs, count_parameters, prunable_groups
from metaprune_pl.pruning.structured import highest_speed_up


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a network.

    Attributes:
        nodes: Number of neurons.
        edges: Number of connected pairs of neurons.
        connections: Number of layers that connect them, identity shortcuts included.
        parameters: Number of parameters.
        covered: Share of the parameters that lie in the graph.
        outside: Names of the others.
        macs: Multiply-accumulates for one image.
        groups: Prunable channels of each pruning group.
        fixed: Number of channels that cannot be pruned.
        highest_speed_up: Speed-up with one channel left in each group.
    """

    nodes: int
    edges: int
    connections: int
    parameters: int
    covered: float
    outside: tuple[str, ...]
    macs: int
    groups: dict[str, int]
    fixed: int
    highest_speed_up: float


def inspect_network(folder: str) -> Inspection:
    """Trace a stored network and find its pruning groups.

    Args:
        folder: Folder of a stored network.
    """
    network, card = load_network(folder), read_card(folder)
    example = torch.zeros(1, *card.input_shape)
    groups = prunable_groups(network, example)
    graph = groups.graph
    sizes = dict(network.named_parameters())
    total = count_parameters(network)
    return Inspection(
        nodes=graph.num_nodes, edges=graph.num_edges, connections=len(graph.connections), parameters=total,
        covered=1 - sum(sizes[name].numel() for name in graph.outside) / total, outside=graph.outside,
        macs=count_macs(network, example),
        groups={name: size for name, size in zip(groups.names, groups.sizes().tolist(), strict=True) if size},
        fixed=int((~groups.prunable).sum()),
        highest_speed_up=highest_speed_up(groups, network.state_dict(), GroupNorm(), PruningSettings(step=0.05)),
    )  # fmt: skip
