"""What every target has in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Self

from torch import Tensor, nn

from metaprune_pl.pruning.importance import Images, Importance
from metaprune_pl.pruning.plan import PruningSettings
from metaprune_pl.pruning.removal import Comparison
from metaprune_pl.pruning.unpruned import Unpruned


@dataclass(frozen=True, kw_only=True, eq=False)
class Masks:
    """Which weights of a network stay.

    Attributes:
        kept: Parameter to which of its entries stay, bool in its shape.
        dense: Weights that a pattern leaves whole, as M does not divide their input channels.
    """

    kept: dict[str, Tensor]
    dense: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class PrunedNetwork:
    """A network that has come to a target.

    Attributes:
        network: A copy, which has not been trained since.
        kept: Which nodes of the graph stay, bool [N]; None where another pruner removed channels.
        masks: Which of its weights are zero for good; None where channels were removed.
        comparison: What was compared with the masked original; None where there are masks.
        stale: The network as pruning left it, where its statistics or weights were mended since.
        plan: Name of the plan that it was pruned by, where that was one of several.
        attributes: Attributes of modules that were set, since they count channels.
        unfollowed: Operations that the trace did not follow; the channels around them stayed.
    """

    network: nn.Module
    kept: Tensor | None = None
    masks: Masks | None = None
    comparison: Comparison | None = None
    stale: nn.Module | None = None
    plan: str | None = None
    attributes: tuple[str, ...] = ()
    unfollowed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Target(ABC):
    """What a network is pruned to.

    Attributes:
        channels: Whether channels are removed; otherwise weights become zero.
        verb: What is done to the network, for the names of folders.
    """

    channels: ClassVar[bool]
    verb: ClassVar[str]

    @property
    @abstractmethod
    def label(self) -> str:
        """What is asked for, for people."""

    @property
    @abstractmethod
    def folder(self) -> str:
        """Name of the folder that its networks go to."""

    @abstractmethod
    def check(self, network: nn.Module, unpruned: Unpruned) -> None:
        """Refuse a target that cannot be, before any time is spent.

        Args:
            network: The network as it is now.
            unpruned: What is known of it.

        Raises:
            ConfigError: The network is there already.
            PruningError: The target is out of reach.
        """

    def under(self, settings: PruningSettings) -> Self:
        """Return this target as a run asks for it, with its steps and floors where they count."""
        return self

    def in_rounds(self, network: nn.Module, unpruned: Unpruned, rounds: int) -> "Sequence[Target]":
        """Return a target for each of several rounds, the last of which is this one.

        Args:
            network: The network before the first round.
            unpruned: What is known of it.
            rounds: Number of rounds; fewer are returned where more make no sense.
        """
        return [self]

    @classmethod
    @abstractmethod
    def reach(
        cls,
        targets: Sequence[Self],
        network: nn.Module,
        unpruned: Unpruned,
        criterion: Importance,
        images: Images | None = None,
        weights: nn.Module | None = None,
    ) -> Iterator[PrunedNetwork]:
        """Prune a network to several targets of this class.

        Args:
            targets: The targets.
            network: Left as it is.
            unpruned: What is known of it.
            criterion: What matters.
            images: What the criterion measures, where it does.
            weights: Network of the same widths whose weights the results take; None is `network`.

        Raises:
            PruningError: A target is out of reach, or the network cannot be pruned exactly.
        """


def check_targets(targets: Sequence[Target], network: nn.Module, unpruned: Unpruned) -> None:
    """Refuse targets that cannot be, the furthest first: see `Target.check`."""
    for target in reversed(targets):
        target.check(network, unpruned)


def reach(
    targets: Sequence[Target],
    network: nn.Module,
    unpruned: Unpruned,
    criterion: Importance,
    images: Images | None = None,
    weights: nn.Module | None = None,
) -> Iterator[PrunedNetwork]:
    """Prune a network to each of several targets: see `Target.reach`."""
    for kind, same in groupby(targets, key=type):
        target_class: type[Target] = kind
        yield from target_class.reach(list(same), network, unpruned, criterion, images, weights)
