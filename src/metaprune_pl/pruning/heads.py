"""Pruning of whole attention heads, instead of the same channels of all heads."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.graphs.constraints import Attention, Extent, Follower, PruningConstraints
from metaprune_pl.pruning.groups import tied

AttentionUnits = Literal["width", "heads"]
"""What goes together in attention: the same channels of all heads, or all channels of a head."""


def by_heads(graph: WeightGraph, network: nn.Module) -> WeightGraph:
    """Return the topology with whole heads tied, instead of the channels of all heads.

    Args:
        graph: Topology as traced.
        network: Its network, for parameters with a value for each head (tables of relative
            positions, temperatures).
    """
    constraints = graph.constraints
    head, owner = _heads_and_owners(graph)
    first, second = constraints.ties
    across = (owner[first] >= 0) & (owner[first] == owner[second]) & (head[first] != head[second])
    counts = [
        Extent(
            module=attention.module,
            parts=(attention.parts[0][:, 0],),
            heads=True,
        ).named(network.get_submodule(attention.module))
        for attention in constraints.attentions
    ]
    tables = [
        follower
        for attention in constraints.attentions
        for follower in _tables(attention, graph, network)
    ]
    by_head = replace(
        constraints,
        ties=torch.cat([constraints.ties[:, ~across], *_ties_of_heads(constraints)], 1),
        mixed=constraints.mixed[owner[constraints.mixed] < 0],
        extents=(
            *(e for e in constraints.extents if not _within_a_head(e, head, owner)),
            *counts,
        ),
        followers=(*constraints.followers, *tables),
    )
    return replace(graph, constraints=by_head)


def _heads_and_owners(graph: WeightGraph) -> tuple[Tensor, Tensor]:
    """Index of the head and of the attention that each node belongs to, -1 for none, [N] each."""
    head, owner = torch.full((2, graph.num_nodes), -1)
    for index, attention in enumerate(graph.constraints.attentions):
        for part in attention.parts:
            head[part] = torch.arange(len(part))[:, None].expand_as(part)
            owner[part] = index
    return head, owner


def _ties_of_heads(constraints: PruningConstraints) -> list[Tensor]:
    """Pairs that tie the channels of each head, then the parts of a head, [2, pairs] each."""
    within = [tied(part) for attention in constraints.attentions for part in attention.parts]
    between = [
        tied(torch.stack([part[:, 0] for part in attention.parts], 1))
        for attention in constraints.attentions
    ]
    return within + between


def _within_a_head(extent: Extent, head: Tensor, owner: Tensor) -> bool:
    """Whether an extent counts the channels of a single head."""
    nodes = torch.cat(extent.parts)
    return bool((owner[nodes] >= 0).all()) and len(head[nodes].unique()) == 1


def _tables(attention: Attention, graph: WeightGraph, network: nn.Module) -> list[Follower]:
    """Parameters of an attention module with one value, row or column for each head."""
    known = {*graph.parameters, *(follower.parameter for follower in graph.constraints.followers)}
    heads = attention.parts[0][:, 0]
    prefix = f"{attention.module}." if attention.module else ""
    followers = []
    for name, parameter in network.named_parameters():
        dims = [dim for dim, size in enumerate(parameter.shape) if size == len(heads) > 1]
        if name.startswith(prefix) and name not in known and len(dims) == 1:
            followers.append(Follower(parameter=name, dim=dims[0], nodes=heads))
    return followers
