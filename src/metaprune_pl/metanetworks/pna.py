"""The metanetwork of the paper (appendix B.1) on dense blocks.

A network's graph is a union of complete bipartite blocks, so messages are never gathered along an edge list: they are
broadcast products, and their mean, standard deviation, maximum and minimum are reductions of dense tensors that are
merged over all blocks which meet at a node. `pna_pyg` computes the same function edge by edge.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import Features, WeightGraph
from metaprune_pl.graphs.features import schema_of
from metaprune_pl.metanetworks.base import Metanetwork
from metaprune_pl.metanetworks.coding import Coding, Kernels

FLOOR = 1e-5
"""Variances below this count as zero, as in torch_geometric's standard deviation."""


class PNALayer(nn.Module):
    """The networks of one message passing layer, equations (14) to (19).

    `sender` and `receiver` are MLP_Node 1 and 2, `edge_1` and `edge_2` MLP_Edge 1 and 2, `aggregate` MLP_Aggr; each of
    the first four is one linear layer with SiLU, the last one linear layer, as in the authors' code.
    """

    inverter: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.sender = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU())
        self.receiver = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU())
        self.edge_1 = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU())
        self.edge_2 = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU())
        self.aggregate = nn.Linear(4 * hidden, hidden)
        signs = torch.ones(hidden)
        signs[hidden // 2 :] = -1
        self.register_buffer("inverter", signs, persistent=False)


@dataclass(frozen=True, eq=False)
class Block:
    """Connections of equal shape side by side.

    Attributes:
        members: Numbers of the connections.
        target: Nodes that it leads to, [G, O].
        source: Nodes that it comes from, [G, I].
    """

    members: tuple[int, ...]
    target: Tensor
    source: Tensor


class PNAMetanetwork(Metanetwork):
    """Message passing with principal neighbourhood aggregation and a multiplicative edge update.

    Untrained it is the identity: the last decoder layers start at zero.

    Args:
        layers: Number of message passing layers.
        hidden: Width H of hidden node and edge features.
        schema: Node features: `resnet` and `vgg` are the paper's, `universal` holds them all.
        kernels: `pad` centres every kernel in the largest one; `per_size` has an encoder for each number of taps.
        taps: The number of kernel positions to pad to, or all numbers that occur, such as [1, 9, 49].
        node_ratio: Residual coefficient of node features, alpha in equation (22).
        edge_ratio: Residual coefficient of edge features, beta in equation (23).
        edge_scale: Factor on edge features before their encoder.

    Raises:
        ConfigError: A size is below 1 or the taps do not fit the kernels.
    """

    def __init__(
        self,
        *,
        layers: int = 8,
        hidden: int = 64,
        schema: str = "resnet",
        kernels: Kernels = "pad",
        taps: list[int] | None = None,
        node_ratio: float = 0.01,
        edge_ratio: float = 0.01,
        edge_scale: float = 1.0,
    ) -> None:
        if layers < 1 or hidden < 2:
            raise ConfigError("metanetwork: layers must be at least 1 and hidden at least 2.")
        taps = [9] if taps is None else taps
        super().__init__(
            schema=schema,
            arguments={
                "layers": layers, "hidden": hidden, "schema": schema, "kernels": kernels, "taps": taps,
                "node_ratio": node_ratio, "edge_ratio": edge_ratio, "edge_scale": edge_scale,
            },
        )  # fmt: skip
        self.coding = Coding(
            node_features=len(schema_of(schema).slots), hidden=hidden, kernels=kernels, taps=taps,
            node_ratio=node_ratio, edge_ratio=edge_ratio, edge_scale=edge_scale,
        )  # fmt: skip
        self.layers = nn.ModuleList(PNALayer(hidden) for _ in range(layers))

    def forward(self, graph: WeightGraph, features: Features) -> Features:
        """Equations (12) to (23)."""
        blocks = _batch(graph, features.nodes.device)
        nodes = self.coding.encode_nodes(features.nodes)
        raw = [torch.cat([features.edges[m] for m in block.members]) for block in blocks]
        kernels = [graph.connections[block.members[0]].kernel for block in blocks]
        edges = [self.coding.encode_edges(e, kernel) for e, kernel in zip(raw, kernels, strict=True)]
        for layer in self.layers:
            assert isinstance(layer, PNALayer)
            nodes, edges = _pass_messages(layer, nodes, edges, blocks)
        new: list[Tensor] = list(features.edges)
        for block, values, old, kernel in zip(blocks, edges, raw, kernels, strict=True):
            decoded = self.coding.decode_edges(values, old, kernel)
            parts = decoded.split([graph.connections[m].shape[0] for m in block.members])
            for member, part in zip(block.members, parts, strict=True):
                new[member] = part
        return Features(nodes=self.coding.decode_nodes(nodes, features.nodes), edges=tuple(new))


def _batch(graph: WeightGraph, device: torch.device) -> list[Block]:
    """Put connections of equal shape side by side: a few large blocks instead of many small ones."""
    numbered = list(enumerate(graph.connections))

    def key(item: tuple[int, object]) -> tuple[int, ...]:
        connection = graph.connections[item[0]]
        return (*connection.shape[1:3], *connection.kernel)

    blocks = []
    for _, found in itertools.groupby(sorted(numbered, key=key), key=key):
        same = list(found)
        blocks.append(
            Block(
                members=tuple(number for number, _ in same),
                target=torch.cat([connection.target for _, connection in same]).to(device),
                source=torch.cat([connection.source for _, connection in same]).to(device),
            )
        )
    return blocks


def _pass_messages(
    layer: PNALayer, nodes: Tensor, edges: list[Tensor], blocks: list[Block]
) -> tuple[Tensor, list[Tensor]]:
    """One layer, equations (14) to (19): nodes [N, H] and each block's edges [G, O, I, H]."""
    x = F.layer_norm(nodes, nodes.shape[-1:])
    sender, receiver = layer.sender(x), layer.receiver(x)
    sender_back = sender * layer.inverter
    p, q = layer.edge_1(x), layer.edge_2(x)
    p_back = p * layer.inverter
    to_source, to_target, updated = _Inbox(nodes), _Inbox(nodes), []
    for block, e in zip(blocks, edges, strict=True):
        target, source = block.target[:, :, None], block.source[:, None, :]  # [G, O, 1] and [G, 1, I]
        to_source.receive(sender[target] * e, 1, block.source)  # equation (14)
        to_target.receive(sender_back[source] * e, 2, block.target)  # equation (15)
        updated.append(e * (1 + p[target] * q[source] + q[target] * p_back[source]))  # equation (19)
    delta = sum(layer.aggregate(inbox.statistics(receiver)) for inbox in (to_source, to_target))
    return nodes + delta, updated  # equation (17)


class _Inbox:
    """Messages to nodes in one direction, reduced block by block.

    The receiving node's own factor is the same for all its messages, so it is applied to the reduced values.
    """

    def __init__(self, nodes: Tensor) -> None:
        self.shape = nodes.shape
        self.index: list[Tensor] = []
        self.parts: list[list[Tensor]] = [[], [], [], []]  # sum, sum of squares, maximum, minimum; each [P, H]
        self.counts: list[Tensor] = []

    def receive(self, messages: Tensor, dim: int, receivers: Tensor) -> None:
        """Reduce the messages of one block, [G, O, I, H], over the senders' dimension, for receivers [G, R]."""
        reduced = (messages.sum(dim), messages.square().sum(dim), messages.amax(dim), messages.amin(dim))
        for part, values in zip(self.parts, reduced, strict=True):
            part.append(values.flatten(0, 1))
        self.index.append(receivers.flatten())
        self.counts.append(messages.new_full((receivers.numel(),), messages.shape[dim]))

    def statistics(self, factor: Tensor) -> Tensor:
        """Return [mean, standard deviation, maximum, minimum] of each node's messages, [N, 4 H], equation (18).

        Nodes without messages get zeros.
        """
        index = torch.cat(self.index)
        total, squares, high, low = (torch.cat(part) for part in self.parts)
        zeros = factor.new_zeros(self.shape)
        count = factor.new_zeros(self.shape[0]).index_add(0, index, torch.cat(self.counts)).clamp(min=1)[:, None]
        mean = factor * zeros.index_add(0, index, total) / count
        variance = factor.square() * zeros.index_add(0, index, squares) / count - mean.square()
        deviation = variance.clamp(min=FLOOR).sqrt()
        deviation = deviation.masked_fill(variance <= FLOOR, 0.0)
        where = index[:, None].expand_as(high)
        high = factor * zeros.scatter_reduce(0, where, high, "amax", include_self=False)
        low = factor * zeros.scatter_reduce(0, where, low, "amin", include_self=False)
        positive = factor >= 0
        return torch.cat([mean, deviation, torch.where(positive, high, low), torch.where(positive, low, high)], 1)
