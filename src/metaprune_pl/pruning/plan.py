"""Which channels stay so that a network reaches a cost: the ranking, its steps and floors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.pruning.cost import Cost, Macs
from metaprune_pl.pruning.groups import PruningGroups, groups_of_layers
from metaprune_pl.pruning.heads import AttentionUnits
from metaprune_pl.pruning.importance import Importance
from metaprune_pl.pruning.rankings import Ranking, competition
from metaprune_pl.pruning.rounding import Multiple, rank_within, rounding


@dataclass(frozen=True, kw_only=True)
class PruningSettings:
    """How far and in which steps to prune.

    Attributes:
        step: Share of all channels removed between two rankings; 1 ranks once, which is fastest.
        min_channels: No group is pruned below this many channels.
        max_ratio: No group loses more than this share of its channels.
        max_ratios: The same for layers by name, such as `{layer4: 0.5, head.*: 0}`; a name stands
            for all layers below it.
        keep: Names of layers that lose nothing, such as `[layer4, head.*]`.
        round_to: What widths are multiples of, never zero; `auto` is 8, less in narrow layers.
        attention: What goes in attention: `width`, the same channels of all heads, or whole
            `heads`.
        ranking: Whether channels of all groups compete (`global`), those of each group for the same
            share of it (`uniform`), or those of groups of the same kind (`isomorphic`).
        cost: What a speed-up is of, such as Macs (multiply-accumulates), Parameters or Latency.
        pruner: Who prunes: we (`own`), or torch-pruning's pruner with its own importance
            (`depgraph`), a control.
    """

    step: float = 0.005
    min_channels: int = 1
    max_ratio: float = 1.0
    max_ratios: dict[str, float] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    round_to: Multiple = 1
    attention: AttentionUnits = "width"
    ranking: Ranking = "global"
    cost: Cost = field(default_factory=Macs)
    pruner: Literal["own", "depgraph"] = "own"

    def __post_init__(self) -> None:
        ratios = all(0 <= ratio <= 1 for ratio in (self.max_ratio, *self.max_ratios.values()))
        shares = 0 < self.step <= 1 and ratios
        rounded = self.round_to == "auto" or self.round_to >= 1
        if not shares or not rounded or self.min_channels < 1:
            raise ConfigError(
                "pruning: 0 < step <= 1, 0 <= max_ratio <= 1, min_channels and round_to >= 1 are "
                "needed."
            )

    @property
    def floors(self) -> str:
        """What keeps channels, for errors."""
        rounding = f", round_to={self.round_to}" if self.round_to != 1 else ""
        kept = f", keep={list(self.keep)}" if self.keep else ""
        layers = f", max_ratios={self.max_ratios}" if self.max_ratios else ""
        ratio = f"max_ratio={self.max_ratio:g}{layers}{kept}"
        return f"min_channels={self.min_channels} and {ratio}{rounding}"


@torch.no_grad()
def plan(
    groups: PruningGroups,
    measured: Mapping[str, Tensor],
    criterion: Importance,
    settings: PruningSettings,
    budgets: Sequence[float],
    cost: Callable[[Tensor], float] | None = None,
) -> list[Tensor]:
    """Choose what to keep so that the network costs no more than each of several budgets.

    Channels are ranked (over all groups, or in each), removed a step at a time from the lowest
    score, and ranked again, as if the removed ones had never been there. Budgets do not disturb
    each other: within a step each takes as few as it needs.

    Args:
        groups: Pruning groups of the network.
        measured: What the criterion measured (see `Importance.measure`).
        criterion: Which channels matter.
        settings: Steps and floors.
        budgets: Costs to come down to, largest first.
        cost: Cost of the network for the nodes that are kept (see `Cost.of_kept`); None is the
            multiply-accumulates of the graph.

    Returns:
        Which nodes are kept for each budget, bool [N].

    Raises:
        PruningError: A budget is out of reach.
    """
    removal = _Removal(
        groups,
        measured,
        criterion,
        settings,
        cost or groups.graph.macs,
    )
    chosen = []
    for budget in budgets:
        while (kept := removal.within(budget)) is None:
            removal.go_on(budget)
        chosen.append(kept)
    return chosen


class _Removal:
    """A network that loses channels a step at a time.

    Attributes:
        units: Prunable units that are there, bool [U].
        order: Units that the next step removes, least important first.
        priority: Which units of a group rounding keeps, [U]: of what is gone what went later,
            and of what is there what matters more.
    """

    def __init__(
        self,
        groups: PruningGroups,
        measured: Mapping[str, Tensor],
        criterion: Importance,
        settings: PruningSettings,
        cost: Callable[[Tensor], float],
    ) -> None:
        self.groups = groups
        self.criterion = criterion
        self.scores = criterion.of_kept(groups, measured)
        self.settings = settings
        self.cost = cost
        self.floor = _floor(groups, settings)
        self.rounded = rounding(groups, self.floor, settings.round_to)
        self.per_step = max(1, round(settings.step * int(groups.prunable.sum())))
        self.units = groups.prunable.clone()
        self.priority = torch.zeros_like(groups.group)
        self._rank()

    def within(self, budget: float) -> Tensor | None:
        """Return which nodes stay within a budget, bool [N]; None if one step does not reach it."""
        if self._cost(0) <= budget:
            return self._kept(0)
        if not len(self.order) or self._cost(len(self.order)) > budget:
            return None
        low = 1
        high = len(self.order)
        while low < high:
            middle = (low + high) // 2
            if self._cost(middle) <= budget:
                high = middle
            else:
                low = middle + 1
        return self._kept(low)

    def go_on(self, budget: float) -> None:
        """Remove the units of a step, and rank again.

        Raises:
            PruningError: There are none, and the budget is not reached.
        """
        if not len(self.order):
            raise PruningError(
                f"a cost of {budget:.0f} is out of reach: at least {self._cost(0):.0f} stays with "
                f"{self.settings.floors}."
            )
        self.units = _without(self.units, self.order)
        self._rank()

    def _rank(self) -> None:
        order = _ranking(
            self.groups,
            self.criterion,
            self.scores(self.groups.nodes(self.units)),
            self.settings,
            self.units,
        )
        self.priority[order] = len(self.units) + torch.arange(len(order))
        self.order = _removable(self.groups, order, self.floor)[: self.per_step]
        gone = int((self.groups.prunable & ~self.units).sum())
        self.priority[self.order] = gone + torch.arange(len(self.order))

    def _kept(self, count: int) -> Tensor:
        """Return the nodes that stay without the first units of the order, bool [N]."""
        units = _without(self.units, self.order[:count])
        return self.groups.nodes(self.rounded(units, self.priority))

    def _cost(self, count: int) -> float:
        return self.cost(self._kept(count))


def fewest_nodes(
    groups: PruningGroups,
    state: Mapping[str, Tensor],
    criterion: Importance,
    settings: PruningSettings,
) -> Tensor:
    """Return the nodes that are left when all is removed that may be, bool [N].

    Args:
        groups: Pruning groups of the network.
        state: What the criterion measured.
        criterion: Which channels matter.
        settings: Floors.
    """
    state = {name: value.cpu() for name, value in state.items()}
    floor = _floor(groups, settings)
    scores = criterion.scores(groups, state, groups.nodes(groups.prunable))
    order = _ranking(groups, criterion, scores, settings, groups.prunable)
    priority = torch.zeros_like(groups.group)
    priority[order] = torch.arange(len(order))
    units = _without(groups.prunable, _removable(groups, order, floor))
    return groups.nodes(rounding(groups, floor, settings.round_to)(units, priority))


def highest_speed_up(
    groups: PruningGroups,
    state: Mapping[str, Tensor],
    criterion: Importance,
    settings: PruningSettings,
    outside: int = 0,
) -> float:
    """Return how many times fewer multiply-accumulates are left when all is removed that may be.

    Args:
        groups: Pruning groups of the network.
        state: Its parameters by name.
        criterion: Which channels matter.
        settings: Floors.
        outside: Multiply-accumulates that no pruning reaches.
    """
    everything = torch.ones(groups.graph.num_nodes, dtype=torch.bool)
    least = groups.graph.macs(fewest_nodes(groups, state, criterion, settings))
    return (groups.graph.macs(everything) + outside) / max(1, least + outside)


def _floor(groups: PruningGroups, settings: PruningSettings) -> Tensor:
    """Channels that must stay in each group, [groups]."""
    sizes = groups.sizes()
    ratios = torch.full(sizes.shape, settings.max_ratio, dtype=torch.double)
    kept = [(name, 0.0) for name in settings.keep]
    for pattern, ratio in [*settings.max_ratios.items(), *kept]:
        chosen = groups_of_layers(groups, pattern)
        ratios[chosen] = ratios[chosen].clamp(max=ratio)
    by_ratio = sizes - torch.floor(sizes.double() * ratios + 1e-9).long()
    floor = torch.full_like(sizes, settings.min_channels)
    standardized = groups.group[groups.unit[groups.graph.constraints.several]]
    floor[standardized] = floor[standardized].clamp(min=2)
    return torch.maximum(floor, by_ratio)


def _ranking(
    groups: PruningGroups,
    criterion: Importance,
    scores: Tensor,
    settings: PruningSettings,
    units: Tensor,
) -> Tensor:
    """Units that are there, least important first, without those that the criterion cannot tell."""
    candidates = (units & scores.isfinite()).nonzero().flatten()
    scores = scores / criterion.normalizer(groups, scores, units | ~groups.prunable)
    order = candidates[torch.argsort(scores[candidates], stable=True)]
    return _by_turns(groups, order, settings.ranking)


def _by_turns(groups: PruningGroups, order: Tensor, ranking: Ranking) -> Tensor:
    """Let each competition lose the same share of its units at any point of an order."""
    sets = competition(groups, ranking)
    sizes = torch.bincount(sets[groups.prunable], minlength=int(sets.max()) + 1)
    own = sets[order]
    gone = (sizes - torch.bincount(own, minlength=len(sizes)))[own]
    turn = gone + rank_within(own, len(sizes)) + 1
    return order[torch.argsort(turn.double() / sizes[own], stable=True)]


def _removable(groups: PruningGroups, order: Tensor, floor: Tensor) -> Tensor:
    """Units of an order that may go, so that no group falls below its floor."""
    group = groups.group[order]
    sizes = torch.bincount(group, minlength=len(floor))
    return order[rank_within(group, len(floor)) < (sizes - floor)[group]]


def _without(units: Tensor, order: Tensor) -> Tensor:
    """Return units without those of an order, bool [U]."""
    return units.index_fill(0, order, False)
