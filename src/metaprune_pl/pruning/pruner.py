"""How a network comes to its targets: importance, plan, removal, repair."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.pruning.balancing import balanced_copy
from metaprune_pl.pruning.choice import Candidate, ChoiceSettings, candidate_plans, choose
from metaprune_pl.pruning.importance import Images, Importance
from metaprune_pl.pruning.recovery import Recovery
from metaprune_pl.pruning.targets import ChannelTarget, PrunedNetwork, Target, reach
from metaprune_pl.pruning.targets.speed_up import without
from metaprune_pl.pruning.unpruned import Unpruned


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Choice among several plans by what they come to.

    Attributes:
        settings: Which plans.
        limit: Most plans for a target; None is all of them.
        score: Score of a pruned network, such as its accuracy on validation images.
        broadcast: Gives all processes of a run the main one's value.
    """

    settings: ChoiceSettings
    limit: int | None
    score: Callable[[nn.Module], float]
    broadcast: Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruner:
    """How a network comes to its targets.

    Attributes:
        criterion: What matters.
        images: Returns the images that an importance measures; None where it has none.
        recovery: What is done to the network after that.
        choice: Choice among several plans; None takes the criterion's.
        balance: Whether the scales of channels are balanced first, which the results keep.
    """

    criterion: Importance
    images: Callable[[Importance], Images | None]
    recovery: Recovery
    choice: Measured | None = None
    balance: bool = False

    def reach(
        self,
        targets: Sequence[Target],
        network: nn.Module,
        unpruned: Unpruned,
        weights: nn.Module | None = None,
    ) -> Iterator[PrunedNetwork]:
        """Prune a network to each of several targets.

        Args:
            targets: The targets.
            network: Left as it is.
            unpruned: What is known of it.
            weights: Network of the same widths whose weights the results take; None is `network`.

        Raises:
            ConfigError: Plans are to be chosen for masks.
            PruningError: A target is out of reach, or the network cannot be pruned exactly.
        """
        if self.balance:
            network = balanced_copy(unpruned.graph, network)
        source = network if weights is None else weights
        if self.choice is None:
            images = self.images(self.criterion)
            reached = reach(targets, network, unpruned, self.criterion, images, weights)
        else:
            reached = self._chosen(self.choice, targets, network, unpruned, source)
        for pruned in reached:
            yield self.recovery.pruned(source, unpruned.graph, pruned)

    def _chosen(
        self,
        choice: Measured,
        targets: Sequence[Target],
        network: nn.Module,
        unpruned: Unpruned,
        source: nn.Module,
    ) -> Iterator[PrunedNetwork]:
        """Prune to each target by the plan that comes to the highest score after the recovery."""
        importances = (self.criterion, *choice.settings.criteria)
        measured = [
            (importance, importance.measure(network, unpruned.graph, self.images(importance)))
            for importance in importances
        ]

        def finish(pruned: nn.Module, kept: Tensor) -> None:
            self.recovery.mend(source, unpruned.graph, pruned, kept)

        for target in targets:
            plans = choice.broadcast(_plans(choice, measured, target, network, unpruned))
            best = choose(source, unpruned.graph, plans, finish, choice.score)
            name, score = best.candidate.name, best.scores[best.candidate.name]
            rank_zero_info(
                f"{target.label}: of {len(plans)} plans the best is {name} ({100 * score:.1f} % of "
                "the validation images)."
            )
            example = unpruned.example_for(network)
            yield replace(without(source, unpruned, best.candidate.kept, example), plan=name)


def _plans(
    choice: Measured,
    measured: Sequence[tuple[Importance, Mapping[str, Tensor]]],
    target: Target,
    network: nn.Module,
    unpruned: Unpruned,
) -> list[Candidate]:
    """Return the plans that come to a target.

    Raises:
        ConfigError: It is one of masks.
    """
    if not isinstance(target, ChannelTarget):
        raise ConfigError("choice: plans are of channels; leave out choice, or masks.")
    groups, pruning = unpruned.groups, target.settings
    assert groups is not None
    budget = target.budget(unpruned)
    cost = target.cost.of_kept(network, groups.graph, unpruned.example_for(network))
    plans = candidate_plans(groups, measured, budget, cost, pruning, choice.settings)
    return list(islice(plans, choice.limit))
