"""Copies of a network with zeros, so that a zoo holds sparse networks, too."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.networks.examples import Example
from metaprune_pl.pruning.importance import Images, Importance, Magnitude, Random
from metaprune_pl.pruning.targets import PrunedNetwork, ZeroShare, reach
from metaprune_pl.pruning.unpruned import examine

CRITERIA = (Magnitude(p=1.0, normalize="none"), Magnitude(p=1.0, normalize="mean"), Random())
LEAST = 1e-9
"""A share that is no weight at all."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One copy with zeros.

    Attributes:
        source: Index of the network.
        share: Share of zeros.
        criterion: Which weights matter.
    """

    source: int
    share: float
    criterion: Importance

    def of(self, network: nn.Module, example: Example, images: Images) -> PrunedNetwork:
        """Return the copy of a network.

        Args:
            network: Left as it is.
            example: One input as a batch, on its device.
            images: What the criterion measures, where it does.
        """
        unpruned = examine(network, example, channels=False)
        target = ZeroShare(share=self.share)
        return next(reach([target], network, unpruned, self.criterion, images))


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Copies of a network with zeros.

    Attributes:
        number: How many; which of its snapshots each is of, the criterion and the share are drawn.
        max_share: Largest share of zeros; the least is 0.
        criteria: Which weights matter, one of these for each copy; none stands for their size, over
            all layers and within each, and for chance.
    """

    number: int = 4
    max_share: float = 0.95
    criteria: list[Importance] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.number < 1 or not 0 < self.max_share < 1:
            raise ConfigError(
                f"copies: number {self.number} is at least 1, and max_share {self.max_share:g} "
                "between 0 and 1."
            )

    def draw(self, sources: int, seed: int) -> Iterator[Copy]:
        """Draw the copies of so many networks."""
        generator = torch.Generator().manual_seed(seed)
        criteria = self.criteria or CRITERIA
        for _ in range(self.number):
            drawn = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
            yield Copy(
                source=int(drawn[1] * sources),
                share=max(LEAST, self.max_share * drawn[0]),
                criterion=criteria[int(drawn[2] * len(criteria))],
            )
