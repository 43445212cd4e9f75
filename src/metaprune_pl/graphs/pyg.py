"""The graph as torch_geometric data, for its users and the reference metanetwork."""

import torch
from torch import Tensor
from torch_geometric.data import Data

from metaprune_pl.graphs.features import Features
from metaprune_pl.graphs.weight_graph import WeightGraph


def to_pyg(graph: WeightGraph, features: Features) -> Data:
    """Return the graph as an edge list.

    Returns:
        `x` [N, F]; `edge_index` [2, E], from the input neuron to the output neuron of each weight;
        `edge_attr` [E, max T], each edge's taps first and zeros behind them; `edge_block` [E], the
        index of its connection.
    """
    width = max(edges.shape[-1] for edges in features.edges)
    values = []
    blocks = []
    for index, edges in enumerate(features.edges):
        flat = edges.reshape(-1, edges.shape[-1])
        missing = width - flat.shape[-1]
        values.append(torch.nn.functional.pad(flat, (0, missing)))
        blocks.append(torch.full((len(flat),), index))
    return Data(
        x=features.nodes,
        edge_index=edge_index(graph, features.nodes.device),
        edge_attr=torch.cat(values),
        edge_block=torch.cat(blocks).to(features.nodes.device),
    )


def edge_index(graph: WeightGraph, device: torch.device) -> Tensor:
    """Return the ends of all edges, from input neuron to output neuron, [2, E]."""
    index = []
    for connection in graph.connections:
        shape = connection.shape[:3]
        source = connection.source[:, None, :].expand(shape).flatten()
        target = connection.target[:, :, None].expand(shape).flatten()
        index.append(torch.stack([source, target]))
    return torch.cat(index, 1).to(device)


def from_pyg(graph: WeightGraph, nodes: Tensor, edges: Tensor) -> Features:
    """Undo `to_pyg` for new values: [N, F] and [E, max T]."""
    sizes = [connection.num_edges for connection in graph.connections]
    parts = edges.split(sizes)
    blocks = tuple(
        part[:, : connection.shape[-1]].reshape(connection.shape)
        for connection, part in zip(graph.connections, parts, strict=True)
    )
    return Features(nodes=nodes, edges=blocks)
