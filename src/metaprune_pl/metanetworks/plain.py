"""The work on the blocks in PyTorch, piece by piece.

The size of a piece changes nothing but rounding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metaprune_pl.metanetworks import equations
from metaprune_pl.metanetworks.kernels import A, EdgeBlock, Kernels, P, Q

PIECES = {"cpu": 2**18}
"""Numbers of a piece, edges x hidden, by device: on a CPU, a piece and its neighbours stay in the
cache of a core."""
PIECE = 2**24
"""The same on other devices: enough to keep one busy, and some 64 MB for each of its temporary
tensors."""


@dataclass(frozen=True, eq=False)
class _Piece:
    """A piece of a block.

    Attributes:
        index: Index of the block.
        where: Which of the block's G and O.
        span: Where its edges are in the gradient of all blocks' edges.
        raw: Edge features, [G, R, C, T].
        encoder: Weight and bias.
        rows: Factors of its output neurons in each layer so far, [H, G, R, 3].
        columns: Factors of its input neurons in each layer so far, [H, G, 3, C].
    """

    index: int
    where: tuple[slice, slice]
    span: slice
    raw: Tensor
    encoder: tuple[Tensor, ...]
    rows: list[Tensor]
    columns: list[Tensor]

    def edges(self, layer: int) -> Tensor:
        """Encoded edges, updated as often as there are layers before this one, [H, G, R, C]."""
        edges = equations.encode(self.raw, *self.encoder)
        for rows, columns in zip(self.rows[:layer], self.columns[:layer], strict=True):
            edges.mul_(equations.update_factor(rows, columns))
        return edges


class PlainKernels(Kernels):
    """Runs on every device and in float32, float64 and bfloat16."""

    name = "plain"

    def __init__(self, blocks: Sequence[EdgeBlock], num_nodes: int, inverter: Tensor) -> None:
        super().__init__(blocks, num_nodes, inverter)
        self._signs = torch.stack([inverter, inverter, torch.ones_like(inverter)])
        self._of_rows = torch.tensor([A, Q, P], device=inverter.device)
        self._rows: list[list[Tensor]] = [[] for _ in blocks]
        self._columns: list[list[Tensor]] = [[] for _ in blocks]

    def _pieces(self, factors: Sequence[Tensor]) -> Iterator[_Piece]:
        """All blocks in pieces, one after another."""
        for index in range(len(self.blocks)):
            yield from self._pieces_of(index, factors)

    def _pieces_of(self, index: int, factors: Sequence[Tensor]) -> Iterator[_Piece]:
        values = self.blocks[index]
        self._spread(index, factors)
        end = sum(self.sizes[:index])
        size = PIECES.get(self.inverter.device.type, PIECE)
        for where in values.block.pieces(values.hidden, size):
            rows = [own[:, *where] for own in self._rows[index][: len(factors)]]
            columns = [own[:, where[0]] for own in self._columns[index][: len(factors)]]
            raw = _cut(values.raw, *where)
            start = end
            end = end + raw.shape[:3].numel() * values.hidden
            yield _Piece(
                index,
                where,
                slice(start, end),
                raw,
                values.encoder,
                rows,
                columns,
            )

    def _spread(self, index: int, factors: Sequence[Tensor]) -> None:
        """Give a block's rows and columns the factors of their nodes in each layer so far.

        They are kept for the whole pass: rows are [H, G, O, 3], columns [H, G, 3, I].
        """
        block = self.blocks[index].block
        rows, columns = self._rows[index], self._columns[index]
        for nodes in factors[len(rows) :]:
            of_rows = nodes[block.target[..., None], self._of_rows]
            rows.append(of_rows.permute(3, 0, 1, 2).contiguous())
            of_columns = nodes[:, A:][block.source] * self._signs
            columns.append(of_columns.permute(3, 0, 2, 1).contiguous())

    def _new(self) -> list[Tensor]:
        """Room for the taps of each block, [G, O, I, T]."""
        room = []
        for values in self.blocks:
            first = values.raw[0]
            room.append(first.new_empty(sum(values.block.sizes), *first.shape[1:]))
        return room

    def _members(self, of_blocks: list[Tensor]) -> list[Tensor]:
        members: list[Tensor] = []
        for values, whole in zip(self.blocks, of_blocks, strict=True):
            members += whole.split(values.block.sizes)
        return members

    def send(self, nodes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Implements `Kernels`."""
        return equations.send(nodes, weight, bias)

    def send_backward(
        self, nodes: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        """Implements `Kernels`."""
        return equations.gradients(equations.send, (nodes, weight, bias), gradient)

    def statistics(self, factors: Sequence[Tensor]) -> Tensor:
        """Implements `Kernels`."""
        nodes, _, hidden = factors[-1].shape
        wide = equations.accumulator(factors[-1].dtype)
        received = factors[-1].new_zeros(2, nodes, 6, hidden, dtype=wide)
        received[:, :, 2:4] = -torch.inf
        for index, values in enumerate(self.blocks):
            target = values.block.target
            source = values.block.source
            at_rows = received.new_empty(*target.shape, 6, hidden)
            at_columns = received.new_empty(*source.shape, 6, hidden)
            for piece in self._pieces_of(index, factors):
                edges = piece.edges(len(factors) - 1)
                both = equations.reduce_messages(edges, piece.rows[-1], piece.columns[-1])
                to_rows, to_columns = (part.permute(2, 3, 0, 1) for part in both)
                groups, rows = piece.where
                at_rows[piece.where] = to_rows
                if rows.start == 0:
                    at_columns[groups] = to_columns
                else:
                    _join(at_columns[groups], to_columns)
            _receive(received[0], target, at_rows)
            _receive(received[1], source, at_columns)
        received[:, :, 2:4].masked_fill_(received[:, :, 4:] == 0, 0)  # a node without messages
        return received

    def collect(self, received: Tensor, factors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Implements `Kernels`."""
        ways = [
            equations.collect(six[:, :4], many, factors, weight, bias)
            for six, many in zip(received, self.counts, strict=True)
        ]
        return ways[0] + ways[1]

    def collect_backward(
        self, received: Tensor, factors: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        """Implements `Kernels`."""
        messages = torch.empty_like(received)
        total = [torch.zeros_like(value) for value in (factors, weight, bias)]
        for own, six, counts in zip(messages, received, self.counts, strict=True):
            inputs = six[:, :4], counts, factors, weight, bias
            own[:, :4], *parts = equations.gradients(equations.collect, inputs, gradient)
            own[:, 1] *= 2
            own[:, 2:4] /= six[:, 4:].clamp(min=1)
            own[:, 4:] = six[:, 2:4]
            for value, part in zip(total, parts, strict=True):
                value += part
        return messages, *total

    def layer_backward(
        self, factors: Sequence[Tensor], received: Tensor, gradient: Tensor, g_factors: Tensor
    ) -> None:
        """Implements `Kernels`."""
        nodes, _, hidden = g_factors.shape
        at_rows = g_factors.new_zeros(nodes, 3, hidden)
        at_columns = torch.zeros_like(at_rows)
        for piece in self._pieces(factors):
            block = self.blocks[piece.index].block
            target = block.target[piece.where]
            source = block.source[piece.where[0]]
            edges = piece.edges(len(factors) - 1)
            g_rows, g_columns = equations.layer_backward(
                edges,
                gradient[piece.span].view_as(edges),
                piece.rows[-1],
                piece.columns[-1],
                _at(received[0], target),
                _at(received[1], source),
            )
            g_rows = g_rows.permute(1, 2, 3, 0)
            g_columns = g_columns.permute(1, 3, 2, 0)
            at_rows.index_add_(0, target.flatten(), g_rows.flatten(0, 1))
            at_columns.index_add_(0, source.flatten(), g_columns.flatten(0, 1))
        g_factors[:, self._of_rows] += at_rows
        g_factors[:, A:] += at_columns * self._signs

    def decode(self, factors: Sequence[Tensor]) -> list[Tensor]:
        """Implements `Kernels`."""
        new = self._new()
        for piece in self._pieces(factors):
            decoder = self.blocks[piece.index].decoder
            edges = piece.edges(len(factors))
            new[piece.index][piece.where] = equations.decode(edges, piece.raw, *decoder)
        return self._members(new)

    def decode_backward(
        self, factors: Sequence[Tensor], new: Sequence[Tensor], gradient: Tensor
    ) -> list[tuple[Tensor, ...]]:
        """Implements `Kernels`."""
        total = [[torch.zeros_like(value) for value in values.decoder] for values in self.blocks]
        parts = iter(new)
        members = [[next(parts) for _ in values.raw] for values in self.blocks]
        for piece in self._pieces(factors):
            edges = piece.edges(len(factors))
            decoder = self.blocks[piece.index].decoder
            g_new = _cut(members[piece.index], *piece.where)
            inputs = (edges, piece.raw, *decoder)
            g_edges, _, *g_decoder = equations.gradients(equations.decode, inputs, g_new)
            gradient[piece.span] = g_edges.flatten()
            for value, part in zip(total[piece.index], g_decoder, strict=True):
                value += part
        return [tuple(own) for own in total]

    def encode_backward(self, gradient: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Implements `Kernels`."""
        total = []
        for values in self.blocks:
            weight, bias = values.encoder
            total.append((torch.zeros_like(weight), torch.zeros_like(bias)))
        for piece in self._pieces(()):
            weight, bias = total[piece.index]
            own = gradient[piece.span].view(len(bias), -1)
            weight += own @ piece.raw.flatten(0, 2)
            bias += own.sum(1)
        return total

    def raw_backward(self, gradient: Tensor) -> list[Tensor]:
        """Implements `Kernels`."""
        gradients = self._new()
        for piece in self._pieces(()):
            weight, bias = piece.encoder
            own = gradient[piece.span].view(len(bias), -1)
            taps = own.t() @ weight
            gradients[piece.index][piece.where] = taps.view_as(piece.raw)
        return self._members(gradients)


def _cut(members: Sequence[Tensor], groups: slice, rows: slice) -> Tensor:
    """A piece of what a block's members hold together, [G, R, I, T]."""
    parts = []
    start = 0
    for member in members:
        first = max(0, groups.start - start)
        last = max(0, groups.stop - start)
        own = member[first:last, rows]
        start += len(member)
        if len(own):
            parts.append(own)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _at(nodes: Tensor, index: Tensor) -> Tensor:
    """Node values where a piece has its rows or columns: [N, K, H] and [G, R] -> [K, H, G, R]."""
    return nodes[index].permute(2, 3, 0, 1).contiguous()


def _join(into: Tensor, part: Tensor) -> None:
    """Add the statistics of more rows, [G, C, 6, H].

    Sums add up, extremes win with their counts.
    """
    sums, extremes, counts = into.split(2, dim=2)
    more_sums, more_extremes, more_counts = part.split(2, dim=2)
    high = torch.maximum(extremes, more_extremes)
    counts *= extremes == high
    counts += more_counts * (more_extremes == high)
    extremes.copy_(high)
    sums += more_sums


def _receive(received: Tensor, index: Tensor, statistics: Tensor) -> None:
    """Join the statistics of a block, [G, K, 6, H], to those of its nodes [G, K], of [N, 6, H]."""
    nodes = index.flatten()
    sums, extremes, counts = received.split(2, dim=1)
    more_sums, more_extremes, more_counts = statistics.flatten(0, 1).split(2, dim=1)
    before = extremes.clone()
    sums.index_add_(0, nodes, more_sums)
    extremes.scatter_reduce_(
        0, nodes[:, None, None].expand_as(more_extremes), more_extremes, "amax"
    )
    counts *= extremes == before
    counts.index_add_(0, nodes, more_counts * (more_extremes == extremes[nodes]))
