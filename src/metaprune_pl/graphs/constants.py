"""Values of an exported program that depend on no activation."""

import operator
from typing import Any

import torch

from metaprune_pl.graphs.wrapped import function_of


class Constants:
    """Values of nodes that depend on nothing but what is known, computed on demand."""

    def __init__(self, known: dict[torch.fx.Node, Any]) -> None:
        self._known = known

    def __call__(self, node: Any) -> Any:
        """Return the value of a node or a plain argument; None where it is not constant."""
        if isinstance(node, list | tuple):
            parts = [self(part) for part in node]
            return None if any(part is None for part in parts) else type(node)(parts)
        if not isinstance(node, torch.fx.Node):
            return node
        if node not in self._known:
            self._known[node] = self._compute(node) if node.op == "call_function" else None
        return self._known[node]

    def _compute(self, node: torch.fx.Node) -> Any:
        target: Any = node.target
        if not isinstance(target, torch._ops.OpOverload) and target is not operator.getitem:
            return None
        if any(self(source) is None for source in node.all_input_nodes):
            return None
        function = function_of(node)
        with torch.no_grad():
            return function(
                *torch.fx.map_arg(node.args, self), **torch.fx.map_arg(node.kwargs, self)
            )
