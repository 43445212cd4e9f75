"""Pruning groups that a forward pass can follow: trials show what it counts on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor, nn

from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import WeightGraph, trace
from metaprune_pl.networks.examples import Example, convert
from metaprune_pl.networks.states import diverged
from metaprune_pl.networks.widths import copy_network
from metaprune_pl.pruning.attributes import attributes_set, pairs_of, with_guesses, without_pairs
from metaprune_pl.pruning.groups import Equal, PruningGroups, find_groups
from metaprune_pl.pruning.heads import AttentionUnits, by_heads
from metaprune_pl.pruning.rankings import kinds_of
from metaprune_pl.pruning.removal import (
    FORWARD_ERRORS,
    check_repeatable,
    compare,
    drawn,
    masked_outputs,
    outputs_of,
    removed,
)

MASKED_AT_ONCE = 4
"""Outputs of masked networks in memory at the same time."""


def prunable_groups(
    network: nn.Module, example: Example, attention: AttentionUnits = "width"
) -> PruningGroups:
    """Trace a network and find pruning groups that its forward pass can follow.

    Some channels of each group are removed for a trial, and the result is compared with the masked
    network. Where it does not run, or differs, other readings of the network are tried: attributes
    that equal a width by chance stay, attention is kept as wide as what it reads, further
    attributes count channels. Where that is not enough, the groups that make it fail are kept
    whole.

    Args:
        network: Left as it is.
        example: One input as a batch, on the network's device.
        attention: What goes together in attention.

    Raises:
        PruningError: The network is not finite, or whole heads are asked for and cannot be pruned.
        TraceError: The network cannot be turned into a graph.
    """
    _check_finite(network)
    graph = trace(network, example)
    heads = attention == "heads" and bool(graph.constraints.attentions)
    if heads:
        graph = by_heads(graph, network)
    readings = [
        find_groups(reading, equal=equal) for reading in _scales(graph) for equal in _equal(graph)
    ]
    trial = _trial(network, example, readings[0])
    reason: Exception | None = None
    for groups in chain(readings, map(trial.guess, readings)):
        settled, reason = trial.settle(groups)
        if settled is not None and (not heads or trial.loses_a_head(settled)):
            return settled
    check_repeatable(network, example)
    if heads:
        raise PruningError(
            f"whole heads cannot be pruned in this network ({reason}). Take attention: width."
        )
    candidates = [trial.without_stuck(groups) for groups in readings]
    chosen = max(range(len(candidates)), key=lambda index: _free(candidates[index]))
    guessed = trial.without_stuck(trial.guess(readings[chosen]))
    best = max(candidates[chosen], guessed, key=_free)
    return trial.settle(best)[0] or best


def _check_finite(network: nn.Module) -> None:
    if name := diverged(network):
        raise PruningError(
            f"the network holds NaN or infinity ('{name}'), so that nothing can be compared with "
            "it. Take earlier weights."
        )


def _scales(graph: WeightGraph) -> Iterator[WeightGraph]:
    """The graph with the scales of attention that surely follow its width, then with all."""
    certain = tuple(scale for scale in graph.constraints.scales if scale.certain)
    yield replace(graph, constraints=replace(graph.constraints, scales=certain))
    if len(certain) < len(graph.constraints.scales):
        yield graph


def _equal(graph: WeightGraph) -> list[Equal]:
    """Which layers may have to stay as wide as what they read."""
    kinds: list[Equal] = ["none"]
    if graph.constraints.equals.numel():
        kinds.append("attention")
    if graph.constraints.named.numel():
        kinds.append("named")
    return kinds


def _free(groups: PruningGroups) -> int:
    """How many members may go."""
    return int(groups.members[groups.prunable].sum())


def _every(groups: PruningGroups) -> Tensor:
    """Numbers of the groups in which something may be removed."""
    numbers: Tensor = torch.unique(groups.group[groups.prunable])
    return numbers


def _trial(network: nn.Module, example: Example, groups: PruningGroups) -> "_Trial":
    """Prepare a network for trials, in double precision where it runs: any difference counts."""
    images = drawn(example)
    precise = _Trial(
        network=copy_network(network).double(),
        images=convert(images, lambda x: x.double() if x.is_floating_point() else x),
    )
    try:
        if precise.fails(groups, _every(groups)) is None or precise.runs(groups.graph):
            return precise
    except FORWARD_ERRORS:
        pass
    return _Trial(network=copy_network(network), images=images)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """Removes a little of a network to see what comes of it.

    Attributes:
        network: A copy, from which neurons are removed and put back.
        images: One input as a batch.
        masked: Outputs of masked networks, by which nodes are kept.
        errors: What came of trials, by which nodes are kept and what is set for it.
    """

    network: nn.Module
    images: Example
    masked: dict[bytes, list[Tensor] | str] = field(default_factory=dict)
    errors: dict[tuple[bytes, str], Exception | None] = field(default_factory=dict)

    def runs(self, graph: WeightGraph) -> bool:
        """Whether the whole network equals its exported program."""
        everything = torch.ones(graph.num_nodes, dtype=torch.bool)
        try:
            whole = masked_outputs(self.network, graph, everything, self.images)
            compare(outputs_of(self.network, self.images), whole)
        except PruningError:
            return False
        return True

    def settle(self, groups: PruningGroups) -> tuple[PruningGroups | None, Exception | None]:
        """Find the attributes to change so that all groups can be pruned together.

        Returns:
            The groups with these attributes; None, and the error, where there is no way.
        """
        some = _every(groups)
        reason = self.fails(groups, some)
        pairs = pairs_of(self.network, groups.graph)
        if reason is not None:
            alone = [self.fails(_without(groups, {pair}, self.network), some) for pair in pairs]
            harmful = {p for p, error in zip(pairs, alone, strict=True) if error is None}
            if not harmful:
                return None, reason
            groups = _without(groups, {min(harmful)}, self.network)
            pairs = pairs_of(self.network, groups.graph)
        for pair in pairs:
            fewer = _without(groups, {pair}, self.network)
            if self.fails(fewer, some) is None:
                groups = fewer
        return groups, None

    def loses_a_head(self, groups: PruningGroups) -> bool:
        """Whether a network without one head of each attention equals the masked one."""
        last = [attention.parts[0][-1] for attention in groups.graph.constraints.attentions]
        units = groups.prunable.clone()
        units[groups.unit[torch.cat(last)]] = False
        kept = groups.nodes(units)
        first = [kept[attention.parts[0][0]] for attention in groups.graph.constraints.attentions]
        return not all(bool(part.all()) for part in first) or self._error(groups, kept) is None

    def guess(self, groups: PruningGroups) -> PruningGroups:
        """Return the groups where more attributes count neurons."""
        return replace(groups, graph=with_guesses(self.network, groups.graph))

    def without_stuck(self, groups: PruningGroups) -> PruningGroups:
        """Return the groups where those that are stuck are not prunable."""
        every, kinds = _every(groups), _named_kinds(groups)
        stuck = self.stuck(groups, every[torch.argsort(kinds[every], stable=True)], kinds)
        free = groups.prunable & ~torch.isin(groups.group, stuck)
        return replace(groups, prunable=free)

    def stuck(self, groups: PruningGroups, some: Tensor, kinds: Tensor) -> Tensor:
        """Of groups that failed together, [K], kind by kind, those that the forward pass counts on.

        Halving finds few among many; groups of the same kind share the fate of the first.
        """
        if len(some) < 2:
            return some
        if bool((kinds[some] == kinds[some[0]]).all()) and self.fails(groups, some[:1]):
            return some
        halves = torch.tensor_split(some, 2)
        stuck = [self.stuck(groups, half, kinds) for half in halves if self.fails(groups, half)]
        return torch.cat(stuck) if stuck else some  # they fail together only

    def fails(self, groups: PruningGroups, some: Tensor) -> Exception | None:
        """Remove one unit of each of some groups, then another share of each.

        Return the error where the network cannot follow, or differs from the masked one.
        """
        members = [
            (groups.prunable & (groups.group == index)).nonzero().flatten()
            for index in some.tolist()
        ]
        for varied in (False, True):
            units = groups.prunable.clone()
            for index, member in zip(some.tolist(), members, strict=True):
                share = 0.25 + 0.5 * (0.618 * index % 1) if varied else 0.0
                units[member[: min(len(member) - 1, max(1, int(share * len(member))))]] = False
            if (error := self._error(groups, groups.nodes(units))) is not None:
                return error
        return None

    def _error(self, groups: PruningGroups, kept: Tensor) -> Exception | None:
        graph = groups.graph
        key = kept.numpy().tobytes()
        same = key, " ".join([*attributes_set(graph, kept), "", *_scales_set(graph, kept)])
        if same in self.errors:
            return self.errors[same]
        self.errors[same] = None
        try:
            with removed(self.network, graph, kept):
                after = outputs_of(self.network, self.images)
            if key not in self.masked:
                if len(self.masked) == MASKED_AT_ONCE:
                    self.masked.clear()
                self.masked[key] = masked_outputs(self.network, graph, kept, self.images)
            compare(after, self.masked[key])
        except PruningError as error:
            self.errors[same] = error
        return self.errors[same]


def _scales_set(graph: WeightGraph, kept: Tensor) -> list[str]:
    """Modules of the attentions whose scale changes."""
    scales = graph.constraints.scales
    return [scale.module for scale in scales if not bool(kept[scale.nodes].all())]


def _named_kinds(groups: PruningGroups) -> Tensor:
    """Index of the kind of each pruning group, where names that differ in numbers are alike."""
    numbers: dict[tuple[int, str], int] = {}
    kinds = zip(kinds_of(groups).tolist(), groups.names, strict=True)
    named = [(kind, re.sub(r"\d+", "*", name)) for kind, name in kinds]
    return torch.tensor([numbers.setdefault(kind, len(numbers)) for kind in named])


def _without(
    groups: PruningGroups, pairs: set[tuple[str, str]], network: nn.Module
) -> PruningGroups:
    return replace(groups, graph=without_pairs(network, groups.graph, pairs))
