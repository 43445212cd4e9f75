"""What a scale-equivariant metanetwork knows of a graph: ends, positions, edges by piece."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metaprune_pl.graphs import Connection, WeightGraph
from metaprune_pl.graphs.symmetry import following_norms
from metaprune_pl.metanetworks.blocks import Block

PIECES = {"cpu": 2**18}
"""Numbers of a piece, edges x hidden, by device: on a CPU, a piece and its neighbours stay in the
cache of a core."""
PIECE = 2**24
"""The same on other devices."""
HIDDEN, INPUT, OUTPUT = range(3)
"""Kinds of nodes."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Some edges of one connection.

    Attributes:
        member: Index of the connection.
        where: Which of its G and O.
        whole: Whether these are all of its edges.
        target: Nodes that they lead to, [G, R].
        source: Nodes that they come from, [G, I].
        kernel: Extent of the taps.
        symmetric: Whether their sources have a symmetry, and whether their targets have.
        norm: Which norm of the target follows: 0 is none, 1 its own, 2 its shortcut's.
    """

    member: int
    where: tuple[slice, slice]
    whole: bool
    target: Tensor
    source: Tensor
    kernel: tuple[int, int]
    symmetric: tuple[bool, bool]
    norm: int


@dataclass(frozen=True, eq=False)
class Wiring:
    """A graph, ready for messages.

    Attributes:
        kinds: Of each node: 0 is hidden, 1 an input (a channel of the image), 2 an output, [N].
        positions: The index of an input or output among its network's, of a hidden node the index
            of its neuron group among its network's hidden ones, [N].
        symmetric: Nodes that have a symmetry, bool [N].
        degrees: Numbers of edges that lead to each node and of those that leave it, at least 1, [2,
            N].
        normed: Nodes with a norm and with a shortcut's norm, bool [2, N].
        pieces: All edges.
    """

    kinds: Tensor
    positions: Tensor
    symmetric: Tensor
    degrees: Tensor
    normed: Tensor
    pieces: tuple[Piece, ...]


def wire(graph: WeightGraph, *, width: int, symmetric: bool, device: torch.device) -> Wiring:
    """Prepare a graph.

    Args:
        graph: Topology.
        width: Numbers for each edge, for the size of pieces.
        symmetric: Whether hidden nodes have a symmetry.
        device: Where the tensors shall lie.
    """
    kinds = _kinds(graph)
    with_symmetry = (kinds == HIDDEN) & symmetric
    return Wiring(
        kinds=kinds.to(device),
        positions=_positions(graph, kinds).to(device),
        symmetric=with_symmetry.to(device),
        degrees=_degrees(graph).to(device),
        normed=following_norms(graph)[1].to(device),
        pieces=tuple(
            _pieces(
                graph,
                width,
                with_symmetry,
                device,
            )
        ),
    )


def _kinds(graph: WeightGraph) -> Tensor:
    kinds = torch.full((graph.num_nodes,), HIDDEN)
    kinds[graph.inputs] = INPUT
    kinds[graph.output] = OUTPUT
    return kinds


def _positions(graph: WeightGraph, kinds: Tensor) -> Tensor:
    positions = []
    layer = 0
    for group in graph.groups:
        kind = int(kinds[group.start])
        layer = 0 if kind == INPUT else layer
        ranks = torch.arange(group.size)
        positions.append(torch.full_like(ranks, layer) if kind == HIDDEN else ranks)
        layer += kind == HIDDEN
    return torch.cat(positions)


def _degrees(graph: WeightGraph) -> Tensor:
    degrees = torch.zeros(2, graph.num_nodes, dtype=torch.long)
    for connection in graph.connections:
        _, outputs, inputs, _ = connection.shape
        targets = connection.target.flatten()
        sources = connection.source.flatten()
        degrees[0].index_add_(0, targets, torch.full_like(targets, inputs))
        degrees[1].index_add_(0, sources, torch.full_like(sources, outputs))
    return degrees.clamp(min=1)


def _pieces(
    graph: WeightGraph, width: int, symmetric: Tensor, device: torch.device
) -> Iterator[Piece]:
    following, _ = following_norms(graph)
    for member, connection in enumerate(graph.connections):
        if not connection.num_edges:
            continue
        target = connection.target.to(device)
        source = connection.source.to(device)
        block = Block(
            (member,),
            (len(target),),
            target,
            source,
            connection.kernel,
        )
        cuts = list(block.pieces(width, PIECES.get(device.type, PIECE)))
        for where in cuts:
            yield Piece(
                member=member,
                where=where,
                whole=len(cuts) == 1,
                target=target[where],
                source=source[where[0]],
                kernel=connection.kernel,
                symmetric=_symmetric(connection, symmetric),
                norm=following[member],
            )


def _symmetric(connection: Connection, symmetric: Tensor) -> tuple[bool, bool]:
    source = symmetric[connection.source]
    target = symmetric[connection.target]
    return bool(source.all()), bool(target.all())
