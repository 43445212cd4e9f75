"""Remove the least important channels until a speed-up is reached.

Our own ranking, step loop and guards.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.pruning.groups import PruningGroups
from metaprune_pl.pruning.heads import AttentionUnits
from metaprune_pl.pruning.importance import Images, Importance, Magnitude
from metaprune_pl.pruning.macs import count_macs
from metaprune_pl.pruning.removal import check_masked, remove
from metaprune_pl.pruning.rounding import Rounding, rank_within, rounding
from metaprune_pl.pruning.trials import prunable_groups


@dataclass(frozen=True, kw_only=True)
class PruningSettings:
    """How far and in which steps to prune.

    Attributes:
        step: Share of all channels removed between two rankings.
        min_channels: No group is pruned below this many channels.
        max_ratio: No group loses more than this share of its channels.
        round_to: Widths are rounded to the nearest multiple of this, never to zero; 1 leaves them.
            The speed-up is reached all the same.
        attention: What goes in attention: `width`, the same channels of all heads, or whole
            `heads`.
        ranking: Whether channels of all groups compete (`global`), or each group loses the same
            share of its own (`uniform`).
    """

    step: float = 0.005
    min_channels: int = 1
    max_ratio: float = 1.0
    round_to: int = 1
    attention: AttentionUnits = "width"
    ranking: Literal["global", "uniform"] = "global"

    def __post_init__(self) -> None:
        if (
            not 0 < self.step <= 1
            or not 0 <= self.max_ratio <= 1
            or min(self.min_channels, self.round_to) < 1
        ):
            raise ConfigError(
                "pruning: 0 < step <= 1, 0 <= max_ratio <= 1, min_channels and round_to >= 1 are "
                "needed."
            )

    @property
    def floors(self) -> str:
        """What keeps channels, for errors."""
        rounding = f", round_to={self.round_to}" if self.round_to > 1 else ""
        return f"min_channels={self.min_channels} and max_ratio={self.max_ratio:g}{rounding}"


@torch.no_grad()
def plan(
    groups: PruningGroups,
    state: Mapping[str, Tensor],
    criterion: Importance,
    settings: PruningSettings,
    macs: Sequence[float],
) -> list[Tensor]:
    """Choose what to keep so that the network costs no more than each of several amounts.

    Channels are ranked (over all groups, or in each), removed a step at a time from the lowest
    score, and ranked again, as if the removed ones had never been there. Amounts do not disturb
    each other: within a step each takes as few as it needs.

    Args:
        groups: Pruning groups of the network.
        state: What the criterion sums (see `measure`), by the name of a parameter, on the CPU.
        criterion: What is important.
        settings: Steps and floors.
        macs: Multiply-accumulates to come down to, largest first.

    Returns:
        Which nodes are kept for each amount, bool [N].

    Raises:
        PruningError: An amount is out of reach.
    """
    graph = groups.graph
    units = groups.prunable.clone()
    floor = _floor(groups, settings)
    rounded = rounding(groups, floor, settings.round_to)
    per_step = max(1, round(settings.step * int(groups.prunable.sum())))
    kept = torch.ones(graph.num_nodes, dtype=torch.bool)
    priority = torch.zeros(
        len(units), dtype=torch.long
    )  # of what goes the later, then of what stays the important
    found: list[Tensor] = []
    while True:
        order = _ranking(groups, state, criterion, settings, units, kept)
        priority[order] = len(units) + torch.arange(len(order))
        while (
            len(found) < len(macs)
            and graph.macs(groups.nodes(rounded(units, priority))) <= macs[len(found)]
        ):
            found.append(groups.nodes(rounded(units, priority)))
        if len(found) == len(macs):
            return found
        order = _removable(groups, order, floor)[:per_step]
        if not len(order):
            least = graph.macs(groups.nodes(rounded(units, priority)))
            raise PruningError(
                f"{macs[len(found)]:.0f} multiply-accumulates are out of reach: at least {least} "
                "stay with "
                f"{settings.floors}."
            )
        priority[order] = int((groups.prunable & ~units).sum()) + torch.arange(len(order))
        after = _without(groups, units, order)
        while (
            len(found) < len(macs)
            and graph.macs(groups.nodes(rounded(after, priority))) <= macs[len(found)]
        ):
            found.append(
                groups.nodes(_fewest(groups, units, order, macs[len(found)], rounded, priority))
            )
        units = after
        kept = groups.nodes(units)


def highest_speed_up(
    groups: PruningGroups,
    state: Mapping[str, Tensor],
    criterion: Importance,
    settings: PruningSettings,
    outside: int = 0,
) -> float:
    """Return how much less a network costs when all is removed that may be.

    Args:
        groups: Pruning groups of the network.
        state: Its parameters by name.
        criterion: What is important.
        settings: Floors.
        outside: Multiply-accumulates that no pruning reaches.
    """
    everything = torch.ones(groups.graph.num_nodes, dtype=torch.bool)
    least = groups.graph.macs(groups.nodes(_least(groups, state, criterion, settings)))
    return (groups.graph.macs(everything) + outside) / max(1, least + outside)


def _least(
    groups: PruningGroups,
    state: Mapping[str, Tensor],
    criterion: Importance,
    settings: PruningSettings,
) -> Tensor:
    """Prunable units that are left when all is removed that may be, bool [U]."""
    state = {name: value.cpu() for name, value in state.items()}
    everything = torch.ones(groups.graph.num_nodes, dtype=torch.bool)
    floor = _floor(groups, settings)
    order = _ranking(groups, state, criterion, settings, groups.prunable, everything)
    priority = torch.zeros_like(groups.group)
    priority[order] = torch.arange(len(order))
    units = _without(groups, groups.prunable, _removable(groups, order, floor))
    return rounding(groups, floor, settings.round_to)(units, priority)


def _outside_macs(network: nn.Module, graph: WeightGraph, example: Tensor) -> int:
    """Multiply-accumulates of what is not in the graph, such as networks that make position tables."""
    everything = torch.ones(graph.num_nodes, dtype=torch.bool)
    outside = count_macs(network, example[:1]) - graph.macs(everything)
    assert outside >= 0, f"{-outside} multiply-accumulates of the graph were not counted"
    return outside


def _floor(groups: PruningGroups, settings: PruningSettings) -> Tensor:
    """Channels that must stay in each group, [groups]."""
    sizes = groups.sizes()
    by_ratio = sizes - torch.floor(sizes.double() * settings.max_ratio + 1e-9).long()
    floor = torch.full_like(sizes, settings.min_channels)
    standardized = groups.group[groups.unit[groups.graph.several]]
    floor[standardized] = floor[standardized].clamp(min=2)
    return torch.maximum(floor, by_ratio)


def _ranking(
    groups: PruningGroups,
    state: Mapping[str, Tensor],
    criterion: Importance,
    settings: PruningSettings,
    units: Tensor,
    kept: Tensor,
) -> Tensor:
    """Units that are there, least important first, without those that the criterion cannot tell."""
    scores = criterion.scores(groups, state, kept)
    candidates = (units & scores.isfinite()).nonzero().flatten()
    scores = scores / criterion.normalizer(groups, scores, units | ~groups.prunable)
    order = candidates[torch.argsort(scores[candidates], stable=True)]
    if settings.ranking == "global":
        return order
    group, sizes = groups.group[order], groups.sizes()
    lost = (
        (sizes - groups.sizes(units))[group] + rank_within(group, len(sizes)) + 1
    )  # when it is the turn of each
    return order[torch.argsort(lost.double() / sizes[group], stable=True)]


def _removable(groups: PruningGroups, order: Tensor, floor: Tensor) -> Tensor:
    """Units of an order that may go, so that no group falls below its floor."""
    group = groups.group[order]
    sizes = torch.bincount(group, minlength=len(floor))
    return order[rank_within(group, len(floor)) < (sizes - floor)[group]]


def _without(groups: PruningGroups, units: Tensor, order: Tensor) -> Tensor:
    after = units.clone()
    after[order] = False
    return after


def _fewest(
    groups: PruningGroups,
    units: Tensor,
    order: Tensor,
    macs: float,
    rounded: Rounding,
    priority: Tensor,
) -> Tensor:
    """Remove as few units from the front of the order as bring the cost down far enough."""
    low, high = 1, len(order)
    while low < high:
        middle = (low + high) // 2
        enough = (
            groups.graph.macs(
                groups.nodes(rounded(_without(groups, units, order[:middle]), priority))
            )
            <= macs
        )
        low, high = (low, middle) if enough else (middle + 1, high)
    return rounded(_without(groups, units, order[:low]), priority)


def prune(
    network: nn.Module,
    example: Tensor,
    *,
    speed_ups: Sequence[float],
    base_macs: int,
    criterion: Importance,
    settings: PruningSettings,
    images: Images | None = None,
    rewound: nn.Module | None = None,
    checked: tuple[PruningGroups, int] | None = None,
) -> Iterator[nn.Module]:
    """Prune a network to several speed-ups.

    Each result is checked against the network with masked channels.

    Args:
        network: Left as it is; any device.
        example: One image as a batch, [1, C, H, W], on the network's device.
        speed_ups: Targets, increasing: multiply-accumulates of the unpruned network over those of
            the result.
        base_macs: Multiply-accumulates of the unpruned network.
        criterion: What is important.
        settings: Steps and floors.
        images: What a criterion measures the loss on, where it does.
        rewound: Network of the same widths, whose weights the results take; None is `network`
            itself.
        checked: What `check_prunable` returned for a network of the same widths; None checks this
            one.

    Yields:
        A copy of the network for each target.

    Raises:
        PruningError: The network is frozen, a target is out of reach, or the network cannot be
            pruned exactly.
        TraceError: The network cannot be turned into a graph.
    """
    groups, outside = checked or check_prunable(network, example, speed_ups, base_macs, settings)
    graph = groups.graph
    state = criterion.measure(network, graph, images)
    for kept in plan(
        groups, state, criterion, settings, [base_macs / value - outside for value in speed_ups]
    ):
        source = network if rewound is None else rewound
        pruned = remove(source, graph, kept)
        check_masked(source, pruned, graph, kept, example)
        yield pruned


def check_prunable(
    network: nn.Module,
    example: Tensor,
    speed_ups: Sequence[float],
    base_macs: int,
    settings: PruningSettings,
) -> tuple[PruningGroups, int]:
    """Refuse a network or targets that cannot be, before any time is spent.

    Returns:
        The network's pruning groups, and the multiply-accumulates that no pruning reaches.

    Raises:
        ConfigError: The targets make no sense.
        PruningError: The network is frozen, or the last target is out of reach.
        TraceError: The network cannot be turned into a graph.
    """
    check_speed_ups(speed_ups)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise PruningError(
            "the network is frozen: no parameter requires a gradient. Call requires_grad_(True) "
            "first."
        )
    groups = prunable_groups(network, example, settings.attention)
    if not bool(groups.prunable.any()):
        raise PruningError(
            "nothing can be pruned in this network: all its channels are the image's, the "
            "classes', or tied."
        )
    graph = groups.graph
    outside = _outside_macs(network, graph, example)
    least = graph.macs(groups.nodes(_least(groups, network.state_dict(), Magnitude(), settings)))
    reach = base_macs / (least + outside)
    if speed_ups[-1] > reach:
        raise PruningError(
            f"speed-up {speed_ups[-1]:g}x is out of reach: at most {reach:.2f}x with "
            f"{settings.floors}. "
            "Lower the target."
        )
    return groups, outside


def check_ahead(
    network: nn.Module, example: Tensor, speed_ups: Sequence[float], base_macs: int
) -> float:
    """Refuse targets that a network which was pruned before has reached already.

    1 asks for nothing.

    Returns:
        The speed-up that it has.

    Raises:
        ConfigError: It has reached one.
    """
    now = base_macs / count_macs(network, example)
    if reached := [value for value in speed_ups if 1 < value <= now]:
        raise ConfigError(
            f"speed-up {reached[-1]:g}x: the network is at {now:.2f}x already. Speed-ups count "
            "from the network before "
            "any pruning: give a higher one."
        )
    return now


def check_speed_ups(speed_ups: Sequence[float]) -> None:
    """Refuse targets that make no sense.

    Raises:
        ConfigError: There is none, one is below 1, or they do not increase.
    """
    if not speed_ups or min(speed_ups) < 1 or list(speed_ups) != sorted(set(speed_ups)):
        given = ", ".join(f"{value:g}" for value in speed_ups)
        raise ConfigError(
            f"speed-ups [{given}]: give one or more numbers of at least 1, in increasing order."
        )
