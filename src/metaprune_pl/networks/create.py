"""From a name to a network: our builders, torchvision's and timm's."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from metaprune_pl.errors import NetworkError, did_you_mean
from metaprune_pl.networks.cifar_resnet import CifarResNet

BUILDERS: dict[str, Callable[..., nn.Module]] = {"cifar_resnet": CifarResNet}
"""Our own builders by name. Each takes keyword arguments only, `num_classes` and `in_channels` among them."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """How to build a network.

    Attributes:
        builder: One of our builders (`cifar_resnet`), or `torchvision/NAME`, or `timm/NAME`.
        arguments: Keyword arguments of the builder. `num_classes` and `in_channels` are filled in from the data.
    """

    builder: str = "cifar_resnet"
    arguments: dict[str, Any] = field(default_factory=dict)

    def for_data(self, num_classes: int, in_channels: int) -> "NetworkSettings":
        """Return these settings with the data's sizes filled in where the builder knows them and none are given."""
        arguments = dict(self.arguments)
        if not self.builder.startswith("torchvision/"):  # torchvision networks read three channels only
            key = "in_chans" if self.builder.startswith("timm/") else "in_channels"
            arguments.setdefault(key, in_channels)
        arguments.setdefault("num_classes", num_classes)
        return NetworkSettings(builder=self.builder, arguments=arguments)


def create_network(builder: str, *, seed: int | None = None, **arguments: Any) -> nn.Module:
    """Build a network with random weights.

    Args:
        builder: See `NetworkSettings`.
        seed: Seed of the initial weights; None takes the global generator as it is.
        arguments: Keyword arguments of the builder.

    Raises:
        NetworkError: The name is unknown, or the builder refuses the arguments.
    """
    build = _find_builder(builder)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            return build(**arguments)
        except TypeError as error:
            known = [name for name in inspect.signature(build).parameters if name not in {"args", "kwargs", "name"}]
            raise NetworkError(f"network '{builder}': {error}. Its arguments: {', '.join(known)}.") from error


def _find_builder(name: str) -> Callable[..., nn.Module]:
    library, _, short = name.rpartition("/")
    if name in BUILDERS:
        return BUILDERS[name]
    if library == "torchvision":
        from torchvision import models

        if short in (names := models.list_models(module=models)):
            return lambda **arguments: models.get_model(short, **arguments)
    elif library == "timm":
        import timm

        if short in (names := timm.list_models()):
            return lambda **arguments: timm.create_model(short, **arguments)
    else:
        names = list(BUILDERS)
    known = [f"{library}/{known}" for known in names] if library in {"torchvision", "timm"} else names
    raise NetworkError(
        f"no network '{name}'.{did_you_mean(name, known)} Known: {', '.join(BUILDERS)}, torchvision/NAME, timm/NAME."
    )
