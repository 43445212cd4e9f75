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
        number: Of the block.
        where: Which of the block's G and O.
        span: Where its edges are in the gradient of all blocks' edges.
        raw: Edge features, [G, R, C, T].
        encoder: Weight and bias.
        rows: Factors of its output neurons in each layer so far, [H, G, R, 3].
        columns: Factors of its input neurons in each layer so far, [H, G, 3, C].
    """

    number: int
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

    def __init__(self, blocks: Sequence[EdgeBlock], num_nodes: int, inverter: Tensor) -> None:
        super().__init__(blocks, num_nodes, inverter)
        self._signs = torch.stack([inverter, inverter, torch.ones_like(inverter)])
        self._of_rows = torch.tensor([A, Q, P], device=inverter.device)

    def _pieces(self, factors: Sequence[Tensor]) -> Iterator[_Piece]:
        """All blocks in pieces, one after another."""
        for number in range(len(self.blocks)):
            yield from self._pieces_of(number, factors)

    def _pieces_of(self, number: int, factors: Sequence[Tensor]) -> Iterator[_Piece]:
        values = self.blocks[number]
        columns = list[Tensor]()
        end = sum(self.sizes[:number])
        for where in values.block.pieces(
            values.hidden, PIECES.get(self.inverter.device.type, PIECE)
        ):
            if where[1].start == 0:
                at = values.block.source[where[0]]
                columns = [
                    (nodes[:, A:][at] * self._signs).permute(3, 0, 2, 1).contiguous()
                    for nodes in factors
                ]
            at = values.block.target[where][..., None]
            rows = [nodes[at, self._of_rows].permute(3, 0, 1, 2).contiguous() for nodes in factors]
            raw = _cut(values.raw, *where)
            start = end
            end = end + raw.shape[:3].numel() * values.hidden
            yield _Piece(
                number,
                where,
                slice(start, end),
                raw,
                values.encoder,
                rows,
                columns,
            )

    def _new(self) -> list[Tensor]:
        """Room for the taps of each block, [G, O, I, T]."""
        return [v.raw[0].new_empty(sum(v.block.sizes), *v.raw[0].shape[1:]) for v in self.blocks]

    def _members(self, of_blocks: list[Tensor]) -> list[Tensor]:
        return [
            part
            for v, own in zip(self.blocks, of_blocks, strict=True)
            for part in own.split(v.block.sizes)
        ]

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
        for number, values in enumerate(self.blocks):
            target = values.block.target
            source = values.block.source
            at_rows, at_columns = (
                received.new_empty(*ends.shape, 6, hidden) for ends in (target, source)
            )
            for piece in self._pieces_of(number, factors):
                edges = piece.edges(len(factors) - 1)
                to_rows, to_columns = equations.reduce_messages(
                    edges, piece.rows[-1], piece.columns[-1]
                )
                groups, rows = piece.where
                at_rows[piece.where] = to_rows.permute(2, 3, 0, 1)
                if rows.start == 0:
                    at_columns[groups] = to_columns.permute(2, 3, 0, 1)
                else:
                    _join(at_columns[groups], to_columns.permute(2, 3, 0, 1))
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
            own[:, :4], *found = equations.gradients(equations.collect, inputs, gradient)
            own[:, 1] *= 2
            own[:, 2:4] /= six[:, 4:].clamp(min=1)
            own[:, 4:] = six[:, 2:4]
            for value, part in zip(total, found, strict=True):
                value += part
        return messages, *total

    def layer_backward(
        self, factors: Sequence[Tensor], received: Tensor, gradient: Tensor, found: Tensor
    ) -> None:
        """Implements `Kernels`."""
        at_rows, at_columns = (found.new_zeros(len(found), 3, found.shape[2]) for _ in range(2))
        for piece in self._pieces(factors):
            block = self.blocks[piece.number].block
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
            at_rows.index_add_(0, target.flatten(), g_rows.permute(1, 2, 3, 0).flatten(0, 1))
            at_columns.index_add_(0, source.flatten(), g_columns.permute(1, 3, 2, 0).flatten(0, 1))
        found[:, self._of_rows] += at_rows
        found[:, A:] += at_columns * self._signs

    def decode(self, factors: Sequence[Tensor]) -> list[Tensor]:
        """Implements `Kernels`."""
        new = self._new()
        for piece in self._pieces(factors):
            decoder = self.blocks[piece.number].decoder
            new[piece.number][piece.where] = equations.decode(
                piece.edges(len(factors)), piece.raw, *decoder
            )
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
            decoder = self.blocks[piece.number].decoder
            g_new = _cut(members[piece.number], *piece.where)
            own, _, *found = equations.gradients(
                equations.decode, (edges, piece.raw, *decoder), g_new
            )
            gradient[piece.span] = own.flatten()
            for value, part in zip(total[piece.number], found, strict=True):
                value += part
        return [tuple(own) for own in total]

    def encode_backward(self, gradient: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Implements `Kernels`."""
        total = [
            (torch.zeros_like(weight), torch.zeros_like(bias))
            for weight, bias in (v.encoder for v in self.blocks)
        ]
        for piece in self._pieces(()):
            weight, bias = total[piece.number]
            own = gradient[piece.span].view(len(bias), -1)
            weight += own @ piece.raw.flatten(0, 2)
            bias += own.sum(1)
        return total

    def raw_backward(self, gradient: Tensor) -> list[Tensor]:
        """Implements `Kernels`."""
        found = self._new()
        for piece in self._pieces(()):
            weight, bias = piece.encoder
            own = gradient[piece.span].view(len(bias), -1).t() @ weight
            found[piece.number][piece.where] = own.view_as(piece.raw)
        return self._members(found)


def _cut(members: Sequence[Tensor], groups: slice, rows: slice) -> Tensor:
    """A piece of what a block's members hold together, [G, R, I, T]."""
    parts = []
    start = 0
    for member in members:
        own = member[max(0, groups.start - start) : max(0, groups.stop - start), rows]
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
    high = torch.maximum(into[:, :, 2:4], part[:, :, 2:4])
    into[:, :, 4:] *= into[:, :, 2:4] == high
    into[:, :, 4:] += part[:, :, 4:] * (part[:, :, 2:4] == high)
    into[:, :, 2:4] = high
    into[:, :, :2] += part[:, :, :2]


def _receive(received: Tensor, index: Tensor, found: Tensor) -> None:
    """Join the statistics of a block, [G, K, 6, H], to those of its nodes [G, K], of [N, 6, H]."""
    where = index.flatten()
    values = found.flatten(0, 1)
    before = received[:, 2:4].clone()
    received[:, :2].index_add_(0, where, values[:, :2])
    received[:, 2:4].scatter_reduce_(
        0, where[:, None, None].expand(-1, 2, values.shape[2]), values[:, 2:4], "amax"
    )
    received[:, 4:] *= received[:, 2:4] == before
    received[:, 4:].index_add_(0, where, values[:, 4:] * (values[:, 2:4] == received[where, 2:4]))
