"""Network slimming (Liu et al. 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metaprune_pl.pruning.groups import PruningGroups, count_scales, magnitudes
from metaprune_pl.pruning.importance.base import Normalized, check_exponent


@dataclass(frozen=True, kw_only=True)
class Scales(Normalized):
    """How large the scales of a unit's norms are; units without a norm stay.

    Attributes:
        normalize: What scores are divided by within their group: 1 (`none`), their `mean` or `max`.
        p: Exponent of the norm.
    """

    p: float = 2.0

    def __post_init__(self) -> None:
        check_exponent(self.p)

    def scores(
        self, groups: PruningGroups, measured: Mapping[str, Tensor], kept: Tensor | None = None
    ) -> Tensor:
        """Mean of |scale|^p, differentiable: see `Importance.scores`."""
        values = magnitudes(groups.graph, measured, self.p, kept)
        scales = values[len(values) - count_scales(groups.graph) :]
        index = groups.entry_unit.to(values.device)[len(values) - len(scales) :]
        members = torch.bincount(index, minlength=len(groups.group))
        total = values.new_zeros(len(groups.group)).index_add(0, index, scales)
        return (total / members.clamp(min=1)).masked_fill(members == 0, torch.inf)
