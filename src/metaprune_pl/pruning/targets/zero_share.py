"""A share of the weights becomes zero."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.pruning.targets.base import Masks, Target
from metaprune_pl.pruning.targets.masks import MaskTarget, Ranking
from metaprune_pl.pruning.unpruned import Unpruned


@dataclass(frozen=True, kw_only=True)
class ZeroShare(MaskTarget):
    """A share of the weights of convolutions and linear layers that become zero.

    Attributes:
        share: Between 0 and 1.
        ranking: Whether it is of all weights together (`global`) or of each layer's (`uniform`).
    """

    share: float
    ranking: Ranking = "global"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"masks.sparsities: {self.share:g} is no share between 0 and 1.")

    @property
    def label(self) -> str:
        """The share, such as 80 % zeros."""
        return f"{100 * self.share:g} % zeros"

    @property
    def text(self) -> str:
        """What is asked for, as a config has it."""
        return str(self.share)

    def count(self, size: int) -> int:
        """Return the number of zeros among so many weights."""
        return round(self.share * size)

    def in_rounds(self, network: nn.Module, unpruned: Unpruned, rounds: int) -> Sequence[Target]:
        """Return shares that each leave as much of what is left: see `Target.in_rounds`."""
        exponents = (index / rounds for index in range(1, rounds))
        between = [replace(self, share=1 - (1 - self.share) ** power) for power in exponents]
        return [*between, self]

    def masks(
        self, scores: Mapping[str, Tensor], dimensions: Mapping[str, tuple[int, int]]
    ) -> Masks:
        """Keep the weights of the highest scores: see `MaskTarget.masks`."""
        if self.ranking == "uniform":
            kept = {name: self._highest(score.flatten()) for name, score in scores.items()}
        else:
            flat = self._highest(torch.cat([score.flatten() for score in scores.values()]))
            parts = flat.split([score.numel() for score in scores.values()])
            kept = dict(zip(scores, parts, strict=True))
        return Masks(kept={name: part.view_as(scores[name]) for name, part in kept.items()})

    def _highest(self, scores: Tensor) -> Tensor:
        """Mark all but the share of lowest scores, [W] -> bool [W]."""
        order = torch.argsort(scores, stable=True)
        lowest = order[: self.count(len(order))]
        return torch.ones_like(scores, dtype=torch.bool).index_fill(0, lowest, False)
