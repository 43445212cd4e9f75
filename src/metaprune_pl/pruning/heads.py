"""Pruning of whole attention heads, instead of the same channels of all heads."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.graphs.constraints import (
    Attention,
    Extent,
    Follower,
)

AttentionUnits = Literal["width", "heads"]
"""What goes together in attention: the same channels of all heads, or all channels of a head."""


def by_heads(graph: WeightGraph, network: nn.Module) -> WeightGraph:
    """Return the topology with whole heads tied, instead of the channels of all heads.

    Args:
        graph: Topology as traced.
        network: Its network, for parameters with a value for each head (tables of relative
            positions, temperatures).
    """
    head, owner = torch.full((2, graph.num_nodes), -1)
    for index, attention in enumerate(graph.constraints.attentions):
        for part in attention.parts:
            head[part] = torch.arange(len(part))[:, None].expand_as(part)
            owner[part] = index
    first, second = graph.constraints.ties
    across = (owner[first] >= 0) & (owner[first] == owner[second]) & (head[first] != head[second])
    whole = [_tied(part) for attention in graph.constraints.attentions for part in attention.parts]
    whole += [
        _tied(torch.stack([p[:, 0] for p in attention.parts], 1))
        for attention in graph.constraints.attentions
    ]
    inside = [
        extent
        for extent in graph.constraints.extents
        if bool((owner[torch.cat(extent.parts)] >= 0).all())
        and len(head[torch.cat(extent.parts)].unique()) == 1
    ]
    counts = [
        Extent(module=a.module, parts=(a.parts[0][:, 0],), heads=True).named(
            network.get_submodule(a.module)
        )
        for a in graph.constraints.attentions
    ]
    constraints = replace(
        graph.constraints,
        ties=torch.cat([graph.constraints.ties[:, ~across], *whole], 1),
        mixed=graph.constraints.mixed[owner[graph.constraints.mixed] < 0],
        extents=(
            *(e for e in graph.constraints.extents if all(e is not other for other in inside)),
            *counts,
        ),
        followers=(
            *graph.constraints.followers,
            *(f for a in graph.constraints.attentions for f in _tables(a, graph, network)),
        ),
    )
    return replace(graph, constraints=constraints)


def _tied(rows: Tensor) -> Tensor:
    """Pairs that tie the nodes of each row, [2, pairs]."""
    return torch.stack([rows[:, :1].expand_as(rows).flatten(), rows.flatten()])


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
