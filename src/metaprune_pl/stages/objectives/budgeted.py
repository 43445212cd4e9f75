"""The accuracy of rewritten networks at every speed-up: no sparsity term whose weight is tuned."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from metaprune_pl.errors import ConfigError
from metaprune_pl.pruning import Magnitude, PruningGroups, PruningSettings
from metaprune_pl.pruning.masking import maskable, masked_parameters, straight_through, unit_costs
from metaprune_pl.pruning.plan import plan
from metaprune_pl.pruning.rankings import competition
from metaprune_pl.stages.objectives.base import MeanLoss, Objective, Term
from metaprune_pl.stages.objectives.rewritten import Rewritten


@dataclass(frozen=True, kw_only=True)
class Budgeted(Objective):
    """Mean cross-entropy of a big batch, half of each micro-batch at a speed-up.

    The speed-up is drawn once for each data model of a big batch, and so is the plan of what it
    leaves out; running statistics would be those of the whole network, so set `batch_norm` of the
    training to `train`.

    Attributes:
        max_speed_up: Speed-ups are drawn from 1 to this, evenly in their logarithm; they are those
            of the layers, without other operators.
        temperature: How far from the threshold an importance feels the loss, in units of its
            logarithm.
        criterion: Which channels are left out.
        pruning: Ranking and floors; there is one ranking for each plan.
    """

    name: ClassVar[str] = "budgeted"
    value: ClassVar[str] = "budgeted_loss"
    max_speed_up: float = 6.0
    temperature: float = 1.0
    criterion: Magnitude = field(default_factory=Magnitude)
    pruning: PruningSettings = field(default_factory=PruningSettings)

    def __post_init__(self) -> None:
        if not 1 < self.max_speed_up < math.inf or not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"Budgeted: max_speed_up is {self.max_speed_up} and temperature "
                f"{self.temperature}; they are finite, above 1 and above 0."
            )

    def start(self, rewritten: Rewritten) -> Term:
        """Implements `Objective`."""
        model = rewritten.model
        groups = replace(model.groups, prunable=maskable(model.groups))
        state = {name: value.detach().cpu() for name, value in rewritten.leaves.items()}
        rest = {name: value.cpu() for name, value in model.state.items()}
        every = torch.ones(groups.graph.num_nodes, dtype=torch.bool)
        budget = groups.graph.macs(every) / self.max_speed_up ** float(torch.rand(()))
        settings = replace(self.pruning, step=1.0)
        (nodes,) = plan(groups, rest | state, self.criterion, settings, [budget])
        kept = torch.zeros_like(groups.prunable).index_fill(0, groups.unit[nodes], True)
        return MeanLoss(rewritten.leaves, partial(self.loss, rewritten, groups, kept))

    def loss(
        self,
        rewritten: Rewritten,
        groups: PruningGroups,
        kept: Tensor,
        images: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Return the mean cross-entropy of a micro-batch, half of it without some units.

        Args:
            rewritten: The data model with its new weights.
            groups: Its groups, of which those units are prunable that a mask can leave out.
            kept: Which units stay, bool [U].
            images: [B, C, H, W], at least two.
            labels: [B].
        """
        half = len(images) // 2
        mask = self._mask(rewritten, groups, kept)[groups.unit.to(images.device)]
        masked = masked_parameters(groups.graph, rewritten.leaves, mask)
        whole, narrow = rewritten.logits(images[:half]), rewritten.logits(images[half:], masked)
        return F.cross_entropy(torch.cat([whole, narrow]), labels)

    def _mask(self, rewritten: Rewritten, groups: PruningGroups, kept: Tensor) -> Tensor:
        """Return 1 for each unit that stays and 0 for the others, with a gradient, [U]."""
        state = {**rewritten.model.state, **rewritten.leaves}
        importance = self.criterion.importance(groups, state)
        device, units = importance.device, groups.prunable.nonzero().flatten()
        own = straight_through(
            importance[units.to(device)],
            kept[units].to(device),
            unit_costs(groups)[units].to(device),
            competition(groups, self.pruning.ranking)[units].to(device),
            self.temperature,
        )
        return torch.ones_like(importance).index_put((units.to(device),), own)
