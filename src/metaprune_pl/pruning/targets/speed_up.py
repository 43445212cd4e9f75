"""A network that costs less, by fewer channels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import ClassVar, Self

from torch import Tensor, nn

from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.networks.examples import Example
from metaprune_pl.pruning.depgraph import prune_by_depgraph
from metaprune_pl.pruning.importance import Images, Importance, Magnitude
from metaprune_pl.pruning.plan import PruningSettings, fewest_nodes, plan
from metaprune_pl.pruning.removal import check_masked, remove
from metaprune_pl.pruning.targets.base import PrunedNetwork, Target
from metaprune_pl.pruning.unpruned import Unpruned, examine


@dataclass(frozen=True, kw_only=True)
class SpeedUp(Target):
    """A cost of the network before any pruning over that of the result.

    Attributes:
        value: Speed-up, at least 1, which asks for nothing.
        settings: The cost, and steps and floors of the way there.
    """

    channels: ClassVar[bool] = True
    verb: ClassVar[str] = "pruned"
    value: float
    settings: PruningSettings = field(default_factory=PruningSettings)

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

    def check(self, network: nn.Module, unpruned: Unpruned) -> None:
        """Refuse a speed-up that is out of reach, or that the network has: see `Target.check`."""
        groups = unpruned.groups
        cost = self.settings.cost
        assert groups is not None
        example = unpruned.example_for(network)
        base = unpruned.base(cost)
        left = fewest_nodes(
            groups,
            network.state_dict(),
            Magnitude(),
            self.settings,
        )
        reach = base / cost.of_kept(network, groups.graph, example)(left)
        if self.value > reach:
            raise PruningError(
                f"speed-up {self.label} is out of reach: at most {reach:.2f}x with "
                f"{self.settings.floors}. Lower the target."
            )
        now = base / cost.of_network(network, example)
        if 1 < self.value <= now:
            raise ConfigError(
                f"speed-up {self.label}: the network is at {now:.2f}x already. Speed-ups count "
                "from the network before any pruning: give a higher one."
            )

    def in_rounds(self, network: nn.Module, unpruned: Unpruned, rounds: int) -> Sequence[Self]:
        """Return speed-ups that grow by the same factor: see `Target.in_rounds`."""
        now = unpruned.speed_up(self.settings.cost, network)
        shares = (index / rounds for index in range(1, rounds))
        between = [replace(self, value=now * (self.value / now) ** share) for share in shares]
        return [*between, self]

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
        for settings, same in groupby(targets, key=lambda target: target.settings):
            base = unpruned.base(settings.cost)
            budgets = [base / target.value for target in same]
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
    return PrunedNetwork(network=pruned, kept=kept, comparison=comparison)


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
    increasing = all(low < high for low, high in pairwise(speed_ups))
    if not speed_ups or not increasing or not 1 <= speed_ups[0] <= speed_ups[-1] < float("inf"):
        given = ", ".join(f"{value:g}" for value in speed_ups)
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
