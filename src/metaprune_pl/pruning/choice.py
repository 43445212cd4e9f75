"""Choice by measuring: several plans for the same budget are carried out, and the best is taken.

EagleEye (Li et al., ECCV 2020) judges random shares after a re-estimate of batch-norm statistics;
here a repair may stand in its place, and plans come from several importances too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.pruning.groups import PruningGroups
from metaprune_pl.pruning.importance import Importance
from metaprune_pl.pruning.importance.base import Normalized
from metaprune_pl.pruning.plan import PruningSettings, plan
from metaprune_pl.pruning.rankings import Ranking
from metaprune_pl.pruning.removal import remove
from metaprune_pl.pruning.rounding import rank_within

SHARE = 0.1
"""Largest cost of a choice, as a share of the finetuning that follows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A plan.

    Attributes:
        name: Where it comes from, for people.
        kept: Which nodes stay, bool [N].
    """

    name: str
    kept: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The best of several plans.

    Attributes:
        candidate: The plan.
        network: The network that came of it.
        scores: Score of each plan, by name, in the order in which they were tried.
    """

    candidate: Candidate
    network: nn.Module
    scores: dict[str, float]


def choose(
    network: nn.Module,
    graph: WeightGraph,
    candidates: Iterable[Candidate],
    finish: Callable[[nn.Module, Tensor], object],
    evaluate: Callable[[nn.Module], float],
) -> Choice:
    """Carry out plans and return the one of the highest score; of equals the first.

    Args:
        network: Left as it is.
        graph: Its topology.
        candidates: The plans.
        finish: Called with each pruned network and the nodes that stay before it is evaluated, to
            repair it or to re-estimate its statistics.
        evaluate: Score of a network, such as its accuracy on validation images.

    Raises:
        ConfigError: There is no plan.
    """
    best: tuple[Candidate, nn.Module] | None = None
    scores: dict[str, float] = {}
    for candidate in candidates:
        pruned = remove(network, graph, candidate.kept)
        finish(pruned, candidate.kept)
        score = evaluate(pruned)
        if best is None or score > max(scores.values()):
            best = candidate, pruned
        scores[candidate.name] = score
    if best is None:
        raise ConfigError("choice by measuring: there is no plan within the budget.")
    return Choice(candidate=best[0], network=best[1], scores=scores)


@dataclass(frozen=True, kw_only=True)
class ChoiceSettings:
    """Which plans are tried, beside the criterion's own, and by what they are judged.

    Attributes:
        criteria: Importances beside the criterion.
        rankings: Each importance is ranked in each of these ways.
        normalizations: What scores are divided by within their group, for importances that are.
        ceilings: The largest share of its channels that a group may lose, where `pruning` leaves
            none more.
        random: Number of plans with random shares of each group besides.
        seed: Seed of the shares.
        images: Number of validation images that plans are judged by, at most.
        plans: Most plans for a target; None are as many as a tenth of the finetuning costs.
    """

    criteria: list[Importance] = field(default_factory=list)
    rankings: Sequence[Ranking] = ("global", "uniform", "isomorphic")
    normalizations: Sequence[Literal["none", "mean", "max"]] = ("mean",)
    ceilings: Sequence[float] = (0.9, 0.75)
    random: int = 2
    seed: int = 0
    images: int = 1000
    plans: int | None = None

    def __post_init__(self) -> None:
        if self.plans is not None and self.plans < 1:
            raise ConfigError(f"choice.plans is {self.plans}; it is at least 1.")
        if self.random < 0 or not all(0 < ceiling <= 1 for ceiling in self.ceilings):
            raise ConfigError("choice: random is at least 0, and ceilings lie above 0 up to 1.")
        if self.images < 1:
            raise ConfigError(f"choice.images is {self.images}; it is at least 1.")

    def limit(self, finetuning: int, repaired: int) -> int | None:
        """Return the most plans for a target; None is all, as where no finetuning follows.

        A training image costs as much as three that only go forward; a plan's repair takes images
        through both networks.

        Args:
            finetuning: Training images that follow for each target.
            repaired: Images of the repair, or of the statistics, of each plan.
        """
        if self.plans is not None or not finetuning:
            return self.plans
        each = (2 * repaired + self.images) / 3
        return max(1, int(SHARE * finetuning / each))


