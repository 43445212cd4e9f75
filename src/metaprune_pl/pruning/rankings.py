"""Which units compete with each other for their place in the network."""

from typing import Literal, get_args

import torch
from torch import Tensor

from metaprune_pl.graphs import Connection
from metaprune_pl.pruning.groups import PruningGroups

Ranking = Literal["global", "uniform", "isomorphic"]
"""Whether all units compete (`global`), those of each group (`uniform`), or those of groups of the
same kind (`isomorphic`: Fang et al., Isomorphic Pruning for Vision Models, ECCV 2024). Each of
several competitions loses the same share of its units."""
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)


def competition(groups: PruningGroups, ranking: Ranking) -> Tensor:
    """Return the index of the competition that each unit is in, [U]."""
    if ranking == "global":
        return torch.zeros_like(groups.group)
    if ranking == "uniform":
        return groups.group
    return kinds_of(groups)[groups.group]


def kinds_of(groups: PruningGroups) -> Tensor:
    """Return the index of the kind of each pruning group: alike but for their widths."""
    numbers: dict[tuple[object, ...], int] = {}
    return torch.tensor([numbers.setdefault(kind, len(numbers)) for kind in _kinds(groups)])


def _kinds(groups: PruningGroups) -> list[tuple[object, ...]]:
    """Describe the layers, norms and shortcuts of each group, whatever the widths."""
    graph = groups.graph
    kinds: list[list[object]] = [[] for _ in groups.names]
    group_of_node = groups.group[groups.unit]
    for connection in graph.connections:
        for role, nodes in (("writes", connection.target), ("reads", connection.source)):
            members = group_of_node[nodes.flatten()]
            for index in members.unique().tolist():
                kinds[index].append((role, *_kind(connection)))
    for neurons in graph.groups:
        members = group_of_node[neurons.start : neurons.stop]
        for index in members.unique().tolist():
            kinds[index].append(("holds", *sorted(neurons.slots)))
    return [tuple(sorted(map(str, parts))) for parts in kinds]


def _kind(connection: Connection) -> tuple[object, ...]:
    """Describe a layer whatever its width."""
    conv_groups, outputs, inputs, _ = connection.shape
    grouping = "depthwise" if outputs == inputs == 1 else "grouped"
    return (
        connection.parameter is None,
        connection.kernel,
        grouping if conv_groups > 1 else "full",
        0 if connection.rows is None else connection.rows.shape[1],
    )
