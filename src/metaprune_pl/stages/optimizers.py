"""Optimisers and learning-rate schedules as settings."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from metaprune_pl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Optimiser and learning rate.

    Attributes:
        name: `sgd` or `adamw`.
        lr: Learning rate at the start.
        weight_decay: As the optimiser defines it.
        momentum: Of `sgd`.
        schedule: `multistep` multiplies the rate by `gamma` at each milestone; `cosine` lowers it to 0 at the last
            epoch; `constant` leaves it.
        milestones: Epochs.
        gamma: Factor at a milestone.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: Literal["multistep", "cosine", "constant"] = "multistep"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"optimizer: lr {self.lr} must be above 0 and weight_decay {self.weight_decay} at least 0."
            )

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimiser."""
        if self.name == "sgd":
            return SGD(parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return AdamW(parameters, self.lr, weight_decay=self.weight_decay)

    def build_schedule(self, optimizer: Optimizer, epochs: int) -> LRScheduler:
        """Return the schedule, to be stepped once an epoch."""
        if self.schedule == "cosine":
            return CosineAnnealingLR(optimizer, T_max=max(epochs, 1))
        return MultiStepLR(optimizer, self.milestones if self.schedule == "multistep" else [], self.gamma)

    def configure(self, parameters: Iterable[nn.Parameter], epochs: int) -> dict[str, Any]:
        """Return what a LightningModule's `configure_optimizers` returns."""
        optimizer = self.build(parameters)
        return {"optimizer": optimizer, "lr_scheduler": self.build_schedule(optimizer, epochs)}
