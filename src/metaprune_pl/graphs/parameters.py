"""Operations in which only parameters and constants take part.

What a layer uses may be computed from them.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import Joined, Parameter, Statistic, shrink
from metaprune_pl.graphs.moves import MOVES, rerun

_LIKE = {"reshape_as.default", "view_as.default"}
_LOOKUPS = {"index.Tensor", "embedding.default"}
_ELEMENTWISE = frozenset(
    (
        "add.Tensor sub.Tensor rsub.Scalar mul.Tensor div.Tensor neg.default exp.default "
        "sqrt.default rsqrt.default "
        "pow.Tensor_Scalar abs.default tanh.default sigmoid.default softplus.default relu.default "
        "softmax.int "
        "clamp.default clamp_min.default clone.default contiguous.default detach.default "
        "alias.default to.dtype "
        "_to_copy.default to.device to.dtype_layout type_as.default expand_as.default "
        "batch_norm.default mul.Scalar "
        "div.Scalar add.Scalar maximum.default minimum.default log.default"
    ).split()
)
"""Operations whose result has an element for each element of their largest operand."""
_STATISTICS = frozenset(
    (
        "mean.dim mean.default sum.dim_IntList var.correction var.dim var.default std.correction "
        "std.dim var_mean.dim "
        "var_mean.correction linalg_vector_norm.default norm.ScalarOpt_dim amax.default"
    ).split()
)


_SPLITS = {"chunk.default", "split.Tensor", "split_with_sizes.default", "tensor_split.sections"}


def _apart(call: Call, joined: Joined) -> tuple[Parameter | None, ...] | None:
    """The parts of joined parameters, where they are split as they were joined."""
    sizes = [len(part) for part in call.node.meta["val"]]
    whole = all(p is None or p.elements.numel() == n for p, n in joined.parts)
    if not whole or sizes != [n for _, n in joined.parts]:
        return None
    return tuple(part for part, _ in joined.parts)


def computed(call: Call) -> Any:
    """Return what an operation makes of parameters.

    None is a constant, or more than is followed here.
    """
    operands = [call.value(node) for node in call.node.all_input_nodes]
    parameters = [value for value in operands if isinstance(value, Parameter)]
    first = call.value(call.argument(0))
    if call.operator == "<built-in function getitem>":
        if isinstance(first, tuple):
            return first[call.node.args[1]]  # type: ignore[index]
        return first if isinstance(first, Statistic) else None
    if call.operator == "_weight_norm.default":
        return _of_length(call)
    if isinstance(first, Joined) and call.operator in _SPLITS:
        return _apart(call, first)
    if call.operator == "cat.default":
        return _together(call) or _joined(call)
    if call.operator in _STATISTICS and (
        parameters or any(isinstance(value, Statistic) for value in operands)
    ):
        return Statistic()
    if isinstance(first, Parameter) and call.operator in MOVES | _LIKE | _LOOKUPS:
        return _moved(call, first)
    if isinstance(first, Parameter) and "upsample_" in call.operator:
        return _resized(call, first)
    if parameters and (
        call.operator in _ELEMENTWISE or call.operator.replace("_.", ".") in _ELEMENTWISE
    ):
        return _elementwise(call, parameters, operands)
    return (
        Statistic()
        if not parameters and any(isinstance(value, Statistic) for value in operands)
        else None
    )


def _moved(call: Call, parameter: Parameter) -> Parameter | tuple[Parameter, ...] | None:
    """A parameter whose elements change places, perhaps in several parts."""

    def move(elements: Tensor) -> Any:
        if call.operator in _LIKE:
            return elements.reshape(call.shape_of(call.node))
        if call.operator == "embedding.default":
            rows = call.constant(call.argument(1))
            return None if rows is None else elements[rows]
        if call.operator == "index.Tensor":
            places = call.places()
            return None if places is None else torch.ops.aten.index.Tensor(elements, places)
        return rerun(call, elements)

    result = move(parameter.elements)
    if isinstance(result, tuple | list) and not parameter.companions:
        return tuple(replace(parameter, moved=part) for part in result)
    if not isinstance(result, Tensor):
        return None
    shape = parameter.elements.shape
    companions = tuple(
        Parameter(
            companion.name,
            companion.shape,
            shrink(move(companion.elements.expand(shape))),
        )
        for companion in parameter.companions
    )
    return replace(parameter, moved=result, companions=companions)


def _resized(call: Call, parameter: Parameter) -> Parameter | None:
    """A table of places for another size of images: each channel stands for itself."""
    if parameter.companions:
        return None
    shape = call.shape_of(call.node)
    first = parameter.elements.flatten(2)[:, :, 0]
    laid = first.reshape(*first.shape, *[1] * (len(shape) - 2))
    return replace(parameter, moved=laid.expand(shape))


def _elementwise(call: Call, parameters: list[Parameter], operands: list[Any]) -> Parameter | None:
    """The largest operand, a layer's own weight among equals, with the others beside it."""
    shape = call.shape_of(call.node)
    main = max(parameters, key=lambda p: (p.elements.numel(), p.name.endswith(".weight")))
    if main.elements.numel() != shape.numel():
        return None
    others = [parameter for parameter in parameters if parameter is not main]
    normalized = any(value.normalized for value in parameters) or any(
        isinstance(value, Statistic) for value in operands
    )
    norm = main.norm
    if call.operator == "batch_norm.default":
        norm = None if normalized else (call.node, main.elements)
        normalized = True
        channel = [
            1,
            -1,
            *[1] * (len(shape) - 2),
        ]  # a norm's parameters belong to the second dimension
        others = [
            Parameter(p.name, p.shape, p.elements.reshape(channel), p.companions) for p in others
        ]
    flat = [
        *main.companions,
        *others,
        *(companion for other in others for companion in other.companions),
    ]
    elements = main.elements.reshape(shape)
    companions = []
    for parameter in flat:
        indices = parameter.elements
        if indices.dim() > len(shape) or any(
            size not in (1, extent)
            for size, extent in zip(reversed(indices.shape), reversed(shape), strict=False)
        ):
            return None
        indices = indices.reshape([1] * (len(shape) - indices.dim()) + list(indices.shape))
        companions.append(Parameter(parameter.name, parameter.shape, indices))
    return replace(
        main,
        moved=elements,
        companions=tuple(companions),
        normalized=normalized,
        norm=norm,
    )


