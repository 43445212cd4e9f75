"""Balance the scales of a network's channels without changing its function.

A magnitude criterion compares weights of different channels, and these may be rescaled freely: a
channel that is large before its activation and small after it counts twice as it should and half as
it should. Balanced, the weights that lead to a channel and those that leave it have the same sum of
absolute values, which is the smallest sum that rescaling reaches.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import WeightGraph, read
from metaprune_pl.graphs.features import schema_of
from metaprune_pl.graphs.symmetry import (
    common_factors,
    edge_factors,
    following_norms,
    hidden_nodes,
    refusal,
    rescale,
)

SWEEPS = 100
"""Passes over the layers at most."""
TOLERANCE = 1e-6
"""Relative gain of a sweep below which it is good enough."""


def balance(graph: WeightGraph, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Balance channels: the same function, with an l1 norm that is at most as large.

    Args:
        graph: Topology of the network.
        state: Its parameters and buffers by name.

    Raises:
        PruningError: The channels of a layer cannot be rescaled, since what follows is not linear
            along rays.
    """
    check_balance(graph)
    return rescale(graph, state, _factors(_Sums.of(graph, state)))


def check_balance(graph: WeightGraph) -> None:
    """Refuse networks whose channels cannot be rescaled.

    Raises:
        PruningError: The channels of a layer cannot be, since what follows is not linear along
            rays.
    """
    reason = refusal(graph, "scale")
    if reason is not None:
        raise PruningError(
            f"the channels cannot be balanced: {reason}, which rescaling changes. It needs ReLU, "
            "leaky ReLU or linear operations. Leave `balance` out."
        )


def balanced_copy(graph: WeightGraph, network: nn.Module) -> nn.Module:
    """Return a copy of a network with balanced channels: see `balance`."""
    copied = copy.deepcopy(network)
    copied.load_state_dict(balance(graph, network.state_dict()))
    return copied


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums of absolute values.

    Attributes:
        graph: The network.
        nodes: Of what scales with a node alone (biases, norms), [N].
        edges: Of each edge's kernel, [G, O, I] for each connection.
        following: See `following_norms`; here a norm that stands alone is a kernel.
        common: See `common_factors`.
        free: Nodes whose factor is not 1, bool [N].
    """

    graph: WeightGraph
    nodes: Tensor
    edges: tuple[Tensor, ...]
    following: list[int]
    common: Tensor
    free: Tensor

    @classmethod
    def of(cls, graph: WeightGraph, state: Mapping[str, Tensor]) -> "_Sums":
        """Read a network's weights."""
        schema = schema_of("universal")
        features = read(graph, state, schema)
        following, normed = following_norms(graph)
        values = dict(
            zip(schema.slots, features.nodes.detach().double().cpu().abs().t(), strict=True)
        )
        weights = values["norm.weight"] * normed[0] + values["shortcut_norm.weight"] * normed[1]
        nodes = weights.clone()
        for prefix, has in zip(("", "shortcut_"), normed, strict=True):
            nodes += torch.where(has, values[f"{prefix}norm.bias"], values[f"{prefix}bias"])
        edges = [edge.detach().double().cpu().abs().sum(3) for edge in features.edges]
        for index, connection in enumerate(graph.connections):
            if connection.parameter is None:  # the weight of a norm that stands alone, or nothing
                own = weights[connection.target] * following[index]
                edges[index] = own[:, :, None]
                nodes[connection.target] -= own
                following[index] = 0
        common = common_factors(graph)
        bound = torch.zeros(graph.num_nodes).index_add(
            0,
            common,
            (~hidden_nodes(graph)).float(),
        )
        return cls(
            graph,
            nodes,
            tuple(edges),
            following,
            common,
            bound[common] == 0,
        )

    def at(self, factors: Tensor, members: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Sums of what grows and of what shrinks with each node's factor, [N] each.

        Args:
            factors: Where.
            members: Indices of the connections to count.
        """
        grows = self.nodes * factors
        shrinks = torch.zeros_like(self.nodes)
        for index in members:
            connection = self.graph.connections[index]
            norm = self.following[index]
            target = connection.target
            source = connection.source
            now = self.edges[index] * edge_factors(factors, target, source, norm)[..., 0]
            if norm == 0:
                grows.index_add_(0, target.flatten(), now.sum(2).flatten())
            shrinks.index_add_(0, source.flatten(), now.sum(1).flatten())
        return grows, shrinks

    def total(self, factors: Tensor) -> float:
        """The l1 norm at these factors."""
        pairs = zip(
            self.graph.connections,
            self.edges,
            self.following,
            strict=True,
        )
        edges = [
            (e * edge_factors(factors, c.target, c.source, norm)[..., 0]).sum()
            for c, e, norm in pairs
        ]
        return float((self.nodes * factors).sum() + torch.stack(edges).sum())


def _factors(sums: _Sums) -> Tensor:
    """Find the factors of the nodes, [N]: layer by layer q = sqrt(out / in), as long as it pays."""
    best = torch.ones(len(sums.nodes), dtype=torch.float64)
    least = sums.total(best)
    layers = [(layer, _touched(sums, layer)) for layer in _layers(sums)]
    for _ in range(SWEEPS):
        factors = best.clone()
        for layer, members in layers:
            factors = factors * _balanced(sums, factors, layer, members)
        total = sums.total(factors)
        if not total < least:
            break
        gain = (least - total) / least
        best = factors
        least = total
        if gain < TOLERANCE:
            break
    return best


def _balanced(
    sums: _Sums,
    factors: Tensor,
    layer: Tensor,
    members: Sequence[int],
) -> Tensor:
    """What to multiply the factors of a layer by, given those of all others, [N]."""
    grows, shrinks = (
        torch.zeros_like(part).index_add(0, sums.common, part)[sums.common]
        for part in sums.at(factors, members)
    )
    live = layer & (grows > 0) & (shrinks > 0)
    ratio = (shrinks / grows.where(live, torch.ones_like(grows))).sqrt()
    return torch.where(live, ratio, 1)


def _layers(sums: _Sums) -> list[Tensor]:
    """Nodes whose factors are computed together: a group and all tied to it, bool [N] each."""
    layers = []
    done = ~sums.free
    for group in sums.graph.groups:
        nodes = torch.zeros_like(done)
        nodes[group.start : group.stop] = True
        layer = torch.isin(sums.common, sums.common[nodes]) & ~done
        if layer.any():
            layers.append(layer)
            done = done | layer
    return layers


def _touched(sums: _Sums, layer: Tensor) -> list[int]:
    """Indices of the connections that lead to a layer or leave it."""
    return [
        index
        for index, connection in enumerate(sums.graph.connections)
        if layer[connection.target].any() or layer[connection.source].any()
    ]
