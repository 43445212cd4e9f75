"""Pruning groups that a forward pass can follow: what it counts on is found by trial."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import WeightGraph, trace
from metaprune_pl.pruning.groups import PruningGroups, find_groups
from metaprune_pl.pruning.heads import AttentionUnits, by_heads
from metaprune_pl.pruning.removal import FORWARD_ERRORS, check_masked, remove


def prunable_groups(
    network: nn.Module, example: Tensor, attention: AttentionUnits = "width"
) -> PruningGroups:
    """Trace a network and find pruning groups that its forward pass can follow.

    Some channels of each group are removed for a trial. Where the result does not run, attention is
    kept as wide as what it reads; where that is not enough, the groups that make it fail are kept
    whole.

    Args:
        network: Left as it is.
        example: One image as a batch, [1, C, H, W], on the network's device.
        attention: What goes together in attention.

    Raises:
        PruningError: Whole heads are asked for, and cannot be pruned in this network.
        TraceError: The network cannot be turned into a graph.
    """
    graph = trace(network, example)
    if attention == "heads" and graph.attentions:
        graph = by_heads(graph, network)
        return _groups_of_heads(network, graph, example)
    ways = [
        find_groups(graph, equal_widths=equal)
        for equal in (False, True)[: 2 if graph.equals.numel() else 1]
    ]
    for groups in ways:
        if _trial(network, example, groups, _every(groups)) is None:
            return groups
    found = []
    for groups in ways:
        stuck = _stuck(network, example, groups, _every(groups))
        found.append(replace(groups, prunable=groups.prunable & ~torch.isin(groups.group, stuck)))
    return max(found, key=lambda groups: int(groups.members[groups.prunable].sum()))


def _every(groups: PruningGroups) -> Tensor:
    """Numbers of the groups in which something may be removed."""
    numbers: Tensor = torch.unique(groups.group[groups.prunable])
    return numbers


def _groups_of_heads(network: nn.Module, graph: WeightGraph, example: Tensor) -> PruningGroups:
    """Find the groups where attention goes by whole heads.

    A network without one head is compared with a masked one.
    """
    reason: Exception | None = None
    for equal_widths in (False, True):
        groups = find_groups(graph, equal_widths=equal_widths)
        reason = _trial(network, example, groups, _every(groups))
        if reason is None:
            units = groups.prunable.clone()
            units[
                groups.unit[torch.cat([attention.parts[0][-1] for attention in graph.attentions])]
            ] = False
            kept = groups.nodes(units)
            if all(bool(kept[attention.parts[0][0]].all()) for attention in graph.attentions):
                try:
                    check_masked(network, remove(network, graph, kept), graph, kept, example)
                except PruningError as error:
                    reason = error
                    continue
            return groups
    raise PruningError(
        f"whole heads cannot be pruned in this network ({reason}). Take attention: width."
    )


def _stuck(network: nn.Module, example: Tensor, groups: PruningGroups, some: Tensor) -> Tensor:
    """Of groups that failed together, [K], those that the forward pass counts on.

    Halving finds few among many.
    """
    if len(some) < 2:
        return some
    halves = torch.tensor_split(some, 2)
    stuck = [
        _stuck(network, example, groups, half)
        for half in halves
        if _trial(network, example, groups, half)
    ]
    return torch.cat(stuck) if stuck else some  # they fail together only


def _trial(
    network: nn.Module, example: Tensor, groups: PruningGroups, some: Tensor
) -> Exception | None:
    """Remove one unit of each of some groups, then another share of each.

    Return the error where it cannot follow.
    """
    members = [
        (groups.prunable & (groups.group == number)).nonzero().flatten() for number in some.tolist()
    ]
    for varied in (False, True):
        units = groups.prunable.clone()
        for number, member in zip(some.tolist(), members, strict=True):
            share = 0.25 + 0.5 * (0.618 * number % 1) if varied else 0.0
            units[member[: min(len(member) - 1, max(1, int(share * len(member))))]] = False
        try:
            with torch.no_grad():
                remove(network, groups.graph, groups.nodes(units)).eval()(example)
        except FORWARD_ERRORS as error:
            return error
    return None
