"""A network that takes less time, measured on this machine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.networks.examples import Example
from metaprune_pl.pruning.cost.latency import EAGER, Latency, Runtime, as_batch
from metaprune_pl.pruning.cost.timing import time_in_turn
from metaprune_pl.pruning.importance import Images, Importance
from metaprune_pl.pruning.plan import PruningSettings, plan
from metaprune_pl.pruning.removal import remove
from metaprune_pl.pruning.targets.base import PrunedNetwork
from metaprune_pl.pruning.targets.speed_up import SpeedUp, without
from metaprune_pl.pruning.unpruned import Unpruned

NEAR = 0.05
"""How far from the target a network may be, as a share of it."""
TRIALS = 4
"""Plans for each multiple of widths at most."""
SECONDS = 0.3
"""How long each trial is measured."""


@dataclass(frozen=True, kw_only=True)
class Faster(SpeedUp):
    """A time of the network before any pruning over that of the result.

    The planner works on a table of measured times of layers; what it plans is measured as a whole,
    and planned again with a lower or higher target until it fits.

    Attributes:
        settings: Its cost is `Latency`.
        multiples: What widths may be multiples of; the network that fits with most
            multiply-accumulates is taken.
        runtime: What the network runs in.
    """

    multiples: tuple[int, ...] = (4, 8, 16)
    runtime: Runtime = field(default=EAGER, compare=False)

    @property
    def label(self) -> str:
        """The share of the time that is to be left."""
        return f"{1 / self.value:.3g} of the time"

    def too_far(self, wanted: float, reach: float, furthest: float) -> str:
        """Say that a time is out of reach: see `ChannelTarget.too_far`."""
        assert isinstance(self.cost, Latency)
        return (
            f"a latency of {1 / wanted:.2g} of the unpruned network's is out of reach: at least "
            f"{1 / reach:.2f} for a batch of {self.cost.batch} with {self.settings.floors}, by "
            "measured times of single layers. Give more, or more images at a time (latency_batch): "
            "of few, much of the time goes to starting each layer."
        )

    def reached(self, unpruned: Unpruned, network: nn.Module) -> float:
        """Measure both in what they run in: see `ChannelTarget.reached`."""
        if self.runtime.ready is None:
            return super().reached(unpruned, network)
        assert isinstance(self.cost, Latency)
        images = as_batch(unpruned.example_for(network), self.cost.batch)
        before = self.ready(unpruned.original, images)
        return _ratio(before, self.ready(network, images), images)

    def ready(self, network: nn.Module, images: Tensor) -> Callable[[Tensor], object]:
        """Return a network as it runs in the end, on the device of images [B, C, H, W]."""
        return self.runtime.run(network.to(images.device), images)

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
        """Plan, measure and plan again: see `Target.reach`."""
        groups = unpruned.groups
        assert groups is not None
        measured = criterion.measure(network, groups.graph, images)
        example = unpruned.example_for(network)
        for target in targets:
            trials = _Trials(target, network, unpruned, example)
            kept = trials.best(partial(_planned, unpruned, measured, criterion, trials.cost))
            yield without(network if weights is None else weights, unpruned, kept, example)


def _planned(
    unpruned: Unpruned,
    measured: Mapping[str, Tensor],
    criterion: Importance,
    cost: Callable[[Tensor], float],
    settings: PruningSettings,
    budget: float,
) -> Tensor:
    assert unpruned.groups is not None
    (kept,) = plan(unpruned.groups, measured, criterion, settings, [budget], cost)
    return kept


class _Trials:
    """Networks of several widths, each measured beside the unpruned one.

    Attributes:
        cost: Predicted time of the nodes that are kept.
        base: That of the network before any pruning.
    """

    def __init__(
        self, target: Faster, network: nn.Module, unpruned: Unpruned, example: Example
    ) -> None:
        latency = target.settings.cost
        if not isinstance(latency, Latency) or not isinstance(example, Tensor):
            raise ConfigError("a time is measured of networks of images, with cost Latency.")
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise ConfigError("a time is measured on one device: set trainer.devices to 1.")
        self.target = target
        self.network = network
        self.unpruned = unpruned
        self.images = as_batch(example, latency.batch)
        self.cost = latency.of_kept(network, unpruned.graph, example)
        everything = torch.ones(unpruned.graph.num_nodes, dtype=torch.bool)
        now = unpruned.speed_up(latency, network)
        self.base = now * self.cost(everything)
        self.original = target.ready(unpruned.original, self.images)

    def best(self, planned: Callable[[PruningSettings, float], Tensor]) -> Tensor:
        """Return the nodes that are kept of the network that fits best, bool [N].

        Args:
            planned: Plans for settings and a predicted time.
        """
        found: list[tuple[float, Tensor]] = []
        refused: PruningError | None = None
        for multiple in self.target.multiples:
            settings = replace(self.target.settings, round_to=multiple)
            try:
                found += self._tried(partial(planned, settings))
            except PruningError as error:  # widths that are too coarse
                refused = error
        if refused is not None and not found:
            raise refused
        fitting = [kept for ratio, kept in found if ratio >= self.target.value * (1 - NEAR / 2)]
        if fitting:
            return max(fitting, key=self.unpruned.graph.macs)
        ratio, kept = max(found, key=lambda pair: pair[0])
        rank_zero_info(f"{self.target.label} is out of reach here: the nearest is {1 / ratio:.2f}.")
        return kept

    def _tried(self, planned: Callable[[float], Tensor]) -> Iterator[tuple[float, Tensor]]:
        """Give networks with their measured ratios, until one is near the target."""
        asked = self.target.value
        for _ in range(TRIALS):
            kept = planned(self.base / asked)
            pruned = remove(self.network, self.unpruned.graph, kept)
            ready = self.target.ready(pruned, self.images)
            ratio = _ratio(self.original, ready, self.images)
            yield ratio, kept
            if 0 <= ratio / self.target.value - 1 <= NEAR:
                break
            asked = max(1.0, asked * self.target.value / ratio)


def _ratio(
    original: Callable[[Tensor], object], pruned: Callable[[Tensor], object], images: Tensor
) -> float:
    """Return how many times faster than the unpruned network one of fewer nodes is."""
    runs = [partial(run, images) for run in (original, pruned)]
    with torch.inference_mode():
        before, after = time_in_turn(runs, seconds=SECONDS, device=images.device)
    return before.median / after.median
