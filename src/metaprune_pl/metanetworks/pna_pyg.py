"""The same metanetwork with torch_geometric's message passing.

The reference that the tests compare `pna` with.

It gathers and scatters along an edge list, and is slow. Its parameters have the names of
`PNAMetanetwork`'s.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from metaprune_pl.graphs import Features, WeightGraph
from metaprune_pl.metanetworks.pna import PNALayer, PNAMetanetwork


class PyGMetanetwork(PNAMetanetwork):
    """`PNAMetanetwork` computed edge by edge; same arguments, same parameters, same function."""

    def rewrite_features(self, graph: WeightGraph, features: Features) -> Features:
        """Equations (12) to (23) on the graph as it is."""
        # here, as only this class needs torch_geometric
        from metaprune_pl.graphs.pyg import edge_index
        from metaprune_pl.metanetworks.pyg_messages import Messages

        self.coding.check_kernels(
            {connection.kernel: connection.name for connection in graph.connections}
        )
        index = edge_index(graph, features.nodes.device)
        source, target = index
        back = index.flip(0)
        messages = Messages()
        nodes = self.coding.encode_nodes(features.nodes)
        edges = self._encode(graph, features)
        for layer in self.layers:
            assert isinstance(layer, PNALayer)
            x = F.layer_norm(nodes, nodes.shape[-1:])
            s, r, p, q = layer.sender(x), layer.receiver(x), layer.edge_1(x), layer.edge_2(x)
            to_source = messages(s, r, back, edges)
            to_target = messages(s, r, index, edges * self.inverter)
            aggregate = self.aggregator(layer)
            nodes = nodes + F.linear(to_source, *aggregate) + F.linear(to_target, *aggregate)
            if self.edge_update == "after":
                x = F.layer_norm(nodes, nodes.shape[-1:])
                p, q = layer.edge_1(x), layer.edge_2(x)
            edges = (
                edges
                + p[target] * q[source] * edges
                + p[source] * q[target] * (edges * self.inverter)
            )
        return Features(
            nodes=self.coding.decode_nodes(nodes, features.nodes),
            edges=self._decode(graph, edges, features),
        )

    def _encode(self, graph: WeightGraph, features: Features) -> Tensor:
        return torch.cat(
            [
                self.coding.encode_edges(edges.flatten(0, 2), connection.kernel)
                for connection, edges in zip(graph.connections, features.edges, strict=True)
            ]
        )

    def _decode(self, graph: WeightGraph, hidden: Tensor, features: Features) -> tuple[Tensor, ...]:
        parts = hidden.split([connection.num_edges for connection in graph.connections])
        return tuple(
            self.coding.decode_edges(part.unflatten(0, old.shape[:3]), old, connection.kernel)
            for connection, part, old in zip(graph.connections, parts, features.edges, strict=True)
        )
