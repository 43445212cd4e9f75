"""Optimisers and learning-rate schedules as settings."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

from metaprune_pl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Optimiser and learning rate.

    Attributes:
        name: `sgd` or `adamw`.
        lr: Learning rate at the start, or after warming up.
        weight_decay: As the optimiser defines it.
        momentum: Of `sgd`.
        schedule: `multistep` multiplies the rate by `gamma` at each milestone; `cosine` lowers it
            to `min_lr` at the last epoch; `constant` leaves it.
        milestones: Epochs, counted from the start.
        gamma: Factor at a milestone.
        min_lr: Learning rate at the end of `cosine`.
        warm_up: Epochs at the start in which the rate rises evenly from a hundredth of `lr`; 0 is
            none.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: Literal["multistep", "cosine", "constant"] = "multistep"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    min_lr: float = 0.0
    warm_up: int = 0

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"optimizer: lr {self.lr} must be above 0 and weight_decay {self.weight_decay} at "
                "least 0."
            )
        if not 0 <= self.min_lr <= self.lr:
            raise ConfigError(f"optimizer: min_lr {self.min_lr} lies between 0 and lr {self.lr}.")
        if self.warm_up < 0 or any(epoch <= self.warm_up for epoch in self.milestones):
            raise ConfigError(
                f"optimizer: warm_up {self.warm_up} is at least 0 and before the milestones "
                f"{self.milestones}."
            )

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimiser."""
        if self.name == "sgd":
            return SGD(parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return AdamW(parameters, self.lr, weight_decay=self.weight_decay)

    def build_schedule(self, optimizer: Optimizer, epochs: int) -> LRScheduler:
        """Return the schedule, to be stepped once an epoch."""
        begin = (
            min(self.warm_up, epochs - 1) if self.warm_up else 0
        )  # a warm-up that is all leaves no epoch at `lr`
        if not begin:
            return self._main(optimizer, epochs, 0)
        rise = LinearLR(optimizer, start_factor=0.01, total_iters=begin)
        return SequentialLR(
            optimizer, [rise, self._main(optimizer, epochs, begin)], milestones=[begin]
        )

    def _main(self, optimizer: Optimizer, epochs: int, begin: int) -> LRScheduler:
        """Return the schedule from epoch `begin` on."""
        if self.schedule == "cosine":
            return CosineAnnealingLR(optimizer, T_max=max(epochs - begin, 1), eta_min=self.min_lr)
        milestones = (
            [epoch - begin for epoch in self.milestones] if self.schedule == "multistep" else []
        )
        return MultiStepLR(optimizer, milestones, self.gamma)

    def configure(self, parameters: Iterable[nn.Parameter], epochs: int) -> dict[str, Any]:
        """Return what a LightningModule's `configure_optimizers` returns."""
        optimizer = self.build(parameters)
        return {"optimizer": optimizer, "lr_scheduler": self.build_schedule(optimizer, epochs)}
