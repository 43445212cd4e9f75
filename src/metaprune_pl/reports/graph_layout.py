"""Where the layers of a network stand in a figure of its graph."""

import itertools
import math
from dataclasses import dataclass

import torch

from metaprune_pl.graphs import NeuronGroup
from metaprune_pl.pruning import PruningGroups

STAYS = "#c9c9c9"
"""Colour of channels that cannot be pruned."""
ALONE = "#9db8d2"
"""Colour of channels that no other layer shares."""
LONGEST_ROW = 44
"""Columns of a row at most."""
GAP = 0.22
"""Gap between the bars of one column, inches."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One neuron group as it is drawn.

    Attributes:
        name: Its name.
        size: Number of neurons.
        row: Row of the figure, from above.
        x: Column in the row.
        y: Height of its middle above the row's line.
        height: Its height; its area grows with the number of neurons.
        colors: From below, pieces of the bar (share of its height) and their colours: one for each
            pruning group.
    """

    name: str
    size: int
    row: int
    x: float
    y: float
    height: float
    colors: tuple[tuple[float, str], ...]


def lay_out(groups: PruningGroups) -> list[Bar]:
    """Place every neuron group: depth to the right, groups of one depth above each other.

    Long networks are drawn in several rows.
    """
    neuron_groups = groups.graph.groups
    depths = _depths(groups)
    per_row = _row_length(1 + max(depths))
    colors = _colors(groups)
    unit = 0.9 / max(group.size for group in neuron_groups) ** 0.5
    heights = [max(0.14, unit * group.size**0.5) for group in neuron_groups]
    bars = []
    for index, group in enumerate(neuron_groups):
        column = [other for other, depth in enumerate(depths) if depth == depths[index]]
        total = sum(heights[other] for other in column) + GAP * (len(column) - 1)
        below = sum(heights[other] + GAP for other in column if other > index)
        bars.append(
            Bar(
                name=group.name,
                size=group.size,
                row=depths[index] // per_row,
                x=depths[index] % per_row,
                y=below + heights[index] / 2 - total / 2,
                height=heights[index],
                colors=_pieces(groups, group, colors),
            )
        )
    return bars


def _pieces(
    groups: PruningGroups, group: NeuronGroup, colors: dict[int, str]
) -> tuple[tuple[float, str], ...]:
    """Runs of neurons of one colour: share of the bar, and colour."""
    units = groups.unit[group.start : group.stop]
    owners = torch.where(groups.prunable[units], groups.group[units], -1)
    runs, counts = torch.unique_consecutive(owners, return_counts=True)
    pieces = []
    for owner, count in zip(runs.tolist(), counts.tolist(), strict=True):
        color = colors[owner] if owner >= 0 else STAYS
        pieces.append((count / group.size, color))
    return tuple(pieces)


def _row_length(depth: int) -> int:
    rows = math.ceil(depth / LONGEST_ROW)
    return math.ceil(depth / rows)


def _owners(groups: PruningGroups) -> torch.Tensor:
    """Index of the neuron group of each neuron, [N]."""
    sizes = [group.size for group in groups.graph.groups]
    return torch.repeat_interleave(torch.tensor(sizes))


def connected(groups: PruningGroups) -> list[tuple[int, int]]:
    """Pairs of different neuron groups that are connected, source first."""
    owner = _owners(groups)
    pairs: dict[tuple[int, int], None] = {}  # in the order of the connections
    for connection in groups.graph.connections:
        sources = owner[connection.source].unique().tolist()
        targets = owner[connection.target].unique().tolist()
        pairs.update(dict.fromkeys(itertools.product(sources, targets)))
    return [(source, target) for source, target in pairs if source != target]


def _depths(groups: PruningGroups) -> list[int]:
    """Length of the longest path from the image to each neuron group, gates left out."""
    depths = [0] * len(groups.graph.groups)
    for source, target in sorted(connected(groups), key=lambda edge: edge[1]):
        if source < target:  # a gate leads back
            depths[target] = max(depths[target], depths[source] + 1)
    return depths


def _colors(groups: PruningGroups) -> dict[int, str]:
    """A colour for each pruning group that several neuron groups share."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    members = torch.stack([groups.group[groups.unit], _owners(groups)])
    pairs = torch.unique(members, dim=1)
    counts = torch.bincount(pairs[0], minlength=len(groups.names)).tolist()
    without_grey = (0, 1, 2, 3, 4, 5, 6, 8, 9)
    palette = itertools.cycle([to_hex(colormaps["tab10"](index)) for index in without_grey])
    return {group: next(palette) if count > 1 else ALONE for group, count in enumerate(counts)}