def _of_length(call: Call) -> Parameter | None:
    """A parameter each row of which is given a length (Salimans and Kingma, 2016, equation 2)."""
    direction, length = (call.value(call.argument(index)) for index in (0, 1))
    if not isinstance(direction, Parameter) or not isinstance(length, Parameter):
        return None
    if call.argument(2, 0) != 0 or direction.companions or direction.moved is not None:
        return None
    return replace(direction, companions=(length,), gain=length.name)


def _together(call: Call) -> Parameter | None:
    """Parts of one parameter side by side again."""
    parts = [call.value(part) for part in call.argument(0)]
    first = parts[0]
    if not isinstance(first, Parameter) or any(
        not isinstance(part, Parameter) or part.name != first.name or part.companions
        for part in parts
    ):
        return None
    return replace(first, moved=torch.cat([part.elements for part in parts], call.argument(1, 0)))


def _joined(call: Call) -> Joined | None:
    """Vectors side by side."""
    parts = call.argument(0)
    if any(len(call.shape_of(part)) != 1 for part in parts):
        return None
    values = [call.value(part) for part in parts]
    if not any(isinstance(value, Parameter) for value in values):
        return None
    if any(isinstance(value, Joined) for value in values):
        return None
    return Joined(
        tuple(
            (value if isinstance(value, Parameter) else None, call.shape_of(part)[0])
            for value, part in zip(values, parts, strict=True)
        )
    )
