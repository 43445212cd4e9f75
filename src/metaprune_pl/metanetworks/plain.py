"""The work on the blocks in PyTorch, piece by piece. The size of a piece changes nothing but rounding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metaprune_pl.metanetworks import equations
from metaprune_pl.metanetworks.engine import EdgeBlock, Kernels

PIECES = {"cpu": 2**18}
"""Numbers of a piece, edges x hidden, by device: on a CPU, a piece and its neighbours stay in the cache of a core."""
PIECE = 2**24
"""The same on other devices: enough to keep one busy, and some 64 MB for each of its temporary tensors."""


@dataclass(frozen=True, eq=False)
class _Piece:
    """A piece of a block.

    Attributes:
        where: Which of the block's G and O.
        raw: Edge features, [G, R, C, T].
        encoder: Weight and bias.
        rows: Factors of its output neurons in each layer so far, [5, H, G, R].
        columns: Factors of its input neurons in each layer so far, [5, H, G, C].
    """

    where: tuple[slice, slice]
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
    """Runs on every device and in float32, float64 and bfloat16.

    Args:
        piece: Largest number of edges x hidden at a time, or None for what suits the device; one row of a block is the
            smallest.
    """

    def __init__(self, piece: int | None = None) -> None:
        self.piece = piece

    def _pieces(self, values: EdgeBlock, factors: Sequence[Tensor]) -> Iterator[_Piece]:
        columns: list[Tensor] = []
        size = self.piece or PIECES.get(values.raw.device.type, PIECE)
        for where in values.block.pieces(values.hidden, size):
            if where[1].start == 0:
                columns = [_at(layer, values.block.source[where[0]]) for layer in factors]
            rows = [_at(layer, values.block.target[where]) for layer in factors]
            yield _Piece(where, values.raw[where], values.encoder, rows, columns)

    def statistics(self, blocks: Sequence[EdgeBlock], factors: Sequence[Tensor]) -> Tensor:
        """Implements `Kernels`."""
        nodes, hidden = factors[-1].shape[0], factors[-1].shape[2]
        at_rows, at_columns = [], []
        for values in blocks:
            wide = values.raw.new_empty(0, dtype=equations.accumulator(values.raw.dtype))
            at_rows.append(wide.new_empty(*values.block.target.shape, 6, hidden))
            at_columns.append(wide.new_empty(*values.block.source.shape, 6, hidden))
            for piece in self._pieces(values, factors):
                edges = piece.edges(len(factors) - 1)
                to_rows, to_columns = equations.reduce_messages(edges, piece.rows[-1], piece.columns[-1])
                groups, rows = piece.where
                at_rows[-1][piece.where] = to_rows.permute(2, 3, 0, 1)
                if rows.start == 0:
                    at_columns[-1][groups] = to_columns.permute(2, 3, 0, 1)
                else:
                    _join(at_columns[-1][groups], to_columns.permute(2, 3, 0, 1))
        rows_of, columns_of = [v.block.target for v in blocks], [v.block.source for v in blocks]
        return torch.stack([_gather(rows_of, at_rows, nodes), _gather(columns_of, at_columns, nodes)])

    def aggregate(self, received: Tensor, counts: Tensor, factor: Tensor) -> Tensor:
        """Implements `Kernels`."""
        both: Tensor = equations.aggregate(received[:, :, :4], counts, factor).sum(0)
        return both.to(factor.dtype)

    def aggregate_backward(
        self, received: Tensor, counts: Tensor, factor: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Implements `Kernels`."""
        with torch.enable_grad():
            four, own = received[:, :, :4].detach().requires_grad_(), factor.detach().requires_grad_()
            inbox = self.aggregate(four, counts, own)
        g_four, g_own = torch.autograd.grad(inbox, (four, own), gradient)
        g_four[:, :, 1] *= 2
        g_four[:, :, 2:] /= received[:, :, 4:].clamp(min=1)
        return torch.cat([g_four, received[:, :, 2:4]], 2), g_own

    def layer_backward(
        self, blocks: Sequence[EdgeBlock], factors: Sequence[Tensor], received: Tensor, gradient: Sequence[Tensor]
    ) -> Tensor:
        """Implements `Kernels`."""
        total = torch.zeros_like(factors[-1])
        for values, own in zip(blocks, gradient, strict=True):
            at_rows = total.new_empty(*values.block.target.shape, 5, values.hidden)
            at_columns = total.new_zeros(*values.block.source.shape, 5, values.hidden)
            position = 0
            for piece in self._pieces(values, factors):
                groups, _ = piece.where
                edges = piece.edges(len(factors) - 1)
                part = own[position : position + edges.numel()].view_as(edges)
                position += edges.numel()
                g_rows, g_columns = equations.layer_backward(
                    edges, part, piece.rows[-1], piece.columns[-1], _at(received[0], values.block.target[piece.where]),
                    _at(received[1], values.block.source[groups]),
                )  # fmt: skip
                at_rows[piece.where] = g_rows.permute(2, 3, 0, 1)
                at_columns[groups] += g_columns.permute(2, 3, 0, 1)
            for index, found in ((values.block.target, at_rows), (values.block.source, at_columns)):
                total.index_add_(0, index.flatten(), found.flatten(0, 1))
        return total

    def decode(self, values: EdgeBlock, factors: Sequence[Tensor]) -> Tensor:
        """Implements `Kernels`."""
        new = torch.empty_like(values.raw)
        for piece in self._pieces(values, factors):
            new[piece.where] = equations.decode(piece.edges(len(factors)), piece.raw, *values.decoder)
        return new

    def decode_backward(
        self, values: EdgeBlock, factors: Sequence[Tensor], new: Tensor, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        """Implements `Kernels`."""
        total = [torch.zeros_like(value) for value in values.decoder]
        position = 0
        for piece in self._pieces(values, factors):
            edges = piece.edges(len(factors))
            own, found = equations.decode_backward(edges, piece.raw, values.decoder, new[piece.where])
            gradient[position : position + edges.numel()] = own.flatten()
            position += edges.numel()
            for value, part in zip(total, found, strict=True):
                value += part
        return tuple(total)

    def encode_backward(self, values: EdgeBlock, gradient: Tensor, *, wants_raw: bool) -> tuple[Tensor | None, ...]:
        """Implements `Kernels`."""
        weight, bias = (torch.zeros_like(value) for value in values.encoder)
        raw = torch.empty_like(values.raw) if wants_raw else None
        position = 0
        for piece in self._pieces(values, ()):
            count = values.hidden * piece.raw.shape[:3].numel()
            own = gradient[position : position + count].view(values.hidden, -1)
            position += count
            weight += own @ piece.raw.flatten(0, 2)
            bias += own.sum(1)
            if raw is not None:
                raw[piece.where] = (own.t() @ values.encoder[0]).view_as(piece.raw)
        return raw, weight, bias


def _at(nodes: Tensor, index: Tensor) -> Tensor:
    """Node values where a piece has its rows or columns: [N, K, H] and [G, R] -> [K, H, G, R]."""
    return nodes[index].permute(2, 3, 0, 1).contiguous()


def _join(into: Tensor, part: Tensor) -> None:
    """Add the statistics of more rows, [G, C, 6, H]: sums add up, extremes win with their counts."""
    high = torch.maximum(into[:, :, 2:4], part[:, :, 2:4])
    into[:, :, 4:] *= into[:, :, 2:4] == high
    into[:, :, 4:] += part[:, :, 4:] * (part[:, :, 2:4] == high)
    into[:, :, 2:4] = high
    into[:, :, :2] += part[:, :, :2]


def _gather(index: list[Tensor], parts: list[Tensor], nodes: int) -> Tensor:
    """Join the statistics of all blocks at the nodes: [G, K] and [G, K, 6, H] of each -> [N, 6, H]."""
    where, values = torch.cat([i.flatten() for i in index]), torch.cat([p.flatten(0, 1) for p in parts])

    def scatter(part: Tensor, reduce: str) -> Tensor:
        flat = part.flatten(1)
        zeros = flat.new_zeros(nodes, flat.shape[1])
        found = zeros.scatter_reduce(0, where[:, None].expand_as(flat), flat, reduce, include_self=False)
        return found.view(nodes, *part.shape[1:])

    sums, extremes = scatter(values[:, :2], "sum"), scatter(values[:, 2:4], "amax")
    return torch.cat([sums, extremes, scatter(values[:, 4:] * (values[:, 2:4] == extremes[where]), "sum")], 1)
