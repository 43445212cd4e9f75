"""The metanetwork of the paper (appendix B.1) on dense blocks.

A network's graph is a union of complete bipartite blocks, so messages are never gathered along an
edge list: they are broadcast products, and their mean, standard deviation, maximum and minimum are
reductions of dense tensors that are merged over all blocks which meet at a node. `pna_pyg` computes
the same function edge by edge.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import Features, WeightGraph
from metaprune_pl.metanetworks import library
from metaprune_pl.metanetworks.base import Rewriter
from metaprune_pl.metanetworks.blocks import batch_blocks
from metaprune_pl.metanetworks.coding import Coding, KernelSizes
from metaprune_pl.metanetworks.dense_identities import with_dense_identities
from metaprune_pl.metanetworks.engine import Edges
from metaprune_pl.metanetworks.kernels import Kernels
from metaprune_pl.metanetworks.native import DTYPES, NativeKernels
from metaprune_pl.metanetworks.plain import PlainKernels

Engine = Literal["auto", "plain", "native"]
Aggregator = Literal["mean", "std", "max", "min"]
AGGREGATORS: tuple[Aggregator, ...] = ("mean", "std", "max", "min")
"""Statistics of the messages in the order of equation (18)."""
WORTH = 2e7
"""Edges x hidden x layers from which on compiling the C++ engine pays: the plain one takes about a
second a step."""


class PNALayer(nn.Module):
    """The nodes' part of one message passing layer, equations (14) to (19).

    `sender` and `receiver` are MLP_Node 1 and 2, `edge_1` and `edge_2` MLP_Edge 1 and 2,
    `aggregate` MLP_Aggr; each of the first four is one linear layer with SiLU, the last one linear
    layer, as in the authors' code.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.sender = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU())
        self.receiver = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU())
        self.edge_1 = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU())
        self.edge_2 = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU())
        self.aggregate = nn.Linear(4 * hidden, hidden)

    def senders(self) -> tuple[Tensor, Tensor]:
        """Weight [4 H, H] and bias [4 H] of MLP_Node 2 and 1 and MLP_Edge 1 and 2."""
        first = [network[0] for network in (self.receiver, self.sender, self.edge_1, self.edge_2)]
        weights, biases = zip(*((linear.weight, linear.bias) for linear in first), strict=True)
        return torch.cat(weights), torch.cat(biases)

    def split(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return `senders` of a layer that updates nodes alone, and of one that updates edges."""
        weight, bias = self.senders()
        edges = torch.arange(len(bias), device=bias.device) >= len(bias) // 2
        return (weight * ~edges[:, None], bias * ~edges), (weight, bias)


class PNAMetanetwork(Rewriter):
    """Message passing with principal neighbourhood aggregation and a multiplicative edge update.

    Untrained it is the identity: the last decoder layers start at zero.

    Args:
        layers: Number of message passing layers.
        hidden: Width H of hidden node and edge features.
        schema: Node features: `resnet` and `vgg` are the paper's, `universal` holds them all.
        kernels: `pad` centres every kernel in the largest one; `per_size` has an encoder for each
            number of taps.
        taps: The number of kernel positions to pad to, or all numbers that occur, such as [1, 9,
            49].
        node_ratio: Residual coefficient of node features, alpha in equation (22).
        edge_ratio: Residual coefficient of edge features, beta in equation (23).
        edge_scale: Factor on edge features before their encoder.
        aggregators: Statistics of the messages that nodes see, of `mean`, `std`, `max` and `min`.
        identity: Edges of identity shortcuts: `diagonal`, or `dense` with zeros elsewhere.
        edge_update: Nodes that edges are updated from: those of `before` a layer or `after` it.
        encoder_layers: 1, or 2 with SiLU between; edges then need memory for `hidden` each.
        engine: Who computes: `plain` is PyTorch on any device; `native` is C++ on the CPU, compiled
            on first use, and an error where it cannot run; `auto` is `native` where it can run and
            pays. It changes no result and is not stored with the metanetwork.

    Raises:
        ConfigError: A size is below 1, the taps do not fit the kernels, or there are no
            aggregators.
    """

    inverter: Tensor
    """EdgeInvertor: 1 or -1 for each hidden channel, [H]."""
    seen: Tensor
    """1 for the aggregators that nodes see and 0 for others, [4 H]."""

    def __init__(
        self,
        *,
        layers: int = 8,
        hidden: int = 64,
        schema: str = "resnet",
        kernels: KernelSizes = "pad",
        taps: list[int] | None = None,
        node_ratio: float = 0.01,
        edge_ratio: float = 0.01,
        edge_scale: float = 1.0,
        aggregators: tuple[Aggregator, ...] = AGGREGATORS,
        identity: Literal["diagonal", "dense"] = "diagonal",
        edge_update: Literal["before", "after"] = "before",
        encoder_layers: int = 1,
        engine: Engine = "auto",
    ) -> None:
        _check(layers, hidden, aggregators)
        coding: dict[str, Any] = {
            "kernels": kernels,
            "taps": [9] if taps is None else taps,
            "node_ratio": node_ratio,
            "edge_ratio": edge_ratio,
            "edge_scale": edge_scale,
            "encoder_layers": encoder_layers,
        }
        own = {"aggregators": list(aggregators), "identity": identity, "edge_update": edge_update}
        sizes = {"layers": layers, "hidden": hidden, "schema": schema}
        super().__init__(schema=schema, arguments={**sizes, **coding, **own})
        self.coding = Coding(node_features=len(self.schema.slots), hidden=hidden, **coding)
        self.identity, self.edge_update = identity, edge_update
        seen = torch.tensor([float(name in aggregators) for name in AGGREGATORS])
        self.register_buffer("seen", seen.repeat_interleave(hidden), persistent=False)
        self.register_buffer(
            "inverter", torch.where(torch.arange(hidden) < hidden // 2, 1.0, -1.0), persistent=False
        )
        self.engine: Engine = engine
        self.layers = nn.ModuleList(PNALayer(hidden) for _ in range(layers))

    def forward(self, graph: WeightGraph, features: Features) -> Features:
        """Equations (12) to (23)."""
        if self.identity == "diagonal":
            return self.rewrite_features(graph, features)
        new = self.rewrite_features(*with_dense_identities(graph, features))
        known = zip(graph.connections, new.edges, features.edges, strict=True)
        edges = (old if c.parameter is None else own for c, own, old in known)
        return Features(nodes=new.nodes, edges=tuple(edges))

    def aggregator(self, layer: PNALayer) -> tuple[Tensor, Tensor]:
        """MLP_Aggr of a layer, of the aggregators that nodes see: weight [H, 4 H] and bias [H]."""
        return layer.aggregate.weight * self.seen, layer.aggregate.bias

    def rewrite_features(self, graph: WeightGraph, features: Features) -> Features:
        """Equations (12) to (23) on the graph as it is."""
        blocks = batch_blocks(graph, features.nodes.device)
        self.coding.check_kernels(
            {block.kernel: graph.connections[block.members[0]].name for block in blocks}
        )
        encoders = {}
        decoders = {}
        for kernel in {block.kernel for block in blocks}:
            encoders[kernel] = self.coding.edge_encoder(kernel)
            decoders[kernel] = self.coding.edge_decoder(kernel)
        kernels = self._kernels(graph.num_edges, features.nodes)
        self.engine_used = kernels.name
        raw = self._raw(graph, features.edges)
        edges = Edges(
            blocks,
            raw,
            [encoders[block.kernel] for block in blocks],
            [decoders[block.kernel] for block in blocks],
            len(features.nodes),
            self.inverter,
            kernels,
        )
        nodes = self.coding.encode_nodes(features.nodes)
        for layer in self.layers:
            assert isinstance(layer, PNALayer)
            received = self.aggregator(layer)
            if self.edge_update == "before":
                nodes = edges.pass_messages(nodes, layer.senders(), received)
                continue
            first, second = layer.split()
            nodes = edges.pass_messages(nodes, first, received)
            nothing = torch.zeros_like(received[0]), torch.zeros_like(received[1])
            nodes = edges.pass_messages(nodes, second, nothing)
        new: list[Tensor] = list(features.edges)
        members = [member for block in blocks for member in block.members]
        for member, part in zip(members, edges.decode(), strict=True):
            new[member] = part
            if self.coding.deep:
                old = features.edges[member]
                new[member] = old + (part - raw[member])[..., : old.shape[-1]]
        return Features(nodes=self.coding.decode_nodes(nodes, features.nodes), edges=tuple(new))

    def _raw(self, graph: WeightGraph, edges: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what the last layer of the edge encoders reads, [G, O, I, T] or [G, O, I, W]."""
        if not self.coding.deep:
            return edges
        each = zip(graph.connections, edges, strict=True)
        return tuple(self.coding.lift(own, connection.kernel) for connection, own in each)

    def _kernels(self, num_edges: int, nodes: Tensor) -> type[Kernels]:
        """Choose who computes."""
        runs = nodes.device.type == "cpu" and nodes.dtype in DTYPES
        if self.engine == "native":
            if not runs:
                raise ConfigError(
                    f"engine 'native' is for the CPU and float32 or float64, not {nodes.device} "
                    f"and {nodes.dtype}. Take 'auto'."
                )
            library.load()
            return NativeKernels
        pays = num_edges * len(self.layers) * self.coding.hidden >= WORTH
        if self.engine == "auto" and runs and pays and library.available():
            return NativeKernels
        return PlainKernels


def _check(layers: int, hidden: int, aggregators: Sequence[str]) -> None:
    """Refuse what makes no metanetwork."""
    if layers < 1 or hidden < 2:
        raise ConfigError("metanetwork: layers must be at least 1 and hidden at least 2.")
    if not aggregators or len(set(aggregators)) < len(aggregators):
        raise ConfigError("metanetwork: name at least one of the aggregators, and each once.")
