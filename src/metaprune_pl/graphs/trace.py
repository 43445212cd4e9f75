"""From a network to its graph: a walk over the exported program that carries, for each tensor, its neurons.

`torch.export` gives every tensor operation of a forward pass. The walk labels each activation with the node that each
of its elements belongs to; an operation that it does not know is an error, never a guess.
"""

import contextlib
import copy
import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.builder import GraphBuilder
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import Activation, Parameter
from metaprune_pl.graphs.moves import moved_parameter
from metaprune_pl.graphs.operators import OPERATORS
from metaprune_pl.graphs.weight_graph import WeightGraph


def trace(network: nn.Module, example: Tensor) -> WeightGraph:
    """Turn a network into its graph.

    Args:
        network: Any module that `torch.export` accepts; left as it is.
        example: One image as a batch, [1, C, H, W], on any device.

    Raises:
        TraceError: The network cannot be exported, or uses an operation that is not known here.
    """
    program = _export(network, example)
    parameters = {s.arg.name: s.target for s in program.graph_signature.input_specs if s.kind is InputKind.PARAMETER}
    buffers = {s.arg.name: s.target for s in program.graph_signature.input_specs if s.kind is InputKind.BUFFER}
    images = {s.arg.name for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT}
    builder = GraphBuilder()
    _, channels = builder.new_group("input", example.shape[1])
    values: dict[torch.fx.Node, Any] = {}
    result: Any = None
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in images:
                values[node] = Activation(channels.reshape(1, -1, *[1] * (example.dim() - 2)))
            elif node.name in parameters or node.name in buffers:
                values[node] = Parameter((parameters | buffers)[node.name], tuple(node.meta["val"].shape))
        elif node.op == "call_function":
            values[node] = _call(builder, node, values)
        elif node.op == "output":
            first = node.args[0][0] if isinstance(node.args[0], tuple | list) else node.args[0]
            result = values.get(first) if isinstance(first, torch.fx.Node) else None
    if not isinstance(result, Activation) or result.labels.numel() != result.labels.shape[-1]:
        raise TraceError("the network's output is not one tensor of scores [B, K] that depends on its input.")
    return builder.build(result.labels.flatten(), [name for name, _ in network.named_parameters()])


def _export(network: nn.Module, example: Tensor) -> Any:
    clean = copy.deepcopy(network).eval().requires_grad_(True)
    try:
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # it prints what it could not follow
            return torch.export.export(clean, (example[:1],), strict=False)
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        shape = "x".join(map(str, example.shape[1:]))
        raise TraceError(f"the network cannot be exported with an input of {shape}: {reason}") from error


def _call(builder: GraphBuilder, node: torch.fx.Node, values: dict[torch.fx.Node, Any]) -> Any:
    """Label the result of one operation."""
    name = str(node.target).removeprefix("aten.")
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    module = str(stack[-1][0]) if stack else ""
    call = Call(builder=builder, node=node, operator=name, module=module, values=values)
    if not any(isinstance(call.value(arg), Activation | list) for arg in node.all_input_nodes):
        return moved_parameter(call)
    if name not in OPERATORS:
        raise TraceError(f"operator 'aten.{name}' is not supported: {call.where}.")
    return OPERATORS[name](call)
