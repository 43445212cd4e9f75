"""Programs that an operation wraps (autocast, gradients off), put in the place of that operation.

So a walk over an exported program meets every step of it; each of those runs as it was wrapped.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch._ops import HigherOrderOperator
from torch.fx import GraphModule, Node

WRAPPING = "metaprune_wrapping"
"""Where a node's `meta` has the operations that it was wrapped in, the innermost last."""


def inline(module: GraphModule) -> None:
    """Put wrapped programs in the place of what wraps them; those of branches stay.

    Args:
        module: An exported program, changed in place.
    """
    for node in list(module.graph.nodes):
        if isinstance(node.target, HigherOrderOperator):
            programs = {
                index: program
                for index, part in enumerate(node.args)
                if isinstance(part, Node) and part.op == "get_attr"
                if isinstance(program := getattr(module, str(part.target)), GraphModule)
            }
            if len(programs) == 1:
                ((index, program),) = programs.items()
                inline(program)
                _replace(node, index, program)


def _replace(node: Node, index: int, program: GraphModule) -> None:
    """Put a program in the place of the operation whose argument of this index it is."""
    inputs = program.graph.find_nodes(op="placeholder")
    copies: dict[Node, Any] = dict(zip(inputs, node.args[index + 1 :], strict=True))
    with node.graph.inserting_before(node):
        outputs: Any = node.graph.graph_copy(program.graph, copies)
    wrapping = (node.target, node.args[:index])
    for step in program.graph.nodes:
        if step.op == "call_function":
            copies[step].meta[WRAPPING] = (wrapping, *step.meta.get(WRAPPING, ()))
    for user in list(node.users):  # each takes one of the outputs
        user.replace_all_uses_with(outputs[user.args[1]])
        node.graph.erase_node(user)
    node.graph.erase_node(node)


def function_of(node: Node) -> Callable[..., Any]:
    """Return what a node calls, wrapped as it was."""
    target: Any = node.target
    wrappings = node.meta.get(WRAPPING, ())

    def run(*args: Any, **keywords: Any) -> Any:
        function = partial(target, *args, **keywords)
        for wrapping, options in reversed(wrappings):
            function = partial(wrapping, *options, function)
        return function()

    return run if wrappings else target
