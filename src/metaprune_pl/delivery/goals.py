"""Targets as a person has them: a time, a size, or an accuracy to keep."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from metaprune_pl.delivery.runtimes import RUNTIMES
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import NetworkCard, create_network
from metaprune_pl.pruning import (
    Latency,
    Parameters,
    PruningSettings,
    SpeedUp,
    count_parameters,
    measure_latencies,
)
from metaprune_pl.pruning.cost.parameters import BYTES_EACH
from metaprune_pl.pruning.targets import Faster
from metaprune_pl.reports.text import weight_size

BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9}
NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a pruned network is to come to, in place of a speed-up of multiply-accumulates.

    Attributes:
        latency: Time of a forward pass on this machine: a share of the unpruned network's (0.5), or
            milliseconds (12ms).
        batch: Images of that pass.
        runtime: What it runs in: PyTorch (eager), torch.compile (compiled) or ONNX Runtime (onnx).
        size: Bytes of the weights, such as 2MB.
        max_drop: Validation accuracy that may be lost, such as 1%: the largest speed-up is looked
            for that loses no more.
        trials: Trainings of that search at most.
    """

    latency: str | float | None = None
    batch: int = 1
    runtime: Literal["eager", "compiled", "onnx"] = "eager"
    size: str | None = None
    max_drop: str | None = None
    trials: int = 8

    def __post_init__(self) -> None:
        given = [value for value in (self.latency, self.size, self.max_drop) if value is not None]
        if len(given) != 1:
            raise ConfigError("goal: give a latency, a size or a max_drop, one of them.")
        if min(self.batch, self.trials) < 1:
            raise ConfigError("goal: batch and trials are at least 1.")
        _ = self._amount

    @property
    def drop(self) -> float | None:
        """Share of the validation images that may be lost; None where that is not the goal."""
        return None if self.max_drop is None else self._amount[0] / 100

    @property
    def _amount(self) -> tuple[float, str]:
        """The number, and its unit."""
        if self.max_drop is not None:
            text, units, example = self.max_drop, "%", "max_drop: 1%, the sign included"
        elif self.size is not None:
            text, units, example = self.size, "B|KB|MB|GB", "size: 2MB"
        else:
            text, units, example = str(self.latency), "ms|", "latency: 0.5 or 12ms"
        match = re.fullmatch(rf"{NUMBER}\s*({units})", text.strip(), re.IGNORECASE)
        name = example.partition(":")[0]
        value = float(match[1]) if match else 0.0
        if match is not None and not value:
            raise ConfigError(f"goal.{name} is '{text}': give more than 0.")
        if match is None or (match[2] == "" and value >= 1) or value == math.inf:
            raise ConfigError(f"goal.{name} is '{text}': write it as in {example}.")
        return value, match[2]

    def target(
        self, opened: Callable[[], tuple[nn.Module, NetworkCard]], settings: PruningSettings
    ) -> SpeedUp:
        """Return what a network is to come to; where that is to be found out, nothing yet.

        Args:
            opened: Gives the network and its card, where they are needed.
            settings: Steps and floors of pruning.

        Raises:
            ConfigError: The network is there already.
        """
        value, unit = self._amount
        if self.drop is not None:
            return SpeedUp(value=1.0, settings=settings)
        if unit == "":
            return self._faster(1 / value, settings)
        network, card = opened()
        if unit.lower() == "ms":
            example, runtime = torch.zeros(1, *card.image_shape), RUNTIMES[self.runtime]
            built = card.settings
            dense = create_network(built.builder, seed=0, **built.arguments).eval()
            now = measure_latencies([dense], example, self.batch, runtime=runtime)[0].median
            factor, said = now / value, f"{now:.2f} ms"
        else:
            parameters = count_parameters(network)
            factor = BYTES_EACH * parameters / (value * BYTES[unit.upper()])
            said = weight_size(parameters)
        if factor <= 1:
            raise ConfigError(f"the network is at {said} already: give less.")
        if unit.lower() == "ms":
            return self._faster(factor, settings)
        return SpeedUp(value=_round(factor), settings=replace(settings, cost=Parameters()))

    def _faster(self, factor: float, settings: PruningSettings) -> Faster:
        timed = replace(settings, cost=Latency(batch=self.batch))
        return Faster(value=_round(factor), settings=timed, runtime=RUNTIMES[self.runtime])


def _round(factor: float) -> float:
    """Round a factor up to hundredths, which name its folder."""
    return -(-round(100 * factor, 6) // 1) / 100
