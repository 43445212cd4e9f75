"""What follows a rewriting or pruning at once, without labels or training."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, Self

import torch.distributed as dist
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.networks.frozen_norms import thawed
from metaprune_pl.pruning.recalibration import recalibrate
from metaprune_pl.pruning.repair import repair
from metaprune_pl.pruning.targets import PrunedNetwork


@dataclass(frozen=True, kw_only=True)
class StatisticsSettings:
    """Statistics of batch norms are those of training images, passed through the network as it is.

    Attributes:
        images: Number of training images, evenly spread over all; their labels are not used.
    """

    images: int = 1024

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ConfigError(f"statistics.images is {self.images}; it is at least 1.")


PIXELS = 2**24
"""Most pixels of the images of a repair, which takes minutes of a large network for as many."""


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """Layers of the pruned network learn, by least squares, what they gave before.

    Attributes:
        images: Most training images, evenly spread over all; large ones are fewer, of 16 million
            pixels together. Their labels are not used. A layer is changed where its error on a
            quarter of them, kept apart, falls.
    """

    images: int = 1024

    def __post_init__(self) -> None:
        if self.images < 4:
            raise ConfigError(f"repair.images is {self.images}; it is at least 4.")

    def of_size(self, height: int, width: int) -> Self:
        """Return the same with as many images as there may be of a size."""
        most = max(4, PIXELS // (height * width))
        return replace(self, images=min(self.images, most))


Statistics = StatisticsSettings | Literal["stale"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Recovery:
    """What is done to networks straight after they were rewritten or pruned.

    Attributes:
        sample: Gives so many training images as batches [B, C, H, W] of what the networks read, on
            their device.
        statistics: Re-estimate of batch-norm statistics.
        repair: Repair after pruning, which leaves statistics as they are; None is none.
    """

    sample: Callable[[int], Iterable[Tensor]]
    statistics: Statistics = "stale"
    repair: RepairSettings | None = None

    def rewritten(self, network: nn.Module) -> None:
        """Re-estimate a network's statistics in place, where the settings say so."""
        if isinstance(self.statistics, StatisticsSettings):
            with thawed(network):
                recalibrate(network, _of_this_process(self.sample(self.statistics.images)))

    def pruned(self, source: nn.Module, graph: WeightGraph, pruned: PrunedNetwork) -> PrunedNetwork:
        """Return a pruned network after its repair, or with statistics of its own.

        Args:
            source: The network that it came from; left as it is.
            graph: Topology of that.
            pruned: Straight after pruning; left as it is.
        """
        if self.repair is None and self.statistics == "stale":
            return pruned
        network = copy.deepcopy(pruned.network)
        masks = None if pruned.masks is None else pruned.masks.kept
        self.mend(source, graph, network, pruned.kept, masks)
        return replace(pruned, network=network, stale=pruned.network)

    def mend(
        self,
        source: nn.Module,
        graph: WeightGraph,
        network: nn.Module,
        kept: Tensor | None,
        masks: dict[str, Tensor] | None = None,
    ) -> None:
        """Repair a pruned network in place, or re-estimate its statistics.

        Args:
            source: The network that it came from; left as it is.
            graph: Topology of that.
            network: The pruned network.
            kept: Which nodes stay, bool [N].
            masks: Weights that may not be zero, by name.
        """
        if self.repair is None:
            self.rewritten(network)
            return
        assert kept is not None  # other pruners are refused with a repair
        images = _together(list(self.sample(self.repair.images)))
        for _ in repair(source, network, graph, kept, images, masks=masks):
            pass


def _together(batches: Sequence[Tensor]) -> Tensor:
    """Join batches of images [B, C, ...], the smaller ones with zeros at their far ends."""
    sizes = [max(size) for size in zip(*(batch.shape[2:] for batch in batches), strict=True)]
    joined = batches[0].new_zeros(sum(map(len, batches)), batches[0].shape[1], *sizes)
    start = 0
    for batch in batches:
        inside = [slice(start, start + len(batch)), slice(None), *map(slice, batch.shape[2:])]
        joined[tuple(inside)] = batch
        start += len(batch)
    return joined


def _of_this_process(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Give every W-th of the batches that all W processes of a run know."""
    if not (dist.is_available() and dist.is_initialized()):
        return iter(batches)
    return islice(batches, dist.get_rank(), None, dist.get_world_size())
