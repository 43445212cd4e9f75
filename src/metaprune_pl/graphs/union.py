"""Several networks as one graph, so that a metanetwork takes them in one pass."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from metaprune_pl.graphs.weight_graph import (
    Followed,
    WeightGraph,
)


def unite(graphs: Sequence[WeightGraph]) -> WeightGraph:
    """Put graphs side by side: nodes in turn, and the names of the i-th begin with `i.`.

    It is for `read` and `write`: what is there for pruning alone is that of the first.
    """
    groups = []
    connections = []
    start = 0
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    followed: list[Followed] = []
    aliases: dict[str, str] = {}
    for index, graph in enumerate(graphs):
        for group in graph.groups:
            slots = {slot: f"{index}.{name}" for slot, name in group.slots.items()}
            groups.append(replace(group, start=start + group.start, slots=slots))
        for connection in graph.connections:
            parameter = None if connection.parameter is None else f"{index}.{connection.parameter}"
            source = connection.source + start
            target = connection.target + start
            connections.append(
                replace(connection, parameter=parameter, source=source, target=target)
            )
        aliases |= {f"{index}.{alias}": f"{index}.{name}" for alias, name in graph.aliases.items()}
        followed += [replace(part, nodes=part.nodes + start) for part in graph.followed]
        inputs.append(graph.inputs + start)
        outputs.append(graph.output + start)
        start += graph.num_nodes
    return replace(
        graphs[0],
        groups=tuple(groups),
        connections=tuple(connections),
        inputs=torch.cat(inputs),
        output=torch.cat(outputs),
        followed=tuple(followed),
        aliases=aliases,
    )


def unite_states(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Parameters and buffers of all networks, by their names in the united graph."""
    return {
        f"{index}.{name}": value
        for index, state in enumerate(states)
        for name, value in state.items()
    }
