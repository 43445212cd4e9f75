"""The graph of what a trace has collected: its nodes numbered without gaps."""

from collections import Counter
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from metaprune_pl.graphs.builder import GraphBuilder
from metaprune_pl.graphs.constraints import PruningConstraints
from metaprune_pl.graphs.masked import MaskedProgram, Mixing
from metaprune_pl.graphs.weight_graph import Connection, NeuronGroup, WeightGraph


def finished(
    builder: GraphBuilder, output: Tensor, parameters: list[str], program: Any
) -> WeightGraph:
    """Return the graph, its nodes numbered without gaps.

    Args:
        builder: What was collected.
        program: The exported program.
        output: Provisional node numbers of the network's output, [K].
        parameters: Names of all trainable parameters.
    """
    none = torch.zeros(0, dtype=torch.long)
    _fix_whole(builder)
    fused = _fused(builder)
    groups, index = _final_groups(builder, fused)
    connections = tuple(_renumbered(builder, c, index, fused) for c in builder.connections)
    graph = WeightGraph(
        groups=tuple(groups),
        connections=connections,
        inputs=index[torch.cat([none, *builder.inputs])],
        output=index[output],
        constraints=_constraints(builder, index, program),
        unfollowed=tuple(dict.fromkeys(builder.unfollowed)),
        followed=tuple(replace(f, nodes=index[f.nodes]) for f in builder.followed),
    )
    inside = set(graph.parameters)
    return replace(graph, outside=tuple(name for name in parameters if name not in inside))


def _constraints(builder: GraphBuilder, index: Tensor, program: Any) -> PruningConstraints:
    """What pruning must respect, by final node numbers."""
    none = torch.zeros(0, dtype=torch.long)
    pairs = torch.zeros(2, 0, dtype=torch.long)
    return PruningConstraints(
        fixed=index[builder.fixed],
        ties=index[torch.cat([pairs, *builder.ties], 1)],
        equals=index[torch.cat([pairs, *builder.equals], 1)],
        named=index[torch.cat([pairs, *builder.named], 1)],
        mixed=index[torch.cat([none, *builder.mixed])],
        several=index[torch.cat([none, *builder.several])],
        unmasked=index[torch.cat([none, *builder.unmasked])],
        lengths=builder.lengths,
        uses=tuple(builder.uses),
        followers=tuple(
            replace(f, nodes=index[f.nodes].where(f.nodes >= 0, -1)) for f in builder.followers
        ),
        products=tuple(replace(p, nodes=index[p.nodes]) for p in builder.products),
        attentions=tuple(
            replace(a, parts=tuple(index[p] for p in a.parts)) for a in builder.attentions
        ),
        scales=tuple(replace(a, nodes=index[a.nodes]) for a in builder.scales),
        extents=tuple(
            replace(e, parts=tuple(index[part] for part in e.parts)) for e in builder.extents
        ),
        masked=MaskedProgram(program, _renumbered_mixing(builder, index)),
    )


def _final_groups(
    builder: GraphBuilder, fused: dict[str, Tensor]
) -> tuple[list[NeuronGroup], Tensor]:
    """The groups that are left, and the final index of each provisional node."""
    last = builder.groups[-1]
    index = torch.zeros(last.start + last.size, dtype=torch.long)
    groups: list[NeuronGroup] = []
    for group in builder.groups:
        if group.absorbed_by is not None:
            continue
        start = groups[-1].stop if groups else 0
        rows = fused.get(group.name)
        slots = group.slots
        parts = {}
        size = group.size
        if rows is None:
            index[group.start : group.start + size] = torch.arange(start, start + size)
        else:
            size = len(rows)
            index[group.start + rows] = torch.arange(start, start + size)[:, None]
            if (bias := group.slots.get("bias")) is not None:
                parts = {f"{part}_bias": rows[:, i] for i, part in enumerate("qkv")}
                slots = dict.fromkeys(parts, bias)
        new = NeuronGroup(name=group.name, start=start, size=size, slots=slots, rows=parts)
        groups.append(new)
    for group in builder.groups:
        if (main := group.absorbed_by) is not None:
            whole = index[main.start : main.start + main.size]
            index[group.start : group.start + group.size] = whole
    return groups, index


def _renumbered_mixing(builder: GraphBuilder, index: Tensor) -> dict[torch.fx.Node, Mixing]:
    def new(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(index[part].where(part >= 0, -1) for part in parts)

    return {
        node: replace(
            mixing,
            inputs={source: new(parts) for source, parts in mixing.inputs.items()},
            results=tuple(new(parts) for parts in mixing.results),
        )
        for node, mixing in builder.mixing.items()
    }


def _fix_whole(builder: GraphBuilder) -> None:
    """Keep the neurons of parameters that must stay as they are, or that have two meanings."""
    present = [set(group.slots.values()) for group in builder.groups if group.absorbed_by is None]
    meanings = Counter(chain.from_iterable(present))
    meanings.update(c.parameter for c in builder.connections if c.parameter is not None)
    meanings.update({follower.parameter for follower in builder.followers})
    builder.whole |= {name for name, count in meanings.items() if count > 1}
    for group in builder.groups:
        if builder.whole & set(group.slots.values()):
            builder.fix(torch.arange(group.start, group.start + group.size))
    for connection in builder.connections:
        if connection.parameter in builder.whole:
            builder.fix(connection.target)
            builder.fix(connection.source)
    for follower in builder.followers:
        if follower.parameter in builder.whole:
            builder.fix(follower.nodes)


def _fused(builder: GraphBuilder) -> dict[str, Tensor]:
    """Groups whose neurons are queries, keys and values of the same attention.

    Rows of each neuron, [D, 3].
    """
    fused = {}
    transposed = {int(c.target[0, 0]) for c in builder.connections if c.inputs_first}
    rows_first = [group for group in builder.groups if group.start not in transposed]
    for query, key, value in builder.heads:
        rows = torch.stack([query, key, value], 1)
        for group in rows_first:
            inside = (rows >= group.start) & (rows < group.start + group.size)
            if bool(inside.all()) and rows.numel() == group.size == len(rows.unique()):
                if set(group.slots) <= {"bias"}:
                    fused[group.name] = rows - group.start
    return fused


def _renumbered(
    builder: GraphBuilder, connection: Connection, index: Tensor, fused: dict[str, Tensor]
) -> Connection:
    """Return a connection between final nodes.

    Three rows of an attention neuron become its taps.
    """
    first = int(connection.target.flatten()[0])
    rows = next(
        (fused[g.name] for g in builder.groups if g.start == first and g.name in fused), None
    )
    source = index[connection.source]
    if rows is None or connection.parameter is None:
        return replace(connection, target=index[connection.target], source=source)
    target = index[first + rows[:, 0]][None]
    places = connection.kernel[0] * connection.kernel[1]
    kernel = (1, 3) if places == 1 else (3, places)
    return replace(connection, target=target, source=source, rows=rows, kernel=kernel)
