"""A network's weights as a graph: neurons are nodes, weights between them are edges.

Letters in shapes: N nodes, F node features, G blocks of a connection, O and I its output and input
neurons per block, T taps (kernel positions).
"""

from metaprune_pl.graphs.constraints import PruningConstraints
from metaprune_pl.graphs.features import SCHEMAS, Features, Schema, read, write
from metaprune_pl.graphs.trace import trace
from metaprune_pl.graphs.union import unite, unite_states
from metaprune_pl.graphs.weight_graph import (
    Connection,
    NeuronGroup,
    WeightGraph,
)

__all__ = [
    "SCHEMAS",
    "Connection",
    "Features",
    "NeuronGroup",
    "PruningConstraints",
    "Schema",
    "WeightGraph",
    "read",
    "trace",
    "unite",
    "unite_states",
    "write",
]
