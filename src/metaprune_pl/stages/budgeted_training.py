"""One training for every budget: the network learns to do without its least important channels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.pruning import PruningGroups, PruningSettings, count_macs, prunable_groups
from metaprune_pl.pruning.masking import maskable, masked_parameters, straight_through, unit_costs
from metaprune_pl.pruning.plan import highest_speed_up, plan
from metaprune_pl.pruning.rankings import competition
from metaprune_pl.stages.finetuning import Finetuning


@dataclass(frozen=True, kw_only=True)
class BudgetSettings:
    """Training for every budget: half of each batch goes without the least important channels.

    Attributes:
        max_speed_up: Speed-ups are drawn from 1 to this, evenly in their logarithm.
        temperature: How far from the threshold an importance feels the loss, in units of its
            logarithm.
        seed: Seed of the speed-ups.
    """

    max_speed_up: float = 6.0
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 < self.max_speed_up < math.inf or not 0 < self.temperature < math.inf:
            raise ConfigError("budgeted: max_speed_up is above 1, and temperature above 0.")


class BudgetedTraining(Finetuning):
    """Trains a stored network at all its speed-ups at once.

    Half of each batch goes through the whole network. The other half goes through the network as it
    is without the channels that matter least, at a speed-up that is drawn for each batch. The loss
    moves the importances too, by a straight-through gradient. Other arguments are those of
    `Finetuning`; a sparsity term may be added.

    Args:
        max_speed_up: Speed-ups are drawn from 1 to this, evenly in their logarithm.
        temperature: How far from the threshold an importance feels the loss, in units of its
            logarithm.
        pruning: Ranking and floors; there is one ranking for each batch.
        seed: Seed of the speed-ups.

    Raises:
        ConfigError: A setting makes no sense.
    """

    def __init__(
        self,
        *,
        max_speed_up: float = 6.0,
        temperature: float = 1.0,
        pruning: PruningSettings = PruningSettings(),  # noqa: B008  (frozen)
        seed: int = 0,
        **finetuning: Any,
    ) -> None:
        super().__init__(**finetuning)
        self.budget = BudgetSettings(max_speed_up=max_speed_up, temperature=temperature, seed=seed)
        self.pruning = replace(pruning, step=1.0)
        self.maskable: PruningGroups | None = None

    def setup(self, stage: str) -> None:
        """Find the channels that may be masked: see `Finetuning.setup`.

        Raises:
            PruningError: There are none, or the highest speed-up is out of their reach.
        """
        super().setup(stage)
        if self.maskable is not None:
            return
        device = next(self.network.parameters()).device
        example = self.card.example(device)
        groups = self.groups or prunable_groups(self.network, example, self.attention)
        self.maskable = replace(groups, prunable=maskable(groups))
        every = torch.ones(groups.graph.num_nodes, dtype=torch.bool)
        self.whole = count_macs(self.network, example)
        self.outside = self.whole - groups.graph.macs(every)
        state = self.network.state_dict()
        reach = highest_speed_up(self.maskable, state, self.criterion, self.pruning, self.outside)
        if self.budget.max_speed_up > reach:
            raise PruningError(
                f"max_speed_up {self.budget.max_speed_up:g} is out of reach: channels that a mask "
                f"can remove come to {reach:.2f}x with {self.pruning.floors}. Lower it."
            )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch, half of it at a speed-up: see `Finetuning.training_step`.

        Raises:
            ConfigError: The batch is a single image.
        """
        images = batch[0]
        if len(images) < 2:
            raise ConfigError(
                "budgeted training halves its batches; take a batch_size of 2 or more."
            )
        half = len(images) // 2
        logits = torch.cat([self(images[:half]), self.narrow(images[half:], self.drawn())])
        return self.loss(logits, batch)

    def drawn(self) -> float:
        """Return the speed-up of this step, the same on all devices and after a resume."""
        generator = torch.Generator().manual_seed(self.budget.seed * 1_000_003 + self.global_step)
        share = float(torch.rand((), generator=generator))
        return float(self.budget.max_speed_up**share)

    def narrow(self, images: Tensor, speed_up: float) -> Tensor:
        """Return logits without the least important channels, [B, C, H, W] -> [B, K].

        Running statistics stay those of the whole network.
        """
        groups, parameters = self.maskable, dict(self.network.named_parameters())
        assert groups is not None
        buffers = {name: value.clone() for name, value in self.network.named_buffers()}
        state = buffers | parameters
        mask = self._mask(groups, state, speed_up)[groups.unit.to(images.device)]
        masked = masked_parameters(groups.graph, state, mask)
        return functional_call(self.network, masked, (images,))  # type: ignore[no-any-return]

    def _mask(self, groups: PruningGroups, state: Mapping[str, Tensor], speed_up: float) -> Tensor:
        """Return 1 for each unit that stays and 0 for the others, [U]."""
        importance = self.criterion.importance(groups, state)
        measured = {name: value.detach().cpu() for name, value in state.items()}
        budget = self.whole / speed_up - self.outside
        (nodes,) = plan(groups, measured, self.criterion, self.pruning, [budget])
        kept = torch.zeros_like(groups.prunable).index_fill(0, groups.unit[nodes], True)
        units = groups.prunable.nonzero().flatten()
        own = straight_through(
            importance[units.to(importance.device)],
            kept[units].to(importance.device),
            unit_costs(groups)[units].to(importance.device),
            competition(groups, self.pruning.ranking)[units].to(importance.device),
            self.budget.temperature,
        )
        return torch.ones_like(importance).index_put((units.to(own.device),), own)
