"""A network that costs less, by fewer channels."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import ClassVar, Self

from torch import Tensor, nn

from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.networks.examples import Example
from metaprune_pl.pruning.attributes import attributes_set
from metaprune_pl.pruning.cost import Cost, Latency
from metaprune_pl.pruning.depgraph import prune_by_depgraph
from metaprune_pl.pruning.importance import Images, Importance, Magnitude
from metaprune_pl.pruning.plan import PruningSettings, fewest_nodes, plan
from metaprune_pl.pruning.removal import check_masked, remove
from metaprune_pl.pruning.targets.base import PrunedNetwork, Target
from metaprune_pl.pruning.unpruned import Unpruned, examine


@dataclass(frozen=True, kw_only=True)
class ChannelTarget(Target):
    """A target whose networks lose channels until they cost no more than is asked for.

    Attributes:
        settings: Steps and floors of the way there; in a config those of `pruning`.
    """

    channels: ClassVar[bool] = True
    verb: ClassVar[str] = "pruned"
    settings: PruningSettings = field(default_factory=PruningSettings)

    @property
    def cost(self) -> Cost:
        """What the networks cost no more of."""
        return self.settings.cost

    @property
    def batch(self) -> int | None:
        """Images of the pass whose time counts; None where no time does."""
        return self.cost.batch if isinstance(self.cost, Latency) else None

    @abstractmethod
    def speed_up(self, unpruned: Unpruned) -> float:
        """Return what is asked for as cost of the network before any pruning over that after it."""

    def budget(self, unpruned: Unpruned) -> float:
        """Return the highest cost that a network may have."""
        return unpruned.base(self.cost) / self.speed_up(unpruned)

    def reached(self, unpruned: Unpruned, network: nn.Module) -> float:
        """Return the cost of the network before any pruning over that of a pruned one."""
        return unpruned.speed_up(self.cost, network)

    def under(self, settings: PruningSettings) -> Self:
        """Return this target with other steps and floors: see `Target.under`."""
        return replace(self, settings=settings)

    def check(self, network: nn.Module, unpruned: Unpruned) -> None:
        """Refuse a speed-up that is out of reach, or that the network has: see `Target.check`."""
        groups, cost, wanted = unpruned.groups, self.cost, self.speed_up(unpruned)
        assert groups is not None
        example = unpruned.example_for(network)
        base, state = unpruned.base(cost), network.state_dict()
        of_kept = cost.of_kept(network, groups.graph, example)

        def most(settings: PruningSettings) -> float:
            return base / of_kept(fewest_nodes(groups, state, Magnitude(), settings))

        if wanted > (reach := most(self.settings)):
            furthest = most(replace(self.settings, max_ratio=1.0))
            raise PruningError(self.too_far(wanted, reach, furthest))
        now = unpruned.speed_up(cost, network)
        if 1 < wanted <= now:
            raise ConfigError(
                f"speed-up {wanted:g}x: the network is at {now:.2f}x already. Speed-ups count "
                "from the network before any pruning: give a higher one."
            )

    def too_far(self, wanted: float, reach: float, furthest: float) -> str:
        """Say that a speed-up is out of reach, and what is within.

        Args:
            wanted: The speed-up.
            reach: What is within reach.
            furthest: What would be, if max_ratio were 1.
        """
        ways = ["lower the target"] if reach >= 1.005 else []
        ways += ["raise max_ratio"] if furthest > reach else []
        out = ", or ".join(ways) or "its layers are as narrow as these allow"
        return (
            f"speed-up {wanted:g}x is out of reach: at most {reach:.2f}x with "
            f"{self.settings.floors}. {out.capitalize()}."
        )

    def in_rounds(self, network: nn.Module, unpruned: Unpruned, rounds: int) -> Sequence[Target]:
        """Return speed-ups that grow by the same factor: see `Target.in_rounds`."""
        now, wanted = unpruned.speed_up(self.cost, network), self.speed_up(unpruned)
        settings = replace(self.settings, cost=self.cost)
        shares = (index / rounds for index in range(1, rounds))
        between = (now * (wanted / now) ** share for share in shares)
        return [*(SpeedUp(value=value, settings=settings) for value in between), self]

    @classmethod
    def reach(
        cls,
        targets: Sequence[Self],
        network: nn.Module,
        unpruned: Unpruned,
        criterion: Importance,
        images: Images | None = None,
        weights: nn.Module | None = None,
    ) -> Iterator[PrunedNetwork]:
        """Remove channels, and check each result: see `Target.reach`."""
        groups = unpruned.groups
        source = network if weights is None else weights
        assert groups is not None
        example = unpruned.example_for(network)
        measured = criterion.measure(network, groups.graph, images)
        for settings, same in groupby(targets, lambda each: replace(each.settings, cost=each.cost)):
            budgets = [target.budget(unpruned) for target in same]
            if settings.pruner == "depgraph":
                if weights is not None:
                    raise ConfigError("pruning.pruner: depgraph prunes at once; set rounds to 1.")
                results = prune_by_depgraph(
                    network,
                    unpruned,
                    settings,
                    budgets,
                )
                yield from (PrunedNetwork(network=result) for result in results)
                continue
            cost = settings.cost.of_kept(network, groups.graph, example)
            for kept in plan(groups, measured, criterion, settings, budgets, cost):
                yield without(source, unpruned, kept, example)


@dataclass(frozen=True, kw_only=True)
class SpeedUp(ChannelTarget):
    """A cost of the network before any pruning over that of the result.

    Attributes:
        value: Speed-up, at least 1, which asks for nothing.
    """

    value: float

    def __post_init__(self) -> None:
        check_speed_ups([self.value])

    @property
    def label(self) -> str:
        """The speed-up, such as 2x."""
        return f"{self.value:g}x"

    @property
    def folder(self) -> str:
        """Name of the folder that its networks go to."""
        return f"speed_up_{self.value:g}"

    def speed_up(self, unpruned: Unpruned) -> float:
        """Return the speed-up itself."""
        return self.value


def without(
    source: nn.Module,
    unpruned: Unpruned,
    kept: Tensor,
    example: Example,
) -> PrunedNetwork:
    """Remove what is not kept, and check the result.

    Args:
        source: Left as it is.
        unpruned: What is known of it.
        kept: Which nodes stay, bool [N].
        example: Its input, on its device.

    Raises:
        PruningError: It cannot be pruned exactly.
    """
    pruned = remove(source, unpruned.graph, kept)
    comparison = check_masked(
        source,
        pruned,
        unpruned.graph,
        kept,
        example,
    )
    return PrunedNetwork(
        network=pruned,
        kept=kept,
        comparison=comparison,
        attributes=attributes_set(unpruned.graph, kept),
        unfollowed=unpruned.graph.unfollowed,
    )


def speed_up_targets(
    values: Sequence[float], settings: PruningSettings | None = None
) -> list[SpeedUp]:
    """Return a target for each of several speed-ups.

    Raises:
        ConfigError: They make no sense: see `check_speed_ups`.
    """
    check_speed_ups(values)
    own = PruningSettings() if settings is None else settings
    return [SpeedUp(value=value, settings=own) for value in values]


def check_speed_ups(speed_ups: Sequence[float]) -> None:
    """Refuse speed-ups that make no sense.

    Raises:
        ConfigError: There is none, one is below 1 or not finite, or they do not increase.
    """
    given = ", ".join(f"{v:g}" if isinstance(v, float) else repr(v) for v in speed_ups)
    numbers = all(isinstance(value, int | float) for value in speed_ups)
    increasing = numbers and all(low < high for low, high in pairwise(speed_ups))
    if not speed_ups or not increasing or not 1 <= speed_ups[0] <= speed_ups[-1] < float("inf"):
        raise ConfigError(
            f"speed-ups [{given}]: give one or more numbers of at least 1, in increasing order."
        )


def prune(
    network: nn.Module,
    example: Example,
    *,
    speed_ups: Sequence[float],
    criterion: Importance | None = None,
    settings: PruningSettings | None = None,
    images: Images | None = None,
    original: nn.Module | None = None,
    weights: nn.Module | None = None,
) -> Iterator[nn.Module]:
    """Prune a network to several speed-ups, without any training.

    Each result is checked against the network with masked channels.

    Args:
        network: Left as it is; any device.
        example: One input as a batch, such as an image [1, C, H, W], on the network's device.
        speed_ups: Speed-ups, increasing.
        criterion: Which channels matter; None is the paper's group norm, `Magnitude`.
        settings: The cost, steps and floors.
        images: What a criterion measures, where it does.
        original: The network before any pruning, which speed-ups count from; None is `network`.
        weights: Network of the same widths whose weights the results take; None is `network`.

    Yields:
        A copy of the network for each speed-up.

    Raises:
        ConfigError: The speed-ups make no sense, or are reached already.
        PruningError: The network is frozen, a speed-up is out of reach, or the network cannot be
            pruned exactly.
        TraceError: The network cannot be turned into a graph.
    """
    own = PruningSettings() if settings is None else settings
    targets = speed_up_targets(speed_ups, own)
    unpruned = examine(network, example, original=original, attention=own.attention)
    targets[-1].check(network, unpruned)
    chosen = Magnitude() if criterion is None else criterion
    for result in SpeedUp.reach(targets, network, unpruned, chosen, images, weights):
        yield result.network
