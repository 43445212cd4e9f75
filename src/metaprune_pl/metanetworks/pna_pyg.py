"""The same metanetwork with torch_geometric's message passing: the reference that the tests compare `pna` with.

It gathers and scatters along an edge list, and is slow. Its parameters have the names of `PNAMetanetwork`'s.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import MultiAggregation

from metaprune_pl.graphs import Features, WeightGraph
from metaprune_pl.graphs.pyg import from_pyg, to_pyg
from metaprune_pl.metanetworks.pna import PNALayer, PNAMetanetwork


class _Messages(MessagePassing):
    """Equations (14), (15) and (18): products of both nodes' factors and the edge, aggregated four ways."""

    def __init__(self) -> None:
        super().__init__(aggr=MultiAggregation(["mean", "std", "max", "min"]))

    def forward(self, sender: Tensor, receiver: Tensor, edge_index: Tensor, edges: Tensor) -> Tensor:
        """Return [N, 4 H] from two factors [N, H], [2, E] and [E, H]."""
        size = (sender.shape[0], sender.shape[0])
        return self.propagate(edge_index, sender=sender, receiver=receiver, edges=edges, size=size)  # type: ignore[no-any-return]

    def message(self, sender_j: Tensor, receiver_i: Tensor, edges: Tensor) -> Tensor:
        """One message along each edge, [E, H]."""
        return sender_j * receiver_i * edges


class PyGMetanetwork(PNAMetanetwork):
    """`PNAMetanetwork` computed edge by edge; same arguments, same parameters, same function."""

    def forward(self, graph: WeightGraph, features: Features) -> Features:
        """Equations (12) to (23)."""
        data = to_pyg(graph, features)
        source, target = data.edge_index
        back = torch.stack([target, source])
        messages = _Messages()
        nodes = self.coding.encode_nodes(data.x)
        edges = self._encode(graph, data.edge_attr)
        for layer in self.layers:
            assert isinstance(layer, PNALayer)
            x = F.layer_norm(nodes, nodes.shape[-1:])
            s, r, p, q = layer.sender(x), layer.receiver(x), layer.edge_1(x), layer.edge_2(x)
            to_source = messages(s, r, back, edges)
            to_target = messages(s, r, data.edge_index, edges * layer.inverter)
            nodes = nodes + layer.aggregate(to_source) + layer.aggregate(to_target)
            edges = edges + p[target] * q[source] * edges + p[source] * q[target] * (edges * layer.inverter)
        return from_pyg(graph, self.coding.decode_nodes(nodes, data.x), self._decode(graph, edges, data.edge_attr))

    def _encode(self, graph: WeightGraph, edges: Tensor) -> Tensor:
        parts = edges.split([connection.num_edges for connection in graph.connections])
        return torch.cat(
            [
                self.coding.encode_edges(part[:, : connection.shape[-1]], connection.kernel)
                for connection, part in zip(graph.connections, parts, strict=True)
            ]
        )

    def _decode(self, graph: WeightGraph, hidden: Tensor, edges: Tensor) -> Tensor:
        sizes = [connection.num_edges for connection in graph.connections]
        new = []
        for connection, part, old in zip(graph.connections, hidden.split(sizes), edges.split(sizes), strict=True):
            taps = connection.shape[-1]
            decoded = self.coding.decode_edges(part, old[:, :taps], connection.kernel)
            new.append(F.pad(decoded, (0, old.shape[-1] - taps)))
        return torch.cat(new)
