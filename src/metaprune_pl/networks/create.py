"""Build a network by name, and say plainly why it cannot be built."""

import inspect
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any

import torch
from torch import nn

from metaprune_pl.errors import ConfigError, NetworkError
from metaprune_pl.networks.checks import plain_module
from metaprune_pl.networks.names import find_builder
from metaprune_pl.networks.trust import OwnCode, named_code, trust

DOWNLOADS = ("pretrained", "weights")
"""Arguments that ask a library for trained weights."""

_TOLD: set[str] = set()
"""Builders whose output was shown: a network is built several times in a run."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """How to build a network.

    Attributes:
        builder: One of ours (`cifar_resnet`, `cifar_vgg`, `plain_vgg`, `small_cnn`),
            `torchvision/NAME`, `timm/NAME`, a NAME that only one of these knows, or
            `package.module:function` of your own, looked up in the current folder first.
        arguments: Keyword arguments of the builder. `num_classes` and `in_channels` are filled in
            from the data where the builder has them.
    """

    builder: str = "cifar_resnet"
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.arguments:
            if not isinstance(name, str) or not name.isidentifier() or name == "seed":
                raise ConfigError(f"arguments: '{name}' is no argument that a network can take.")
        for name in named_code(self.builder, self.arguments):
            trust(name)  # settings are the user's; `read_card` looks at those of a file before

    def for_data(self, num_classes: int, in_channels: int) -> "NetworkSettings":
        """Return these settings with the sizes of the data, where they are known and not given."""
        name, build = find_builder(self.builder)
        sizes = {"num_classes": num_classes, "in_channels": in_channels}
        if name.startswith("timm/"):
            sizes = {"num_classes": num_classes, "in_chans": in_channels}
        elif name.startswith(
            "torchvision/"
        ):  # they read three channels, and trained weights fix the classes
            sizes = {} if self.arguments.get("weights") else {"num_classes": num_classes}
        else:
            sizes = {key: value for key, value in sizes.items() if key in _parameters(build)}
        return replace(self, arguments={**sizes, **self.arguments})

    def without_downloads(self) -> "NetworkSettings":
        """Return these settings without what asks a library for trained weights.

        Stored ones take their place.
        """
        return replace(
            self, arguments={k: v for k, v in self.arguments.items() if k not in DOWNLOADS}
        )


def create_network(builder: str, /, *, seed: int | None = None, **arguments: Any) -> nn.Module:
    """Build a network, with random weights unless its arguments ask for others.

    Args:
        builder: See `NetworkSettings`.
        seed: Seed of the initial weights; None takes the global generator as it is.
        arguments: Keyword arguments of the builder.

    Raises:
        NetworkError: The name is unknown, the builder refuses the arguments, trained weights cannot
            be fetched, or what it gives is no module with weights of its own.
    """
    name, build = find_builder(builder)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            with OwnCode(f"network '{name}'") if ":" in name else nullcontext(), _told_once(name):
                network = build(**arguments)
        except (
            TypeError,
            ValueError,
            RuntimeError,
            AssertionError,
            LookupError,
            AttributeError,
            NameError,
        ) as error:
            known = _known(build) if isinstance(error, TypeError) else ""
            raise NetworkError(f"network '{name}': {_reason(error)}{known}") from error
        except OSError as error:
            if not any(arguments.get(key) for key in DOWNLOADS):
                raise NetworkError(f"network '{name}': {_reason(error)}") from error
            raise NetworkError(
                f"network '{name}': its trained weights cannot be fetched "
                f"({_reason(error).rstrip('.')}). Go online "
                "once, or give the weights as a file where the command takes one (--state FILE)."
            ) from error
    return plain_module(network, name)


def _told_once(name: str) -> AbstractContextManager[object]:
    """Keep what a builder prints, but for the first time."""
    if name in _TOLD:
        return redirect_stdout(StringIO())
    _TOLD.add(name)
    return nullcontext()


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
    return f"no {text}." if isinstance(error, KeyError) else f"{text}."


def _known(build: Any) -> str:
    """Name the arguments that a builder takes."""
    known = [name for name in _parameters(build) if name not in {"args", "kwargs", "name"}]
    return f" Its arguments: {', '.join(known)}." if known else ""


def _parameters(build: Any) -> list[str]:
    """Return the names of a builder's parameters, as far as they are known."""
    try:
        return list(inspect.signature(build).parameters)
    except ValueError:  # it is not written in Python
        return []
