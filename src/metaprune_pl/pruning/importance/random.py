"""Pure chance, the control of all importances."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metaprune_pl.pruning.groups import PruningGroups
from metaprune_pl.pruning.importance.base import Normalized


@dataclass(frozen=True, kw_only=True)
class Random(Normalized):
    """Scores drawn evenly from 0 to 1.

    Attributes:
        normalize: What scores are divided by within their group: 1 (`none`), their `mean` or `max`.
        seed: Seed of the scores.
    """

    seed: int = 0

    def scores(
        self, groups: PruningGroups, measured: Mapping[str, Tensor], kept: Tensor | None = None
    ) -> Tensor:
        """Draw the same scores at each call: see `Importance.scores`."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(len(groups.group), generator=generator)

    def raw_weight_scores(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Draw a score for each weight."""
        generator = torch.Generator().manual_seed(self.seed)
        return {
            name: torch.rand(weight.shape, generator=generator) for name, weight in measured.items()
        }
