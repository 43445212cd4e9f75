"""Layer-adaptive sparsity (Lee et al. 2021)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metaprune_pl.pruning.groups import PruningGroups
from metaprune_pl.pruning.importance.base import Importance, check_exponent
from metaprune_pl.pruning.importance.magnitude import power_sums, power_sums_of_kept, powers


@dataclass(frozen=True, kw_only=True)
class Lamp(Importance):
    """How large weights are against those of their group that are at least as large.

    Attributes:
        p: Exponent of the norm.
    """

    p: float = 2.0

    def __post_init__(self) -> None:
        check_exponent(self.p)

    def scores(
        self, groups: PruningGroups, measured: Mapping[str, Tensor], kept: Tensor | None = None
    ) -> Tensor:
        """Mean of |w|^p, differentiable: see `Importance.scores`."""
        return power_sums(groups, measured, self.p, kept)

    def of_kept(
        self, groups: PruningGroups, measured: Mapping[str, Tensor]
    ) -> Callable[[Tensor], Tensor]:
        """Raise to powers once: see `Importance.of_kept`."""
        return power_sums_of_kept(groups, measured, self.p)

    def raw_weight_scores(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return |w|^p of each weight."""
        return powers(measured, self.p)

    def divisors(
        self,
        scores: Tensor,
        index: Tensor,
        count: int,
        there: Tensor,
    ) -> Tensor:
        """Return for each score the sum of those of its group that are at least as high."""
        scores = torch.where(there, scores, 0.0)
        order = torch.argsort(scores, descending=True, stable=True)
        order = order[torch.argsort(index[order], stable=True)]
        zeros = scores.new_zeros(count).double()
        sums = zeros.index_add(0, index, scores.double())
        earlier_groups = (sums.cumsum(0) - sums)[index[order]]
        so_far = scores[order].double().cumsum(0) - earlier_groups
        value = torch.empty_like(scores).index_copy(
            0,
            order,
            so_far.to(scores),
        )
        return torch.where(value > 0, value, 1.0)
