"""What the seeds of data models draw, so that a zoo holds good networks and bad ones."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.stages.optimizers import OptimizerSettings

Range = tuple[float, float]
"""Least and largest value."""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Settings that each seed draws from a range; None keeps the setting as it is.

    Attributes:
        lr: Of the learning rate, even in its logarithm.
        weight_decay: Of the weight decay, the same.
        gain: Of a factor of the initial weights of convolutions and linear layers, the same.
        dropout: Of the builder's argument `dropout`.
        optimizers: Names of optimisers; none is that of the optimiser's settings.
    """

    lr: Range | None = None
    weight_decay: Range | None = None
    gain: Range | None = None
    dropout: Range | None = None
    optimizers: list[Literal["sgd", "adamw"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "gain", "dropout"):
            low, high = getattr(self, name) or (1.0, 1.0)
            least = 0.0 if name == "dropout" else math.ulp(0.0)
            largest = 1.0 if name == "dropout" else math.inf
            if not least <= low <= high < largest and getattr(self, name) is not None:
                raise ConfigError(
                    f"vary.{name} is [{low:g}, {high:g}]: give the least and the largest value, "
                    f"{'from 0 to below 1' if name == 'dropout' else 'finite and above 0'}."
                )

    def draw(self, seed: int) -> dict[str, Any]:
        """Return what a seed draws, by name; the same for one name whatever the others are."""
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        drawn: dict[str, Any] = {}
        for name, value in zip(("lr", "weight_decay", "gain"), draws, strict=False):
            if (between := getattr(self, name)) is not None:
                low, high = map(math.log, between)
                drawn[name] = math.exp(low + (high - low) * value)
        if self.dropout is not None:
            low, high = self.dropout
            drawn["dropout"] = low + (high - low) * draws[3]
        if self.optimizers:
            drawn["optimizer"] = self.optimizers[int(draws[4] * len(self.optimizers))]
        return drawn


def with_drawn(optimizer: OptimizerSettings, drawn: Mapping[str, Any]) -> OptimizerSettings:
    """Return an optimiser's settings with what was drawn."""
    own = {name: drawn[name] for name in ("lr", "weight_decay") if name in drawn}
    return replace(optimizer, name=drawn.get("optimizer", optimizer.name), **own)


@torch.no_grad()
def scale_weights(network: nn.Module, gain: float) -> None:
    """Multiply the weights of convolutions and linear layers in place."""
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.mul_(gain)
