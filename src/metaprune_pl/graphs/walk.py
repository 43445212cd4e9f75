"""The walk over an exported program: each operation in turn labels its result."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.activations import observe
from metaprune_pl.graphs.builder import GraphBuilder
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.constants import Constants
from metaprune_pl.graphs.labels import (
    Activation,
    Joined,
    Parameter,
    Unfollowed,
    is_nobody,
    nobody,
)
from metaprune_pl.graphs.masked import Mixing
from metaprune_pl.graphs.moves import MOVES
from metaprune_pl.graphs.operators import OPERATORS, READERS
from metaprune_pl.graphs.parameters import computed


@dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """What a walk carries along: see `Call`."""

    builder: GraphBuilder
    values: dict[torch.fx.Node, Any]
    constants: Constants


def walk(program: torch.fx.GraphModule, state: Walk) -> list[Any]:
    """Label the result of each operation in turn, and return those of the outputs."""
    for node in program.graph.nodes:
        if node.op == "get_attr":
            state.values[node] = getattr(program, str(node.target))
        elif node.op == "call_function":
            state.values[node] = _label(node, state)
        elif node.op == "output":
            (outputs,) = node.args
            return [
                state.values.get(part) if isinstance(part, torch.fx.Node) else part
                for part in (outputs if isinstance(outputs, tuple | list) else [outputs])
            ]
    raise AssertionError("an exported program has an output")


def _label(node: torch.fx.Node, state: Walk) -> Any:
    """Label the result of one operation."""
    call = _call(node, state)
    inputs = [call.value(argument) for argument in node.all_input_nodes]
    if not any(isinstance(value, Activation | Unfollowed | list) for value in inputs):
        return _computed(call, inputs)
    mark = state.builder.mark()
    try:
        result = _handled(call, inputs)
        if len(state.builder.mixed) > mark["mixed"]:
            state.builder.mixing[node] = _mixing(call, result)
    except (TraceError, RuntimeError, IndexError, ValueError, TypeError) as error:
        state.builder.back_to(mark)
        text = str(error).splitlines()[0].removesuffix(".")
        reason = text if isinstance(error, TraceError) else f"{call.name}: {text}"
        result = _unfollowed(call, inputs, reason)
    _write_through(call, result)
    return result


def _computed(call: Call, inputs: list[Any]) -> Any:
    """Follow parameters; where that goes too far, they stay whole."""
    result = computed(call)
    if result is None and call.node.meta.get("val") is not None:  # not an assertion
        _keep(call, inputs)
    return replace(result, node=call.node) if isinstance(result, Parameter) else result


def _mixing(call: Call, result: Any) -> Mixing:
    """What is known of an operation that puts neurons together."""
    inputs = {
        source: value.all_labels
        for source in call.node.all_input_nodes
        if isinstance(value := call.value(source), Activation)
    }
    value = call.node.meta["val"]
    values = value if isinstance(value, tuple | list) else [value]
    results = result if isinstance(result, list) else [result]
    return Mixing(
        inputs=inputs,
        results=tuple(part.all_labels for part in results),
        shapes=tuple(part.shape for part in values),
    )


def _call(node: torch.fx.Node, state: Walk) -> Call:
    return Call(
        builder=state.builder,
        node=node,
        operator=str(node.target).removeprefix("aten."),
        module=Call.module_of(node),
        values=state.values,
        constant=state.constants,
    )


def _handled(call: Call, inputs: list[Any]) -> Any:
    """Let the operator's handler label the result."""
    plain = call.operator.replace("_.", ".")  # in place or not is all the same
    if isinstance(call.value(call.argument(0)), Unfollowed) and plain in READERS:
        _give_neurons(call, READERS[plain])
        inputs = [call.value(argument) for argument in call.node.all_input_nodes]
    if any(isinstance(value, Unfollowed) for value in inputs):
        return _beside_unfollowed(call, inputs)
    handler = OPERATORS.get(call.operator) or OPERATORS.get(plain)
    if handler is None and all(_belongs_to_nobody(value) for value in inputs):
        return _nobodies(call.node.meta["val"])
    if handler is None:
        raise TraceError(f"{call.name} is not supported: {call.where}")
    observe(call)
    return handler(call)


