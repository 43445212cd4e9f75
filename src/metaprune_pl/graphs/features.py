"""Values on the graph: read a network's parameters as node and edge features, and write them back.

Both directions go by parameter name through the same tables, so `write(read(x))` is `x`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metaprune_pl.errors import ConfigError, TraceError, did_you_mean
from metaprune_pl.graphs.weight_graph import (
    NeuronGroup,
    WeightGraph,
)

_NORM = {"weight": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}
_BATCH_NORMS = {
    f"{norm}.{name}": value for norm in ("norm", "shortcut_norm") for name, value in _NORM.items()
}
_BIASES = {"bias": 0.0, "q_bias": 0.0, "k_bias": 0.0, "v_bias": 0.0}
_UNIVERSAL = {
    **_BATCH_NORMS,
    **_BIASES,
    "scale": 1.0,
    "shortcut_bias": 0.0,
    "shortcut_scale": 1.0,
    "layer_norm.weight": 1.0,
    "layer_norm.bias": 0.0,
    "shortcut_layer_norm.weight": 1.0,
    "shortcut_layer_norm.bias": 0.0,
}
READ_ONLY = ("mean", "var")
"""Last part of the slots that hold running statistics: they are read, not written."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Which node features there are.

    Attributes:
        slots: Slot name to the value that stands for its absence, in the order of the features.
        aliases: Slots without a feature of their own to the one they use where it is free.
    """

    slots: dict[str, float]
    aliases: dict[str, str]

    def column(self, slot: str, group: NeuronGroup) -> int:
        """Return the feature that a group's slot is kept in.

        Raises:
            TraceError: The schema has no place for it.
        """
        name = slot
        if name not in self.slots:
            name = self.aliases.get(slot, slot)
            if name not in self.slots or name in group.slots:
                raise TraceError(
                    f"this schema has no place for '{slot}' of '{group.name}' "
                    f"({group.slots[slot]}). "
                    "Take the schema 'universal'."
                )
        return list(self.slots).index(name)


SCHEMAS = {
    "resnet": Schema(slots=_BATCH_NORMS, aliases={"bias": "norm.bias"}),
    "vgg": Schema(
        slots={f"norm.{name}": value for name, value in _NORM.items()} | {"bias": 0.0}, aliases={}
    ),
    "bias": Schema(slots={"bias": 0.0}, aliases={}),
    "vit": Schema(slots={"layer_norm.weight": 1.0, "layer_norm.bias": 0.0, **_BIASES}, aliases={}),
    "universal": Schema(slots=_UNIVERSAL, aliases={}),
}
"""The paper's node features (D.2.1: `resnet`, 8; D.3: `vgg`, 5; G.1: `vit`, 6), and one that holds
them all."""


def schema_of(name: str) -> Schema:
    """Return a schema by name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in SCHEMAS:
        raise ConfigError(
            f"no schema '{name}'.{did_you_mean(name, SCHEMAS)} Known: {', '.join(SCHEMAS)}."
        )
    return SCHEMAS[name]


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Values on a graph.

    Attributes:
        nodes: Node features, [N, F].
        edges: Edge features of each connection, [G, O, I, T]; those of identities are ones.
    """

    nodes: Tensor
    edges: tuple[Tensor, ...]


def read(graph: WeightGraph, state: Mapping[str, Tensor], schema: Schema) -> Features:
    """Read a network's parameters and buffers as features.

    Args:
        graph: Topology of the network.
        state: Parameter or buffer name to value.
        schema: Which node features there are.

    Raises:
        TraceError: The network has a slot that the schema has no place for.
    """
    some = next(state[c.parameter] for c in graph.connections if c.parameter is not None)
    columns: list[list[Tensor]] = [[] for _ in schema.slots]
    for group in graph.groups:
        filled = {schema.column(slot, group): _part(group, slot, state) for slot in group.slots}
        for column, default in enumerate(schema.slots.values()):
            columns[column].append(filled.get(column, some.new_full((group.size,), default)))
    nodes = torch.stack([torch.cat(parts) for parts in columns], dim=1)
    edges = tuple(
        some.new_ones(c.shape) if c.parameter is None else c.block(state[c.parameter])
        for c in graph.connections
    )
    return Features(nodes=nodes, edges=edges)


def _part(group: NeuronGroup, slot: str, state: Mapping[str, Tensor]) -> Tensor:
    """Return the values of a group's slot, [size]."""
    values = state[group.slots[slot]].flatten()
    return values[group.rows[slot]] if slot in group.rows else values


def write(
    graph: WeightGraph, features: Features, state: Mapping[str, Tensor], schema: Schema
) -> dict[str, Tensor]:
    """Write features back as parameters; differentiable.

    Returns:
        The whole state: new values for the trainable parameters in the graph; running statistics,
        constants and parameters outside the graph as they are in `state`.
    """
    new = dict(state)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    columns = features.nodes.t().contiguous()  # batch norm rounds differently on strided parameters
    for group in graph.groups:
        for slot, name in group.slots.items():
            if not slot.endswith(READ_ONLY):
                values = columns[schema.column(slot, group), group.start : group.stop]
                if slot in group.rows:
                    parts.setdefault(name, []).append((group.rows[slot], values))
                else:
                    new[name] = values.reshape(state[name].shape)
    for name, pieces in parts.items():
        order = torch.argsort(torch.cat([rows for rows, _ in pieces]))
        new[name] = torch.cat([values for _, values in pieces])[order]
    for connection, edges in zip(graph.connections, features.edges, strict=True):
        if connection.parameter is not None:
            new[connection.parameter] = connection.unblock(edges, state[connection.parameter])
    new.update({alias: new[name] for alias, name in graph.aliases.items() if alias in new})
    return new
