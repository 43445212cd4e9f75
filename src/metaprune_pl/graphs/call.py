"""One operation of the exported program, and what its arguments stand for."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.builder import GraphBuilder
from metaprune_pl.graphs.labels import NOBODY, Activation, Parameter, channels


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One operation of the exported program.

    Attributes:
        builder: What the trace has found so far.
        node: The operation.
        operator: Its name without `aten.`.
        module: Path of the innermost module that it runs in.
        values: What the nodes before it stand for.
    """

    builder: GraphBuilder
    node: torch.fx.Node
    operator: str
    module: str
    values: dict[torch.fx.Node, Any]

    @property
    def where(self) -> str:
        """Module path and tensor of the operation, for errors."""
        shape = "x".join(map(str, self.shape_of(self.node)))
        return (
            f"module '{self.module or 'the network'}', tensor '{self.node.name}'{f' of shape {shape}' if shape else ''}"
        )

    @staticmethod
    def shape_of(node: Any) -> torch.Size:
        """Shape of a node's tensor."""
        value = node.meta.get("val")
        return value.shape if isinstance(value, Tensor) else torch.Size()

    def value(self, argument: Any) -> Any:
        """What an argument stands for: Activation, Parameter, None (a constant tensor) or a plain number or list."""
        return self.values.get(argument) if isinstance(argument, torch.fx.Node) else argument

    def argument(self, index: int, default: Any = None) -> Any:
        """Return a raw argument; export leaves out trailing defaults."""
        return self.node.args[index] if len(self.node.args) > index else default

    def activation(self, index: int = 0) -> Activation:
        """Return an argument that must be an activation; fresh only where nobody else reads it."""
        node = self.argument(index)
        value = self.value(node)
        if not isinstance(value, Activation):
            raise TraceError(f"operator 'aten.{self.operator}' on a tensor without neurons: {self.where}.")
        return Activation(value.labels, value.owner if len(node.users) == 1 else None)

    def parameter(self, index: int) -> Parameter | None:
        """Return an argument that must be a parameter or buffer, or absent."""
        node = self.argument(index)
        value = self.value(node)
        if node is None:
            return None
        if isinstance(value, Parameter) and value.moved is None:
            return value
        raise TraceError(f"operator 'aten.{self.operator}' with computed weights is not supported: {self.where}.")

    def neurons(self, activation: Activation, dim: int) -> Tensor:
        """Return the nodes along a dimension of the first argument, [C]."""
        nodes = channels(activation.labels, dim, self.shape_of(self.argument(0)))
        if nodes is None or bool((nodes == NOBODY).any()):
            raise TraceError(
                f"operator 'aten.{self.operator}' reads a tensor whose channels are not in one dimension: {self.where}."
            )
        return nodes

    def produce(self, outputs: int, inputs: Tensor, weight: Parameter, bias: Parameter | None) -> tuple[str, Tensor]:
        """Add the neurons of a layer that reads the given nodes."""
        if any(connection.parameter == weight.name for connection in self.builder.connections):
            raise TraceError(f"parameter '{weight.name}' is used twice, which is not supported: {self.where}.")
        owner, target = self.builder.new_group(
            weight.name.removesuffix(".weight"), outputs, depth=self.builder.depth(inputs) + 1
        )
        if bias is not None:
            self.builder.group(owner).slots["bias"] = bias.name
        return owner, target