def _belongs_to_nobody(value: Any) -> bool:
    """Whether an operand is a constant, or a tensor such as a mask of tokens."""
    if isinstance(value, list):
        return all(_belongs_to_nobody(part) for part in value)
    if isinstance(value, Activation):
        return all(is_nobody(labels) for labels in value.all_labels)
    return value is None or isinstance(value, torch.Tensor)


def _nobodies(value: Any) -> Any:
    """Label the results of an operation on tensors that belong to no neuron."""
    if isinstance(value, tuple | list):
        return [_nobodies(part) for part in value]
    return nobody(value.dim()) if isinstance(value, torch.Tensor) else None


def _give_neurons(call: Call, dim: int) -> None:
    """What a layer reads of a tensor that was not followed are new neurons, all of which stay."""
    shape = call.shape_of(call.argument(0))
    _, nodes = call.builder.new_group(f"{call.module}.input".lstrip("."), shape[dim])
    call.builder.fix(nodes)
    laid = [1] * len(shape)
    laid[dim] = -1
    call.values[call.node.args[0]] = Activation(nodes.reshape(laid))  # type: ignore[index]


def _beside_unfollowed(call: Call, inputs: list[Any]) -> Any:
    """Keep whatever meets a tensor that was not followed; it stays known in its own shape."""
    _keep(call, inputs)
    followed = [
        call.value(node)
        for node in call.node.all_input_nodes
        if isinstance(call.value(node), Activation)
        and call.shape_of(node) == call.shape_of(call.node)
    ]
    if len(followed) == 1 and call.operator.replace("_.", ".") in ELEMENTWISE:
        return Activation(followed[0].labels, None, followed[0].partners)
    return Unfollowed()


ELEMENTWISE = {"add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "where.self"}
"""Operations whose result belongs to the neurons of an operand of its shape."""


def _unfollowed(call: Call, inputs: list[Any], reason: str) -> Unfollowed:
    """Keep all neurons and parameters that go into an operation."""
    _keep(call, inputs)
    call.builder.unfollowed.append(reason)
    return Unfollowed()


def _keep(call: Call, inputs: list[Any]) -> None:
    for value in inputs:
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Activation):
                for labels in part.all_labels:
                    call.builder.fix(labels)
            elif isinstance(part, Parameter):
                call.builder.whole |= {part.name, *(p.name for p in part.companions)}
            elif isinstance(part, Joined):
                call.builder.whole |= {p.name for p, _ in part.parts if p is not None}


def _same_memory(node: torch.fx.Node) -> list[torch.fx.Node] | None:
    """Return the names of a tensor that is written to; None where views of it may be read."""
    same = [node]
    while _in_place(same[-1]) and isinstance(base := same[-1].args[0], torch.fx.Node):
        same.append(base)
    users = {user for name in same for user in name.users if not _in_place(user)}
    if not _own_memory(same[-1]) or not all(map(_own_memory, users)):
        return None
    return same


def _in_place(node: torch.fx.Node) -> bool:
    """Whether the result of an operation, in evaluation mode, is its first operand itself."""
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    return name.endswith("_") or name == "dropout"


def _own_memory(node: torch.fx.Node) -> bool:
    """Whether the result of an operation is a new tensor."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.op == "output"
    return all(value.alias_info is None for value in node.target._schema.returns)


def _write_through(call: Call, result: Any) -> None:
    """What is written into a part of a tensor changes the tensor."""
    name = call.operator.partition(".")[0]
    node = call.argument(0)
    if not name.endswith("_") or not isinstance(node, torch.fx.Node):
        return
    old = call.value(node)
    if isinstance(old, Activation) and isinstance(result, Activation):
        if torch.equal(old.labels, result.labels):
            return
        if (same := _same_memory(node)) is not None:
            call.values.update(dict.fromkeys(same, result))
            return
        call.builder.fix(result.labels)
    while str(node.target).removeprefix("aten.") in MOVES:
        base = node.args[0]
        if not isinstance(base, torch.fx.Node):
            return
        _keep(call, [call.value(base)])
        call.values[base] = Unfollowed()
        node = base
    if node is call.node.args[0] and name == "copy_":
        call.values[node] = result
