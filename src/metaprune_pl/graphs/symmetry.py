"""Factors that channels may be multiplied by, and divided by afterwards, without any effect.

Any positive number where ReLU or another function that is linear along rays follows; -1 where an
odd function such as tanh follows; both where only linear operations do.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from metaprune_pl.graphs.features import Features, read, schema_of, write
from metaprune_pl.graphs.weight_graph import WeightGraph

Factor = Literal["scale", "sign"]
"""A positive number, or -1."""


def refusal(graph: WeightGraph, factor: Factor) -> str | None:
    """Return which layer of a network has not this symmetry and why, or None where all have it."""
    hidden = hidden_nodes(graph)
    if graph.unfollowed:
        return f"the trace could not follow everything ({graph.unfollowed[0]})"
    for followed in graph.followed:
        nodes = followed.nodes[hidden[followed.nodes]]
        if factor not in followed.keeps and len(nodes):
            layer = next(g.name for g in graph.groups if g.start <= int(nodes[0]) < g.stop)
            where = f" in '{followed.module}'" if followed.module else ""
            return f"layer '{layer}' is followed by {followed.operator}{where}"
    return None


def hidden_nodes(graph: WeightGraph) -> Tensor:
    """Nodes that are neither inputs nor outputs, bool [N]."""
    ends = torch.cat([graph.inputs, graph.output])
    return torch.ones(graph.num_nodes, dtype=torch.bool).index_fill(
        0,
        ends,
        False,
    )


def following_norms(graph: WeightGraph) -> tuple[list[int], Tensor]:
    """Which batch norm follows each connection, and which nodes have one.

    A group is named after the layer that produces it: its norm follows what that layer gives;
    another layer that leads there is a shortcut's.

    Returns:
        For each connection 0 (none), 1 (its target's norm) or 2 (its target's shortcut's norm); and
        which nodes have a norm and a shortcut's norm, bool [2, N].
    """
    group_of = torch.cat([torch.full((g.size,), i) for i, g in enumerate(graph.groups)])
    following = []
    for connection in graph.connections:
        group = graph.groups[int(group_of[connection.target.flatten()[0]])]
        if connection.parameter is None:
            norm = int(connection.name == group.name)
        else:
            layer = connection.parameter.removesuffix(".weight")
            own = layer, layer.partition(".")[2]  # a united graph puts a number before it
            norm = 1 if group.name in own else 2
        slot = ("", "norm.var", "shortcut_norm.var")[norm]
        following.append(norm if slot in group.slots else 0)
    normed = [
        torch.cat([torch.full((g.size,), f"{norm}.var" in g.slots) for g in graph.groups])
        for norm in ("norm", "shortcut_norm")
    ]
    return following, torch.stack(normed)


def common_factors(graph: WeightGraph) -> Tensor:
    """Number the sets of nodes that identities connect, so that they share a factor, [N]."""
    following, _ = following_norms(graph)
    numbers = torch.arange(graph.num_nodes)
    before = None
    while before is None or not torch.equal(numbers, before):
        before = numbers.clone()
        for connection, norm in zip(graph.connections, following, strict=True):
            if connection.parameter is None and norm == 0:
                source = connection.source[:, 0]
                target = connection.target[:, 0]
                low = torch.minimum(numbers[source], numbers[target])
                numbers.scatter_reduce_(
                    0,
                    source,
                    low,
                    "amin",
                )
                numbers.scatter_reduce_(
                    0,
                    target,
                    low,
                    "amin",
                )
    return numbers


def rescale(graph: WeightGraph, state: Mapping[str, Tensor], factors: Tensor) -> dict[str, Tensor]:
    """Multiply what leads to each channel, and divide what leaves it.

    Args:
        graph: Topology of the network.
        state: Its parameters and buffers by name.
        factors: Of each node, [N]; 1 for inputs and outputs, equal where `common_factors` are.
    """
    schema = schema_of("universal")
    features = read(graph, state, schema)
    following, normed = following_norms(graph)
    factors = factors.to(features.nodes)
    before = torch.ones_like(factors)  # what a norm without a layer of its own reads
    edges = list(features.edges)
    for index, (connection, norm) in enumerate(zip(graph.connections, following, strict=True)):
        if connection.parameter is not None:
            factor = edge_factors(
                factors,
                connection.target,
                connection.source,
                norm,
            )
            edges[index] = edges[index] * factor
        elif norm:
            before[connection.target[:, 0]] = factors[connection.source[:, 0]]
    columns = dict(zip(schema.slots, features.nodes.unbind(1), strict=True))
    for prefix, has in zip(("", "shortcut_"), normed.to(factors.device), strict=True):
        weight = f"{prefix}norm.weight"
        bias = f"{prefix}norm.bias"
        own_bias = f"{prefix}bias"
        columns[weight] = columns[weight] * torch.where(has, factors / before, 1)
        columns[bias] = columns[bias] * torch.where(has, factors, 1)
        columns[own_bias] = columns[own_bias] * torch.where(has, 1, factors)
    nodes = torch.stack(list(columns.values()), 1)
    new = write(
        graph,
        Features(nodes=nodes, edges=tuple(edges)),
        state,
        schema,
    )
    for group in graph.groups:
        if "norm.mean" in group.slots:  # statistics are not written otherwise
            name = group.slots["norm.mean"]
            new[name] = state[name] * before[group.start : group.stop]
    return new


def edge_factors(
    factors: Tensor,
    target: Tensor,
    source: Tensor,
    norm: int,
) -> Tensor:
    """Factor of a connection's weights, [G, O, I, 1]; a norm that follows takes the target's."""
    own = 1 if norm else factors[target][:, :, None, None]
    return own / factors[source][:, None, :, None]
