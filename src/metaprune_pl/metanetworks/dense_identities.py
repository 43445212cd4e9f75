"""Identity shortcuts as the paper has them on CIFAR: dense, with zeros off the diagonal (D.2.1)."""

from dataclasses import replace

import torch

from metaprune_pl.graphs import Features, WeightGraph


def with_dense_identities(graph: WeightGraph, features: Features) -> tuple[WeightGraph, Features]:
    """Join the neurons of each identity shortcut all to all.

    Args:
        graph: With connections [C, 1, 1] for an identity of C channels.
        features: Of that.

    Returns:
        Graph and features with [1, C, C] in their place, 1 on the diagonal and 0 elsewhere.
    """
    connections, edges = list(graph.connections), list(features.edges)
    for index, connection in enumerate(graph.connections):
        if connection.parameter is None:
            connections[index] = replace(
                connection,
                target=connection.target.view(1, -1),
                source=connection.source.view(1, -1),
            )
            edges[index] = torch.diag(edges[index].flatten())[None, :, :, None]
    dense = replace(graph, connections=tuple(connections))
    return dense, Features(nodes=features.nodes, edges=tuple(edges))
