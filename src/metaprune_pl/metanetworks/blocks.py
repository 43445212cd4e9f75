"""A graph's connections as dense blocks: those of equal shape lie side by side."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metaprune_pl.graphs import WeightGraph


@dataclass(frozen=True, eq=False)
class Block:
    """Connections of equal shape side by side.

    Attributes:
        members: Indices of the connections.
        sizes: How many of the G blocks each of them has.
        target: Nodes that it leads to, [G, O].
        source: Nodes that it comes from, [G, I].
        kernel: Extent of the taps.
    """

    members: tuple[int, ...]
    sizes: tuple[int, ...]
    target: Tensor
    source: Tensor
    kernel: tuple[int, int]

    @property
    def num_edges(self) -> int:
        """G O I."""
        return self.target.numel() * self.source.shape[1]

    def pieces(self, width: int, numbers: int) -> Iterator[tuple[slice, slice]]:
        """Cut the block into pieces of at most so many numbers.

        Some of its G, or some rows of one of them.

        Args:
            width: Numbers for each edge.
            numbers: Largest size of a piece; one row is the smallest.
        """
        groups, outputs = self.target.shape
        row = max(1, self.source.shape[1] * width)
        rows = max(1, min(outputs, numbers // row))
        whole_groups = 1
        if rows == outputs:
            whole_groups = max(1, numbers // (row * outputs))
        for first_group in range(0, groups, whole_groups):
            last_group = min(groups, first_group + whole_groups)
            for first in range(0, outputs, rows):
                last = min(outputs, first + rows)
                yield slice(first_group, last_group), slice(first, last)


def batch_blocks(graph: WeightGraph, device: torch.device) -> list[Block]:
    """Put connections of equal shape side by side.

    A few large blocks instead of many small ones.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, connection in enumerate(graph.connections):
        if connection.num_edges:
            shape = (*connection.shape[1:3], *connection.kernel)
            by_shape.setdefault(shape, []).append(index)
    return [_block(graph, by_shape[shape], device) for shape in sorted(by_shape)]


def _block(graph: WeightGraph, members: list[int], device: torch.device) -> Block:
    """Put some connections of equal shape side by side."""
    connections = [graph.connections[index] for index in members]
    return Block(
        members=tuple(members),
        sizes=tuple(connection.shape[0] for connection in connections),
        target=torch.cat([connection.target for connection in connections]).to(device),
        source=torch.cat([connection.source for connection in connections]).to(device),
        kernel=connections[0].kernel,
    )
