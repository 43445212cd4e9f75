"""Pruning groups, read off the graph.

Neurons that identity shortcuts or conv groups tie must go together.

A *unit* is a set of tied neurons: one prunable channel of a *pruning group*, in DepGraph's words a
prunable dimension (paper, B.2.2). For a grouped convolution a unit is a whole conv group with its
inputs and outputs; depthwise convolution is the case of one channel per group. Where all conv
groups are tied to each other (split attention), a unit is the same channel of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Literal

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from metaprune_pl.errors import ConfigError, did_you_mean
from metaprune_pl.graphs import Connection, WeightGraph


@dataclass(frozen=True, kw_only=True, eq=False)
class PruningGroups:
    """The units of a graph and the groups that they form.

    Attributes:
        graph: Where they come from.
        unit: Unit of each node, [N].
        group: Pruning group of each unit, [U].
        names: Name of each pruning group: that of its first layer, which alone makes all its units;
            numbered where parts of the layer go different ways.
        prunable: Whether each unit may be removed, bool [U]: it holds no input, output or fixed
            node.
        entry_unit: Unit of each entry of `magnitudes`, [P].
        entry_first: Whether an entry belongs to the first parameter of its unit, bool [P].
        members: Number of parameters in each unit, [U].
    """

    graph: WeightGraph
    unit: Tensor
    group: Tensor
    names: tuple[str, ...]
    prunable: Tensor
    entry_unit: Tensor
    entry_first: Tensor
    members: Tensor

    def nodes(self, units: Tensor) -> Tensor:
        """Whether each node is kept, given the prunable units that are (bool [U]), bool [N]."""
        return (units | ~self.prunable)[self.unit]

    def sizes(self, kept: Tensor | None = None) -> Tensor:
        """Count the prunable units in each group, or those that are kept (bool [U]), [groups]."""
        chosen = self.prunable if kept is None else self.prunable & kept
        return torch.zeros(len(self.names), dtype=torch.long).index_add(
            0, self.group, chosen.long()
        )


Equal = Literal["none", "attention", "named"]
"""Which layers stay as wide as what they read, for forward passes that count on it: none, those of
attention, or those, too, whose number of neurons the forward pass names."""


def find_groups(graph: WeightGraph, *, equal: Equal = "none") -> PruningGroups:
    """Find the pruning groups of a graph.

    Args:
        graph: Topology.
        equal: Which layers stay as wide as what they read.
    """
    unit = _units(graph, equal)
    coarse = {id(layer) for layer in graph.connections if _is_coarse(layer, unit)}
    if coarse:
        layers = (replace(c, within=id(c) in coarse) for c in graph.connections)
        graph = replace(graph, connections=tuple(layers))
        unit = _units(graph, equal)
    count = int(unit.max()) + 1
    owner = torch.cat(
        [torch.full((group.size,), index) for index, group in enumerate(graph.groups)]
    )
    first_owner = _first(owner, unit, count)
    kinds, group = torch.unique(
        torch.stack([first_owner, _readers(graph, unit, count)]), dim=1, return_inverse=True
    )
    prunable = torch.ones(count, dtype=torch.bool)
    for nodes in (graph.inputs, graph.output, graph.constraints.fixed):
        prunable[unit[nodes]] = False
    entry_unit, entry_member = _entries(graph, unit)
    first = _first(entry_member, entry_unit, count)
    distinct = torch.unique(torch.stack([entry_unit, entry_member]), dim=1)[0]
    return PruningGroups(
        graph=graph,
        unit=unit,
        group=group,
        names=_names(graph, kinds[0].tolist()),
        prunable=prunable,
        entry_unit=entry_unit,
        entry_first=entry_member == first[entry_unit],
        members=torch.bincount(distinct, minlength=count),
    )


def _units(graph: WeightGraph, equal: Equal) -> Tensor:
    """Number the sets of nodes that go together, [N]."""
    pairs = [graph.constraints.ties]
    if equal != "none":
        pairs.append(graph.constraints.equals)
    if equal == "named":
        pairs.append(graph.constraints.named)
    for connection in graph.connections:
        source, target = connection.source, connection.target
        if connection.parameter is None:
            pairs.append(torch.stack([source.flatten(), target.flatten()]))
        elif connection.within:
            pairs += [tied(source.t()), tied(target.t())]
        elif connection.by_groups:
            pairs.append(tied(torch.cat([source, target], 1)))
    return _components(torch.cat(pairs, 1), graph.num_nodes)


def tied(rows: Tensor) -> Tensor:
    """Pairs that tie the nodes of each row, [2, pairs]."""
    return torch.stack([rows[:, :1].expand_as(rows).flatten(), rows.flatten()])


def _is_coarse(layer: Connection, unit: Tensor) -> bool:
    """Whether all conv groups of a layer go together, so that none of them can be removed."""
    _, outputs, inputs, _ = layer.shape
    groups = layer.parameter is not None and layer.by_groups and outputs * inputs > 1
    return groups and bool((unit[layer.target] == unit[layer.target[0, 0]]).all())


def _first(values: Tensor, unit: Tensor, count: int) -> Tensor:
    """Lowest value of each unit, [U]; 0 for units without any."""
    zeros = unit.new_zeros(count)
    return zeros.scatter_reduce(0, unit, values, "amin", include_self=False)


def _readers(graph: WeightGraph, unit: Tensor, count: int) -> Tensor:
    """Mark each unit by what reads it and by the layers that it has neurons of, [U].

    Parts of a layer that go different ways are pruning groups of their own, so that no layer can
    lose all of its neurons.
    """
    reads = [connection.source.flatten() for connection in graph.connections]
    reads += [product.nodes for product in graph.constraints.products]
    reads += [torch.arange(layer.start, layer.stop) for layer in graph.groups]
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(2**40, (len(reads),), generator=generator)
    marks = torch.zeros(count, dtype=torch.long)
    for key, nodes in zip(keys, reads, strict=True):
        marks[unit[nodes]] += key
    return marks


def _names(graph: WeightGraph, owners: list[int]) -> tuple[str, ...]:
    """Name each group after its first layer; further parts of a layer are numbered."""
    seen: dict[int, int] = {}
    names = []
    for owner in owners:
        seen[owner] = seen.get(owner, 0) + 1
        names.append(graph.groups[owner].name + (f":{seen[owner]}" if seen[owner] > 1 else ""))
    return tuple(names)


def groups_of_layers(groups: PruningGroups, pattern: str) -> Tensor:
    """Return the numbers of the groups that channels of some layers are in, [K].

    Args:
        groups: Pruning groups.
        pattern: Name of a layer, or of what it is in, with `*` for any text.

    Raises:
        ConfigError: No layer has such a name.
    """
    named: dict[str, list[Tensor]] = {}
    for layer in groups.graph.groups:
        named.setdefault(layer.name, []).append(torch.arange(layer.start, layer.stop))
    for connection in groups.graph.connections:
        if connection.parameter is not None:
            named.setdefault(connection.name, []).append(connection.target.flatten())
    chosen = [
        nodes
        for name, parts in named.items()
        if fnmatch(name, pattern) or name.startswith(f"{pattern}.")
        for nodes in parts
    ]
    if not chosen:
        raise ConfigError(f"the network has no layer '{pattern}'.{did_you_mean(pattern, named)}")
    numbers: Tensor = groups.group[groups.unit[torch.cat(chosen)]].unique()
    return numbers


def magnitudes(
    graph: WeightGraph,
    state: Mapping[str, Tensor],
    p: float,
    kept: Tensor | None = None,
) -> Tensor:
    """Sum |w|^p of every parameter over all but the neuron that it belongs to, differentiable, [P].

    A convolution or linear layer counts for its outputs and for its inputs, a grouped one once for
    each conv group, a norm's weight for its neuron. Biases do not count, as in torch-pruning.

    Args:
        graph: Topology.
        state: Parameters by name.
        p: Exponent.
        kept: Which nodes are there, bool [N]; weights to and from the others do not count.
    """
    return sums_of_powers(graph, edge_powers(graph, state, p), kept)


def edge_powers(graph: WeightGraph, state: Mapping[str, Tensor], p: float) -> list[Tensor]:
    """Sum |w|^p over the taps of each connection, [G, O, I] each; then |w|^p of norms, [K] each."""
    edges = [
        _sum_of_powers(connection.block(state[connection.parameter]), p)
        for connection in graph.connections
        if connection.parameter is not None
    ]
    norms = [name for group in graph.groups for name in _norm_weights(group.slots)]
    return edges + [state[name].abs().pow(p) for name in norms]


def sums_of_powers(graph: WeightGraph, powers: list[Tensor], kept: Tensor | None) -> Tensor:
    """Sum what `edge_powers` gave over all but the neuron that it belongs to: see `magnitudes`."""
    connections = [layer for layer in graph.connections if layer.parameter is not None]
    values: list[Tensor] = []
    for connection, block in zip(connections, powers, strict=False):
        if connection.by_groups:
            if kept is not None:
                block = block * kept[connection.target][:, :, None]
                block = block * kept[connection.source][:, None, :]
            values.append(block.sum((1, 2)))
        elif kept is None:
            values += [block.sum(2).flatten(), block.sum(1).flatten()]
        else:
            targets = kept[connection.target].to(block)
            sources = kept[connection.source].to(block)
            parts = list(zip(block, targets, sources, strict=True))
            values += [to * (part @ of) for part, to, of in parts]
            values += [of * (to @ part) for part, to, of in parts]
    return torch.cat([*values, *powers[len(connections) :]])


def _sum_of_powers(values: Tensor, p: float) -> Tensor:
    """Sum of |w|^p over the last dimension.

    Of squares without a temporary of the size of the values.
    """
    if p == 2:
        return torch.einsum("goit,goit->goi", values, values)
    return values.abs().pow(p).sum(-1)


def input_dimensions(graph: WeightGraph) -> dict[str, tuple[int, int]]:
    """Return the dimension of the input channels, and its conv groups, of each maskable weight.

    Weights of convolutions and linear layers may be masked, the first and the last ones too, but
    not factors of a channel.
    """
    dimensions = {}
    for connection in graph.connections:
        groups, *rest = connection.shape
        if connection.parameter is not None and rest != [1, 1, 1]:
            dimensions[connection.parameter] = (0, groups) if connection.inputs_first else (1, 1)
    return dimensions


def _entries(graph: WeightGraph, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Unit and order of each entry of `magnitudes`.

    A layer's outputs come before all inputs and norms.
    """
    units: list[Tensor] = []
    orders: list[int] = []
    last = len(graph.connections)
    for index, connection in enumerate(graph.connections):
        if connection.parameter is not None:
            if connection.by_groups:
                units.append(unit[connection.target[:, 0]])
                orders.append(index)
            else:
                units += [unit[connection.target.flatten()], unit[connection.source.flatten()]]
                orders += [index, last + index]
    for index, group in enumerate(graph.groups):
        for slot, _ in enumerate(_norm_weights(group.slots)):
            units.append(unit[group.start : group.stop])
            orders.append(2 * last + 2 * index + slot)
    return torch.cat(units), torch.cat(
        [torch.full((len(part),), order) for part, order in zip(units, orders, strict=True)]
    )


def count_scales(graph: WeightGraph) -> int:
    """How many of the last entries of `magnitudes` are weights of norms."""
    return sum(group.size * len(_norm_weights(group.slots)) for group in graph.groups)


def _norm_weights(slots: Mapping[str, str]) -> list[str]:
    return [name for slot, name in slots.items() if slot.endswith("norm.weight")]


def _components(pairs: Tensor, count: int) -> Tensor:
    """Number the connected components of an undirected graph, [count].

    Numbers follow the first member.
    """
    sources, targets = pairs.numpy()
    _, labels = connected_components(
        coo_matrix((np.ones(len(sources)), (sources, targets)), shape=(count, count))
    )
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(first))[inverse].astype(np.int64))
