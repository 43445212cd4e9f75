"""From a network to its graph: a walk over the exported program that carries, for each tensor, its neurons.

`torch.export` gives every tensor operation of a forward pass. The walk labels each activation with
the node that each of its elements belongs to; an operation that it does not know is an error, never
a guess.
"""

import contextlib
import copy
import io
import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.builder import GraphBuilder
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import Activation, Parameter
from metaprune_pl.graphs.operators import OPERATORS
from metaprune_pl.graphs.parameters import computed
from metaprune_pl.graphs.weight_graph import WeightGraph
from metaprune_pl.networks.frozen_norms import thaw_batch_norms


def trace(network: nn.Module, example: Tensor) -> WeightGraph:
    """Turn a network into its graph.

    Args:
        network: Any module that `torch.export` accepts; left as it is.
        example: One image as a batch, [1, C, H, W], on any device.

    Raises:
        TraceError: The network cannot be exported, or uses an operation that is not known here.
    """
    program = _export(network, example)
    kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    builder = GraphBuilder()
    _, channels = builder.new_group("input", example.shape[1])
    values: dict[torch.fx.Node, Any] = {}
    known: dict[torch.fx.Node, Any] = {}
    aliases = _aliases(network)
    for node in program.graph.find_nodes(op="placeholder"):
        spec = kinds[node.name]
        if spec.kind is InputKind.USER_INPUT:
            values[node] = Activation(channels.reshape(1, -1, *[1] * (example.dim() - 2)))
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            constant = spec.kind is InputKind.BUFFER
            name = aliases.get(str(spec.target), str(spec.target))
            values[node] = Parameter(name, tuple(node.meta["val"].shape), constant=constant)
            if spec.kind is InputKind.BUFFER:
                known[node] = program.state_dict.get(
                    spec.target, program.constants.get(spec.target)
                )
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            known[node] = program.constants[spec.target]
    (first, *_) = _walk(
        program.graph_module, _Walk(builder=builder, values=values, constants=Constants(known))
    )
    if (
        not isinstance(first, Activation)
        or first.partners
        or first.labels.numel() != max(first.labels.shape)
    ):
        raise TraceError(
            "the network's output is not one tensor of scores [B, K], or of features [B, K, H, "
            "W], that depends on its "
            "input."
        )
    builder.tie_counted(dict(network.named_modules(remove_duplicate=False)))
    parameters = [name for name, _ in network.named_parameters()]
    return replace(builder.build(first.labels.flatten(), parameters), aliases=aliases)


def _aliases(network: nn.Module) -> dict[str, str]:
    """Further names of shared parameters and buffers, to their first name."""
    tensors = [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    for name, value in tensors:
        first.setdefault(id(value), name)
    return {name: first[id(value)] for name, value in tensors if first[id(value)] != name}


class Constants:
    """Values of nodes that depend on no activation and no parameter, computed where they are asked for."""

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
        function: Any = target
        with torch.no_grad():
            return function(
                *torch.fx.map_arg(node.args, self), **torch.fx.map_arg(node.kwargs, self)
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Walk:
    """What a walk carries along: see `Call`."""

    builder: GraphBuilder
    values: dict[torch.fx.Node, Any]
    constants: Constants


def _walk(program: torch.fx.GraphModule, walk: _Walk) -> list[Any]:
    """Label the result of each operation in turn, and return what the program's outputs stand for."""
    for node in program.graph.nodes:
        if node.op == "get_attr":
            walk.values[node] = getattr(program, str(node.target))
        elif node.op == "call_function":
            walk.values[node] = _call(node, walk)
        elif node.op == "output":
            outputs = node.args[0] if isinstance(node.args[0], tuple | list) else [node.args[0]]
            return [
                walk.values.get(part) if isinstance(part, torch.fx.Node) else part
                for part in outputs
            ]
    raise AssertionError("an exported program has an output")


def _inside(node: torch.fx.Node, walk: _Walk) -> list[Any]:
    """Walk through a program that an operation wraps (autocast switched off for a while)."""
    programs: list[Any] = [
        walk.values.get(part) if isinstance(part, torch.fx.Node) else None for part in node.args
    ]
    place = next(
        number for number, part in enumerate(programs) if isinstance(part, torch.fx.GraphModule)
    )
    wrapped = programs[place]
    for placeholder, argument in zip(
        wrapped.graph.find_nodes(op="placeholder"), node.args[place + 1 :], strict=True
    ):
        walk.values[placeholder] = (
            walk.values.get(argument) if isinstance(argument, torch.fx.Node) else argument
        )
    return _walk(wrapped, walk)


def _export(network: nn.Module, example: Tensor) -> Any:
    clean = copy.deepcopy(network)
    thaw_batch_norms(clean)  # their arithmetic would not be known as a norm
    clean.eval().requires_grad_(True)
    try:
        with (
            torch.no_grad(),
            contextlib.redirect_stderr(io.StringIO()),
        ):  # it prints what it could not follow
            return torch.export.export(clean, (example[:1],), strict=False)
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        shape = "x".join(map(str, example.shape[1:]))
        raise TraceError(
            f"the network cannot be exported with an input of {shape}: {reason}"
        ) from error


def _call(node: torch.fx.Node, walk: _Walk) -> Any:
    """Label the result of one operation."""
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return _inside(node, walk)
    name = str(node.target).removeprefix("aten.")
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    module = str(stack[-1][0]) if stack else ""
    call = Call(
        builder=walk.builder,
        node=node,
        operator=name,
        module=module,
        values=walk.values,
        constant=walk.constants,
    )
    if not any(
        isinstance(call.value(argument), Activation | list) for argument in node.all_input_nodes
    ):
        return computed(call)
    handler = OPERATORS.get(name) or OPERATORS.get(
        name.replace("_.", ".")
    )  # in place or not is all the same
    if handler is None:
        raise TraceError(f"operator 'aten.{name}' is not supported: {call.where}.")
    try:
        return handler(call)
    except (RuntimeError, IndexError, ValueError) as error:  # labels of an unforeseen shape
        reason = str(error).splitlines()[0]
        raise TraceError(
            f"operator 'aten.{name}' could not be followed ({reason}): {call.where}."
        ) from error
