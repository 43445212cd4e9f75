"""Which parameters to scale so that the queries of an attention are scaled."""

from typing import Any

import torch
from torch import Tensor

from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.constraints import AttentionScale
from metaprune_pl.graphs.labels import Activation, Joined, Parameter
from metaprune_pl.graphs.moves import MOVES

Rows = dict[str, Tensor]
"""Name of a parameter to the rows of it that are scaled."""
_LINEAR = {
    *MOVES,
    "<built-in function getitem>",
    "clone.default",
    "contiguous.default",
    "neg.default",
    "to.dtype",
    "_to_copy.default",
    "mul.Scalar",
    "div.Scalar",
    "dropout.default",
    "type_as.default",
}
"""Operations of one tensor that pass a factor on."""
_LAYERS = {
    "linear.default": (1, 2),
    "conv1d.default": (1, 2),
    "conv2d.default": (1, 2),
}
_NORMS = {
    "layer_norm.default": (2, 3),
    "rms_norm.default": (2,),
    "batch_norm.default": (1, 2),
}
"""Operations with a weight and a bias, and where these stand among the arguments."""


def note_scale(call: Call, queries: Tensor, keys: Tensor) -> None:
    """Note the scale of attention that divides by the root of its width, which pruning changes.

    Where nothing can make up for that, the width stays.
    """
    if call.node.kwargs.get("scale") is not None:
        return
    width = call.shape_of(call.argument(0))[-1]
    rows = queries.reshape(-1, width) if queries.shape[-1] == width else queries.reshape(1, -1)
    own: Rows = {}
    if _collect(call, call.argument(0), queries, own, 1):
        scale = AttentionScale(module=call.module, nodes=rows, rows=own)
        call.builder.scales.append(scale)
        return
    shared: Rows = {}
    of_keys: Rows = {}
    both = _collect(
        call,
        call.argument(0),
        queries,
        shared,
        2,
    )
    if (
        both
        and _collect(call, call.argument(1), keys, of_keys, 2)
        and shared.keys() == of_keys.keys()
    ):
        scale = AttentionScale(
            module=call.module,
            nodes=rows,
            rows=shared,
            power=0.5,
        )
        call.builder.scales.append(scale)
        return
    call.builder.fix(queries)
    call.builder.fix(keys)


def _collect(
    call: Call,
    node: Any,
    queries: Tensor,
    rows: Rows,
    users: int,
) -> bool:
    if not isinstance(node, torch.fx.Node) or node.op != "call_function":
        return False
    name = str(node.target).removeprefix("aten.")
    if name in _LAYERS or name in _NORMS:
        places = _LAYERS.get(name) or _NORMS[name]
        return _collect_layer(
            call,
            node,
            queries,
            rows,
            places,
            users,
        )
    if name in _LINEAR:
        first: Any = node.args[0]
        parts = list(first) if isinstance(first, list | tuple) else [first]
        return all(
            _collect(call, part, _before(call, node, part, queries), rows, users) for part in parts
        )
    operands = [part for part in node.all_input_nodes if isinstance(call.value(part), Activation)]
    factor = name == "mul.Tensor" or (name == "div.Tensor" and operands == [node.args[0]])
    if not (factor and len(operands) == 1) and not (
        name in {"add.Tensor", "sub.Tensor"} and len(operands) == 2
    ):
        return False
    return all(
        _collect(call, part, _before(call, node, part, queries), rows, users) for part in operands
    )


def _before(call: Call, node: torch.fx.Node, part: Any, queries: Tensor) -> Tensor:
    """Nodes of an operand that become the queries: a sum has nodes of its own."""
    result, operand = call.value(node), call.value(part)
    joins = str(node.target).removeprefix("aten.") in {"add.Tensor", "sub.Tensor", "cat.default"}
    if not joins or not isinstance(result, Activation) or not isinstance(operand, Activation):
        return queries
    if result.labels.shape != operand.labels.shape:
        return queries
    return operand.labels[torch.isin(result.labels, queries)]


def note_possible_scale(call: Call, node: Any, queries: Tensor) -> None:
    """Attention that is written out may divide by its width: pruning finds out by trial."""
    own: Rows = {}
    if queries.dim() == 2 and _collect(call, node, queries, own, 1):
        scale = AttentionScale(
            module=call.module,
            nodes=queries,
            rows=own,
            certain=False,
        )
        call.builder.scales.append(scale)


def _collect_layer(
    call: Call,
    node: torch.fx.Node,
    queries: Tensor,
    rows: Rows,
    places: tuple[int, ...],
    users: int,
) -> bool:
    value = call.value(node)
    given = [node.args[position] for position in places if len(node.args) > position]
    parameters = [call.value(part) for part in given if part is not None]
    if not parameters or not isinstance(value, Activation):
        return False
    axis = (
        1
        if str(node.target).removeprefix("aten.")
        in {"conv1d.default", "conv2d.default", "batch_norm.default"}
        else -1
    )
    along = value.labels.movedim(axis, -1).reshape(-1, value.labels.shape[axis])
    ours = torch.isin(along, queries)
    chosen = ours.any(0)
    if bool((ours != chosen).any()):
        return False
    if any(
        not isinstance(part, torch.fx.Node) or len(part.users) > users for part in given if part
    ):
        return False
    return all(
        _add_rows(
            parameter,
            chosen,
            rows,
        )
        for parameter in parameters
    )


def _add_rows(parameter: Any, chosen: Tensor, rows: Rows) -> bool:
    """Note the rows of one parameter, or of several side by side."""
    if isinstance(parameter, Joined):
        first = 0
        for part, size in parameter.parts:
            if part is not None and not _add_rows(part, chosen[first : first + size], rows):
                return False
            first += size
        return True
    if not isinstance(parameter, Parameter) or parameter.companions:
        return False
    if not parameter.in_order or parameter.shape[0] != len(chosen):
        return False
    rows[parameter.name] = chosen.nonzero().flatten()
    return True
