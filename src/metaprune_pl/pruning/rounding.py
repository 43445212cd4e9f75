"""Widths that are multiples of a number, for hardware that computes in blocks."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metaprune_pl.pruning.groups import PruningGroups

Multiple = int | Literal["auto"]
"""What widths are multiples of: a number, or what `multiple_for` says of each layer."""
LARGEST = 8
"""What processors compute in at once: eight numbers of 32 bits (AVX), or 16 bytes."""
FINEST = 8
"""Widths that a layer can still be pruned to, at least, where the multiple is chosen for it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rounding:
    """The nearest allowed width of each pruning group.

    Attributes:
        groups: Pruning groups.
        nearest: Number of prunable units that a group of each number of them is rounded to,
            [groups, largest + 1].
    """

    groups: PruningGroups
    nearest: Tensor

    def __call__(self, units: Tensor, priority: Tensor) -> Tensor:
        """Take units back or away until each group has an allowed width.

        Args:
            units: Prunable units that are kept, bool [U].
            priority: Which ones of a group to keep: those of the highest, [U].
        """
        sizes = torch.zeros(len(self.nearest), dtype=torch.long).index_add(
            0, self.groups.group, units.long()
        )
        counts = self.nearest[torch.arange(len(sizes)), sizes]
        if torch.equal(counts, sizes):
            return units
        there = self.groups.prunable.nonzero().flatten()
        there = there[torch.argsort(priority[there], descending=True, stable=True)]
        group = self.groups.group[there]
        chosen = there[rank_within(group, len(sizes)) < counts[group]]
        return torch.zeros_like(units).index_fill(0, chosen, True)


def rounding(groups: PruningGroups, floor: Tensor, multiple: Multiple) -> Rounding:
    """Find the allowed widths: multiples, never zero, and the width that a group has now.

    Args:
        groups: Pruning groups. A unit of several channels (of a conv group, of all attention heads)
            counts as many.
        floor: Units that must stay in each group, [groups].
        multiple: What the widths of layers are to be multiples of.
    """
    sizes = groups.sizes()
    owner = torch.cat(
        [torch.full((group.size,), index) for index, group in enumerate(groups.graph.groups)]
    )
    none = torch.full_like(groups.group, len(groups.graph.groups))
    first = none.scatter_reduce(0, groups.unit, owner, "amin")
    of_first_layer = owner == first[groups.unit]
    channels = torch.bincount(groups.unit[of_first_layer], minlength=len(none))  # of each unit
    stay = torch.zeros_like(sizes).index_add(0, groups.group, channels * ~groups.prunable)
    per_unit = torch.zeros_like(sizes).scatter_reduce(
        0,
        groups.group,
        channels * groups.prunable,
        "amax",
    )
    largest = int(sizes.max()) if len(sizes) else 0
    nearest = torch.zeros(len(sizes), largest + 1, dtype=torch.long)
    for index, size in enumerate(sizes.tolist()):
        if size:
            counts = torch.arange(size + 1)
            widths = counts * per_unit[index] + stay[index]
            step = multiple_for(int(widths[-1])) if multiple == "auto" else multiple
            allowed = widths % step == 0
            allowed[: max(1, int(floor[index]))] = False
            allowed[size] = True
            choice = allowed.nonzero().flatten().flip(0)  # of two as near the wider one
            distance = (counts[:, None] - choice).abs()
            nearest[index, : size + 1] = choice[distance.argmin(1)]
    return Rounding(groups=groups, nearest=nearest)


def multiple_for(width: int) -> int:
    """Return what a layer's widths are multiples of, so that a narrow one keeps enough of them."""
    multiple = LARGEST
    while multiple > 1 and width < FINEST * multiple:
        multiple //= 2
    return multiple


def rank_within(group: Tensor, count: int) -> Tensor:
    """Number the members of each of `count` groups in the order in which they come, [members]."""
    by_group = torch.argsort(group, stable=True)
    sizes = torch.bincount(group, minlength=count)
    starts = torch.cumsum(sizes, 0) - sizes
    rank = torch.empty_like(group)
    rank[by_group] = torch.arange(len(group)) - starts[group[by_group]]
    return rank
