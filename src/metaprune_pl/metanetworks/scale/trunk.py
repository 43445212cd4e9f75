"""Scale-equivariant message passing over a network's edges, piece by piece, with bounded memory.

Where a connection is cut into pieces, no hidden features of its edges are kept, between layers or
for the backward pass: they follow from its kernels and from what the nodes of earlier layers had,
and are computed again, piece by piece.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError, TraceError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.graphs.symmetry import refusal
from metaprune_pl.metanetworks.scale.again import again
from metaprune_pl.metanetworks.scale.folding import Folded
from metaprune_pl.metanetworks.scale.layers import (
    EdgeUpdate,
    Message,
    NodeFunction,
    Symmetry,
    inverse,
)
from metaprune_pl.metanetworks.scale.wiring import HIDDEN, Piece, Wiring

Direction = Literal["forward", "both"]
"""Whether messages go along the edges only, or also against them."""


class Way(nn.Module):
    """One direction of a layer: messages, and an update of the edges but in the last layer."""

    def __init__(self, hidden: int, symmetry: Symmetry, last: bool) -> None:
        super().__init__()
        self.message = Message(hidden, symmetry)
        self.update = None if last else EdgeUpdate(hidden, hidden, symmetry)


class Layer(nn.Module):
    """One layer of message passing: messages of each direction, summed up, and updates.

    A sum is divided by the root of the number of messages, so that wide layers weigh no more.
    """

    def __init__(self, hidden: int, symmetry: Symmetry, ways: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.ways = nn.ModuleList(Way(hidden, symmetry, last) for _ in range(ways))
        self.update = NodeFunction(
            (1 + ways) * hidden,
            hidden,
            hidden,
            symmetry,
        )

    def at_nodes(self, nodes: Tensor) -> tuple[Tensor, ...]:
        """What edges take from nodes in each direction: senders, sources, targets, [N, H] each."""
        values: list[Tensor] = []
        for way in self.ways:
            assert isinstance(way, Way)
            ends = (nodes, nodes) if way.update is None else way.update.ends(nodes)
            values += [way.message.sender(nodes), *ends]
        return tuple(values)

    def updated(
        self, piece: Piece, factor: Tensor, states: Sequence[Tensor], at_nodes: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """New edges of a piece in each direction, or in the first ones, [G, R, I, H]."""
        new = []
        for index, state in enumerate(states):
            way = self.ways[index]
            assert isinstance(way, Way) and way.update is not None
            ends = at_nodes[3 * index + 1 : 3 * index + 3]
            new.append(way.update(state, _scaled(state, factor, index), join(ends, piece)))
        return tuple(new)


class Encoder(nn.Module):
    """Kernels to hidden features, without bias.

    Each kernel is centred in the smallest square that holds it.

    Args:
        hidden: H.
        sizes: Sides of the squares.
    """

    def __init__(self, hidden: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = sorted(sizes)
        self.linears = nn.ModuleDict(
            {str(side): nn.Linear(side * side, hidden, bias=False) for side in self.sizes}
        )

    def forward(self, edges: Tensor, kernel: tuple[int, int]) -> Tensor:
        """Encode: [..., T] -> [..., H]."""
        side = smallest_square(kernel, self.sizes)
        weight = self.linears[str(side)].get_parameter("weight")
        return F.linear(edges, weight[:, window(kernel, side)])


def smallest_square(kernel: tuple[int, int], sizes: Sequence[int]) -> int:
    """Return the side of the smallest square that holds a kernel; sizes are in order."""
    return next(side for side in sizes if side >= max(kernel))


def window(kernel: tuple[int, int], side: int) -> Tensor:
    """Return the positions of a kernel that is centred in a square, [T]."""
    above = (side - kernel[0]) // 2
    left = (side - kernel[1]) // 2
    rows = slice(above, above + kernel[0])
    columns = slice(left, left + kernel[1])
    square = torch.arange(side * side).reshape(side, side)
    return square[rows, columns].flatten()


class Trunk(nn.Module):
    """Encoders, positional encodings and layers (ScaleGMN, equations in section 5).

    Nodes start from their bias, edges from their kernel, edges against their direction from the
    kernel's inverse. Hidden nodes are multiplied by an encoding of their layer, inputs and outputs
    get one of their own added.

    Args:
        layers: Number of layers.
        hidden: H.
        symmetry: What the metanetwork respects.
        direction: Where messages go.
        kernel_sizes: See `Encoder`.
        positions: Largest number of a network's hidden neuron groups, inputs and outputs.

    Raises:
        ConfigError: A size is below 1, or an unknown symmetry or direction.
    """

    def __init__(
        self,
        *,
        layers: int,
        hidden: int,
        symmetry: Symmetry,
        direction: Direction,
        kernel_sizes: Sequence[int],
        positions: Sequence[int],
    ) -> None:
        super().__init__()
        _check(layers, hidden, symmetry, direction, kernel_sizes, positions)
        ways = 1 if direction == "forward" else 2
        self.hidden = hidden
        self.symmetry = symmetry
        self.kernel_sizes = sorted(kernel_sizes)
        self.node_encoder = nn.Linear(1, hidden, bias=False)
        self.edge_encoders = nn.ModuleList(Encoder(hidden, kernel_sizes) for _ in range(ways))
        self.sizes = tuple(positions)
        self.positions = nn.Embedding(sum(positions), hidden)
        self.layers = nn.ModuleList(
            Layer(hidden, symmetry, ways, index == layers - 1) for index in range(layers)
        )

    def check(self, graph: WeightGraph, wiring: Wiring) -> None:
        """Refuse a network without the symmetry, or larger than this was made for.

        Raises:
            TraceError: It has larger kernels, more layers or ends, or not the symmetry.
        """
        reason = None if self.symmetry == "permutation" else refusal(graph, self.symmetry)
        if reason is not None:
            raise TraceError(
                f"a metanetwork with symmetry '{self.symmetry}' cannot read this network: "
                f"{reason}. Take symmetry 'permutation'."
            )
        for connection in graph.connections:
            if max(connection.kernel) > self.kernel_sizes[-1]:
                height, width = connection.kernel
                raise TraceError(
                    f"the metanetwork knows kernels up to {self.kernel_sizes[-1]} wide, and "
                    f"'{connection.name}' has one of {height}x{width}. Add {max(height, width)} to "
                    "its kernel_sizes and train it."
                )
        names = ("hidden layers", "inputs", "outputs")
        for kind, (size, name) in enumerate(zip(self.sizes, names, strict=True)):
            positions = wiring.positions[wiring.kinds == kind].tolist()
            needed = 1 + max(positions, default=-1)
            if needed > size:
                raise TraceError(
                    f"the metanetwork was made for {size} {name}, and the network has {needed}. "
                    "Set its `positions` and train it."
                )

    def forward(
        self, wiring: Wiring, folded: Folded, raw: Sequence[Tensor]
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Pass messages.

        Args:
            wiring: The graph.
            folded: Biases and factors of the nodes.
            raw: Kernels of each connection, [G, O, I, T].

        Returns:
            Hidden features of the nodes, [N, H], and for each piece what `edges` takes.
        """
        biases = folded.bias[:, None]
        nodes = self._add_positions(self.node_encoder(biases), wiring)
        states: list[tuple[Tensor, ...]] = [() for _ in wiring.pieces]
        past: tuple[Tensor, ...] = ()
        for depth, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            received: list[list[Tensor]] = [[] for _ in layer.ways]
            at_nodes = layer.at_nodes(nodes)
            for index, piece in enumerate(wiring.pieces):
                kernels = raw[piece.member][piece.where]
                results = again(
                    partial(self._pass, layer),
                    piece,
                    [self.edge_encoders, *self.layers[: depth + 1]],
                    folded.at(piece),
                    kernels,
                    *at_nodes,
                    *(states[index] if piece.whole else past),
                )
                for own, part in zip(received, results, strict=False):
                    own.append(part)
                states[index] = results[len(received) :] or states[index]
            past = (*past, *at_nodes)
            summed = [_at_ends(wiring, way, parts, nodes) for way, parts in enumerate(received)]
            inputs = torch.cat([nodes, *summed], 1)
            nodes = nodes + layer.update.at(inputs, wiring.symmetric)
        before_last = past[: len(past) - len(at_nodes)]
        return nodes, [
            (raw[piece.member][piece.where], *(own[:1] if piece.whole else before_last))
            for piece, own in zip(wiring.pieces, states, strict=True)
        ]

    def edges(self, piece: Piece, factor: Tensor, kernels: Tensor, *known: Tensor) -> Tensor:
        """Hidden features of a piece's edges, [G, R, I, H], but for the factors of their targets.

        Args:
            piece: The edges.
            factor: Of their targets, [G, R, 1, 1].
            kernels: [G, R, I, T].
            known: What `forward` returned.
        """
        if piece.whole:
            return known[0]
        return self._states(piece, factor, kernels, known, ways=1)[0]

    def _states(
        self,
        piece: Piece,
        factor: Tensor,
        kernels: Tensor,
        past: Sequence[Tensor],
        *,
        ways: int,
    ) -> tuple[Tensor, ...]:
        """Hidden features of a piece's edges in each direction after some layers.

        Args:
            piece: The edges.
            factor: Of their targets, [G, R, 1, 1].
            kernels: [G, R, I, T].
            past: What `Layer.at_nodes` gave in those layers.
            ways: Number of directions.
        """
        states = self._encode(kernels, factor, piece)[:ways]
        size = 3 * len(self.edge_encoders)
        for depth in range(len(past) // size):
            layer = self.layers[depth]
            assert isinstance(layer, Layer)
            states = layer.updated(piece, factor, states, past[depth * size : (depth + 1) * size])
        return states

    def _encode(self, kernels: Tensor, factor: Tensor, piece: Piece) -> tuple[Tensor, ...]:
        """Hidden features of a piece's edges in each direction, [G, R, I, H]."""
        forward, *backward = self.edge_encoders
        states = [forward(kernels, piece.kernel)]
        for encoder in backward:
            inverted = inverse(kernels * factor, self.symmetry)
            states.append(encoder(inverted, piece.kernel))
        return tuple(states)

    def _add_positions(self, nodes: Tensor, wiring: Wiring) -> Tensor:
        """Positional encodings: [N, H] -> [N, H]."""
        offsets = torch.tensor([0, *self.sizes[:2]], device=nodes.device).cumsum(0)
        encodings = self.positions(offsets[wiring.kinds] + wiring.positions)
        if self.symmetry == "permutation":
            return nodes + encodings  # type: ignore[no-any-return]
        hidden = (wiring.kinds == HIDDEN)[:, None]
        return torch.where(hidden, nodes * encodings, nodes + encodings)

    def _pass(
        self, layer: Layer, piece: Piece, factor: Tensor, kernels: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        """Messages of a piece, summed up at their receivers, and its new edges where it is whole.

        Args:
            layer: Of the messages.
            piece: The edges.
            factor: Of their targets, [G, R, 1, 1].
            kernels: [G, R, I, T].
            rest: Three tensors for each direction, see `Layer.at_nodes`; then those of all layers
                before, or the edges of each direction of a piece that is whole, [G, R, I, H].

        Returns:
            Sums of each direction, [G, R, H] and [G, I, H]; then the edges of each direction where
            they are not those that came in.
        """
        at_nodes = rest[: 3 * len(layer.ways)]
        known = rest[3 * len(layer.ways) :]
        states = known
        if not (piece.whole and known):
            states = self._states(piece, factor, kernels, known, ways=len(layer.ways))
        sums = []
        for index, (way, state) in enumerate(zip(layer.ways, states, strict=True)):
            assert isinstance(way, Way)
            sender = at_nodes[3 * index]
            if index == 0:  # along the edges
                senders = sender[piece.source][:, None]
            else:  # against them
                senders = sender[piece.target][:, :, None]
            own = _scaled(state, factor, index)
            messages = way.message(senders, own, piece.symmetric[1 - index])
            sums.append(messages.sum(1 if index else 2))
        if not piece.whole:
            return tuple(sums)
        if layer.last:
            return *sums, *(() if known else states)
        return *sums, *layer.updated(piece, factor, states, at_nodes)


def _scaled(state: Tensor, factor: Tensor, way: int) -> Tensor:
    """Edges of a direction as their ends scale them."""
    return state if way else state * factor


def join(ends: Sequence[Tensor], piece: Piece) -> Tensor:
    """Add what nodes have as sources and as targets, [N, H] each, at each edge, [G, R, I, H]."""
    at_source, at_target = ends
    return at_source[piece.source][:, None] + at_target[piece.target][:, :, None]


def _at_ends(wiring: Wiring, way: int, parts: Sequence[Tensor], nodes: Tensor) -> Tensor:
    """Sum up the pieces' messages at the nodes, [N, H]."""
    ends = [piece.source if way else piece.target for piece in wiring.pieces]
    index = torch.cat([end.flatten() for end in ends])
    values = torch.cat([part.flatten(0, 1) for part in parts])
    summed = torch.zeros_like(nodes).index_add(0, index, values)
    return summed * wiring.degrees[way, :, None].to(nodes.dtype).rsqrt()


def _check(
    layers: int,
    hidden: int,
    symmetry: str,
    direction: str,
    kernel_sizes: Sequence[int],
    positions: Sequence[int],
) -> None:
    if layers < 1 or hidden < 2:
        raise ConfigError("metanetwork: layers must be at least 1 and hidden at least 2.")
    if not kernel_sizes or min(kernel_sizes) < 1:
        raise ConfigError(
            f"kernel_sizes {list(kernel_sizes)}: name the sides of kernels, such as [3]."
        )
    if len(positions) != 3 or min(positions) < 1:
        raise ConfigError(
            f"positions {list(positions)}: name the largest numbers of hidden layers, inputs and "
            "outputs, such as [16, 3, 10]."
        )
    if symmetry not in ("scale", "sign", "permutation") or direction not in ("forward", "both"):
        raise ConfigError(
            "metanetwork: symmetry is 'scale', 'sign' or 'permutation', and direction 'forward' "
            "or 'both'."
        )
