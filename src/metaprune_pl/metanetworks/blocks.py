"""A graph's connections as dense blocks: those of equal shape lie side by side."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metaprune_pl.graphs import WeightGraph


@dataclass(frozen=True, eq=False)
class Block:
    """Connections of equal shape side by side.

    Attributes:
        members: Numbers of the connections.
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
        many = max(1, numbers // (row * outputs)) if rows == outputs else 1
        for start in range(0, groups, many):
            for first in range(0, outputs, rows):
                yield (
                    slice(start, min(groups, start + many)),
                    slice(first, min(outputs, first + rows)),
                )


def batch_blocks(graph: WeightGraph, device: torch.device) -> list[Block]:
    """Put connections of equal shape side by side.

    A few large blocks instead of many small ones.
    """
    numbered = [
        (number, connection)
        for number, connection in enumerate(graph.connections)
        if connection.num_edges
    ]

    def key(item: tuple[int, object]) -> tuple[int, ...]:
        connection = graph.connections[item[0]]
        return (*connection.shape[1:3], *connection.kernel)

    blocks = []
    for _, found in itertools.groupby(sorted(numbered, key=key), key=key):
        same = list(found)
        blocks.append(
            Block(
                members=tuple(number for number, _ in same),
                sizes=tuple(connection.shape[0] for _, connection in same),
                target=torch.cat([connection.target for _, connection in same]).to(device),
                source=torch.cat([connection.source for _, connection in same]).to(device),
                kernel=same[0][1].kernel,
            )
        )
    return blocks