def candidate_plans(
    groups: PruningGroups,
    measured: Sequence[tuple[Importance, Mapping[str, Tensor]]],
    budget: float,
    cost: Callable[[Tensor], float],
    pruning: PruningSettings,
    settings: ChoiceSettings,
) -> Iterator[Candidate]:
    """Give plans that keep within a budget, no two of them alike.

    Args:
        groups: Pruning groups.
        measured: Importances, each with what it measured. The first gives the first plan, by
            `pruning` as it is, and orders the units of each group in plans with random shares.
        budget: Cost to come down to.
        cost: Cost of the network for the nodes that are kept.
        pruning: Further floors, rounding and step.
        settings: Which plans.
    """
    seen: set[bytes] = set()
    for name, importance, values, own in _combinations(measured, pruning, settings):
        try:
            (kept,) = plan(
                groups,
                values,
                importance,
                own,
                [budget],
                cost,
            )
        except PruningError:  # out of reach with this ceiling
            continue
        if (key := kept.numpy().tobytes()) not in seen:
            seen.add(key)
            yield Candidate(name=name, kept=kept)


def _combinations(
    measured: Sequence[tuple[Importance, Mapping[str, Tensor]]],
    pruning: PruningSettings,
    settings: ChoiceSettings,
) -> Iterator[tuple[str, Importance, Mapping[str, Tensor], PruningSettings]]:
    first, values = measured[0]
    yield f"{_name(first)}, as set", first, values, pruning
    variants = [
        (variant, values)
        for importance, values in measured
        for variant in _normalized(importance, settings.normalizations)
    ]
    for ceiling, ranking in product(settings.ceilings, settings.rankings):
        own = replace(pruning, ranking=ranking, max_ratio=min(ceiling, pruning.max_ratio))
        for variant, values in variants:
            name = f"{_name(variant)}, {ranking}, at most {ceiling:g} of a group"
            yield name, variant, values, own
    for index in range(settings.random):
        importance, values = measured[0]
        shares = RandomShares(within=importance, seed=settings.seed + index)
        yield (
            f"{_name(importance)}, random shares {index}",
            shares,
            values,
            replace(pruning, step=1.0),
        )


def _normalized(
    importance: Importance, normalizations: Sequence[Literal["none", "mean", "max"]]
) -> list[Importance]:
    if not isinstance(importance, Normalized):
        return [importance]
    return [replace(importance, normalize=way) for way in normalizations]


def _name(importance: Importance) -> str:
    way = f" over {importance.normalize}" if isinstance(importance, Normalized) else ""
    return type(importance).__name__.lower() + way


@dataclass(frozen=True, kw_only=True)
class RandomShares(Importance):
    """Another importance within each group, and a random share of the units for each group to lose.

    Attributes:
        within: The other one.
        seed: Seed of the shares.
    """

    within: Importance
    seed: int = 0

    def scores(
        self, groups: PruningGroups, measured: Mapping[str, Tensor], kept: Tensor | None = None
    ) -> Tensor:
        """Return the rank of a unit in its group over a value drawn for the group, [U]."""
        inner = self.within.scores(groups, measured, kept).detach()
        generator = torch.Generator().manual_seed(self.seed)
        pace = 0.25 + 0.75 * torch.rand(len(groups.names), generator=generator, dtype=torch.float64)
        order = torch.argsort(inner, stable=True)
        position = rank_within(groups.group[order], len(groups.names)) + 1
        sizes = torch.bincount(groups.group, minlength=len(groups.names))
        turns = position / (sizes * pace)[groups.group[order]]
        scores = torch.empty_like(turns).index_copy(0, order, turns)
        return scores.masked_fill(~inner.isfinite(), torch.inf)
