"""The paper's group norm (B.2.3)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from metaprune_pl.pruning.groups import (
    PruningGroups,
    edge_powers,
    magnitudes,
    sums_of_powers,
)
from metaprune_pl.pruning.importance.base import Normalized, check_exponent


@dataclass(frozen=True, kw_only=True)
class Magnitude(Normalized):
    """How large a unit's weights are: the sum of |w|^p.

    Attributes:
        normalize: What scores are divided by within their group: 1 (`none`), their `mean` or `max`.
        p: Exponent of the norm.
        reduce: What a unit's score is of its parameters' |w|^p: their `mean`, or that of the
            `first` layer.
    """

    p: float = 2.0
    reduce: Literal["mean", "first"] = "mean"

    def __post_init__(self) -> None:
        check_exponent(self.p)

    def scores(
        self, groups: PruningGroups, measured: Mapping[str, Tensor], kept: Tensor | None = None
    ) -> Tensor:
        """Equation (24), differentiable: see `Importance.scores`."""
        return power_sums(
            groups,
            measured,
            self.p,
            kept,
            first=self.reduce == "first",
        )

    def of_kept(
        self, groups: PruningGroups, measured: Mapping[str, Tensor]
    ) -> Callable[[Tensor], Tensor]:
        """Raise to powers once: see `Importance.of_kept`."""
        return power_sums_of_kept(groups, measured, self.p, first=self.reduce == "first")

    def raw_weight_scores(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return |w|^p of each weight."""
        return powers(measured, self.p)


def power_sums(
    groups: PruningGroups,
    values: Mapping[str, Tensor],
    p: float,
    kept: Tensor | None = None,
    *,
    first: bool = False,
) -> Tensor:
    """Mean over a unit's parameters of the sums of |w|^p, differentiable, [U].

    Args:
        groups: Pruning groups.
        values: What is summed, by the name of a parameter.
        p: Exponent.
        kept: Which nodes are there, bool [N]; None is all.
        first: Whether a unit's first layer alone counts.
    """
    return _of_units(groups, magnitudes(groups.graph, values, p, kept), first)


def power_sums_of_kept(
    groups: PruningGroups,
    values: Mapping[str, Tensor],
    p: float,
    *,
    first: bool = False,
) -> Callable[[Tensor], Tensor]:
    """Return a function from which nodes are there, bool [N], to the result of `power_sums`."""
    powers_once = edge_powers(groups.graph, values, p)
    return lambda kept: _of_units(groups, sums_of_powers(groups.graph, powers_once, kept), first)


def _of_units(groups: PruningGroups, sums: Tensor, first: bool) -> Tensor:
    """Put the sums of parameters, [P], together to scores, [U]."""
    if first:
        sums = sums * groups.entry_first.to(sums.device)
    index = groups.entry_unit.to(sums.device)
    total = sums.new_zeros(len(groups.group)).index_add(0, index, sums)
    return total if first else total / groups.members.to(sums.device).clamp(min=1)


def powers(weights: Mapping[str, Tensor], p: float) -> dict[str, Tensor]:
    """Return |w|^p of each weight, without gradient."""
    return {name: weight.detach().abs().pow(p) for name, weight in weights.items()}
