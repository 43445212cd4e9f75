"""Optimisers and learning-rate schedules as settings."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
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

    Not Lightning's OptimizerCallable and LRSchedulerCallable: they are functions, which can be
    neither compared nor checked before a run, and a warm-up with them takes class paths.

    Attributes:
        name: `sgd` or `adamw`.
        lr: Learning rate at the start, or after warming up.
        weight_decay: As the optimiser defines it.
        momentum: Of `sgd`.
        schedule: `multistep` multiplies the rate by `gamma` at each milestone; `cosine` lowers it
            to `min_lr` at the end; `constant` leaves it.
        interval: Unit of the schedule, its milestones and its warm-up: the rate changes after each
            `epoch`, or after each optimiser `step`.
        milestones: Epochs or steps, counted from the start.
        gamma: Factor at a milestone.
        min_lr: Learning rate at the end of `cosine`.
        warm_up: Epochs or steps at the start in which the rate rises evenly from a hundredth of
            `lr`; 0 is none.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: Literal["multistep", "cosine", "constant"] = "multistep"
    interval: Literal["epoch", "step"] = "epoch"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    min_lr: float = 0.0
    warm_up: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"optimizer.{name} is {value}: it must be a finite number.")
        if self.lr <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"optimizer: lr {self.lr} must be above 0 and weight_decay {self.weight_decay} at "
                "least 0."
            )
        if not 0 <= self.momentum < 1 or self.gamma <= 0:
            raise ConfigError(
                f"optimizer: momentum {self.momentum} lies between 0 and 1, and gamma {self.gamma} "
                "above 0."
            )
        if not 0 <= self.min_lr <= self.lr:
            raise ConfigError(f"optimizer: min_lr {self.min_lr} lies between 0 and lr {self.lr}.")
        if self.warm_up < 0 or any(epoch <= self.warm_up for epoch in self.milestones):
            raise ConfigError(
                f"optimizer: warm_up {self.warm_up} is at least 0 and before the milestones "
                f"{self.milestones}."
            )
        if self.milestones != sorted(set(self.milestones)):
            raise ConfigError(f"optimizer: milestones {self.milestones} go up, each once.")

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimiser."""
        if self.name == "sgd":
            return SGD(
                parameters,
                self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
            )
        return AdamW(parameters, self.lr, weight_decay=self.weight_decay)

    def build_schedule(self, optimizer: Optimizer, length: int) -> LRScheduler:
        """Return the schedule, to be stepped once an epoch or once a step.

        Args:
            optimizer: The optimiser.
            length: Epochs or steps of the whole training.
        """
        # a warm-up that is all leaves no epoch at `lr`
        begin = min(self.warm_up, length - 1) if self.warm_up else 0
        if not begin:
            return self._main(optimizer, length, 0)
        rise = LinearLR(optimizer, start_factor=0.01, total_iters=begin)
        main = self._main(optimizer, length, begin)
        return SequentialLR(optimizer, [rise, main], milestones=[begin])

    def _main(self, optimizer: Optimizer, length: int, begin: int) -> LRScheduler:
        """Return the schedule from epoch or step `begin` on."""
        if self.schedule == "cosine":
            return CosineAnnealingLR(optimizer, T_max=max(length - begin, 1), eta_min=self.min_lr)
        milestones = self.milestones if self.schedule == "multistep" else []
        return MultiStepLR(optimizer, [point - begin for point in milestones], self.gamma)

    def configure(self, parameters: Iterable[nn.Parameter], length: int) -> dict[str, Any]:
        """Return what a LightningModule's `configure_optimizers` returns.

        Args:
            parameters: What is trained.
            length: Epochs or steps of the whole training.
        """
        optimizer = self.build(parameters)
        schedule = self.build_schedule(optimizer, length)
        scheduler = {"scheduler": schedule, "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}
