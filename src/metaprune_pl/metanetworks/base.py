"""What every metanetwork is: a module that reads a network's graph."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import Features, Schema, WeightGraph, read, write
from metaprune_pl.graphs.features import schema_of


class Metanetwork(nn.Module, ABC):
    """Base of metanetworks, whatever their head returns.

    Args:
        schema: Name of the node features that it reads.
        arguments: All arguments of the constructor, plain values, so that it can be stored and
            built again.

    Attributes:
        engine_used: Engine that the last forward pass ran in.

    Raises:
        ConfigError: A number is not finite.
    """

    def __init__(self, *, schema: str, arguments: dict[str, Any]) -> None:
        super().__init__()
        for name, value in arguments.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"metanetwork: {name} is {value}: it must be a finite number.")
        self.schema: Schema = schema_of(schema)
        self.arguments = arguments
        self.engine_used = "plain"

    @abstractmethod
    def forward(self, graph: WeightGraph, features: Features) -> Any:
        """Return what the head makes of a network: new features, or a prediction."""


class Rewriter(Metanetwork):
    """Base of metanetworks that give a network new weights."""

    @abstractmethod
    def forward(self, graph: WeightGraph, features: Features) -> Features:
        """Return new features of the same shapes."""

    def rewrite(self, graph: WeightGraph, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a network's state with the weights that this metanetwork gives it; differentiable.

        Args:
            graph: Topology of the network.
            state: Its parameters and buffers by name.
        """
        old = read(graph, state, self.schema)
        features = self(graph, old)
        return write(graph, features, state, self.schema)
