"""Products of activations and parameters, written out as matrices or einsum."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.constraints import Product
from metaprune_pl.graphs.labels import NOBODY, Activation, Parameter, is_nobody, nobody, varying
from metaprune_pl.graphs.scales import note_possible_scale
from metaprune_pl.graphs.weight_graph import Connection


def matmul(call: Call) -> Activation:
    """Batched product of matrices [..., i, k] and [..., k, j]."""
    left, right = (len(call.shape_of(call.argument(index))) for index in (0, 1))
    if min(left, right) < 2:
        raise TraceError(f"{call.name} of a vector is not supported: {call.where}")
    letters = "abcdefgh"
    batch = letters[: max(left, right) - 2]
    return _contract(
        call,
        batch[len(batch) - left + 2 :] + "ik",
        batch[len(batch) - right + 2 :] + "kj",
        batch + "ij",
    )


def einsum(call: Call) -> Activation:
    """A product of two tensors by its equation."""
    inputs, output = str(call.node.args[0]).replace(" ", "").split("->")
    if "..." in inputs:
        raise TraceError(f"{call.name} with an ellipsis is not supported: {call.where}")
    if "," not in inputs:
        return _one(call, inputs, output)
    if inputs.count(",") != 1:
        raise TraceError(f"{call.name} of more than two tensors is not supported: {call.where}")
    left, right = inputs.split(",")
    return _contract(
        call,
        left,
        right,
        output,
        operands=call.node.args[1],
    )


def _one(call: Call, letters: str, output: str) -> Activation:
    """A sum over some dimensions and a permutation of the others."""
    operands: Any = call.node.args[1]
    x = call.activation_of(operands[0])
    if x is None or len(set(letters)) < len(letters):
        raise TraceError(f"{call.name} of a diagonal is not supported: {call.where}")
    summed = [dim for dim, letter in enumerate(letters) if letter not in output]
    order = [letters.index(letter) for letter in output]
    laid = []
    for labels in x.all_labels:
        if varying(labels) & set(summed):
            call.builder.mixed.append(labels[labels != NOBODY])
            labels = torch.full_like(labels[..., :1].flatten()[:1], NOBODY)
            laid.append(labels.reshape([1] * len(output)))
        else:
            laid.append(labels.permute(*order, *summed).reshape([labels.shape[d] for d in order]))
    return Activation(laid[0], None, tuple(laid[1:]))


def added_product(call: Call) -> Activation:
    """A product of matrices that something is added to: a layer whose bias that is."""
    letters = ("ik", "kj", "ij") if call.operator.startswith("addmm") else ("bik", "bkj", "bij")
    operands = [call.argument(1), call.argument(2)]
    bias = call.value(call.argument(0))
    if isinstance(bias, Activation):
        raise TraceError(f"{call.name} adds an activation: {call.where}")
    result = _contract(call, *letters, operands=operands)
    if isinstance(bias, Parameter):
        owner = None if result.owner is None else call.builder.group(result.owner)
        if owner is not None and bias.moved is None and bias.shape == (owner.size,):
            owner.slots["bias"] = bias.name
        elif math.prod(bias.shape) > 1:
            shape = call.shape_of(call.node)
            elements = bias.elements.expand(shape)
            call.builder.follow(
                bias.name,
                bias.shape,
                elements,
                result.labels.expand(shape),
            )
    return result


@dataclass(frozen=True, eq=False)
class _Factor:
    """One labelling of an operand: labels, a letter for each dimension, and the operand's index."""

    labels: Tensor
    letters: str
    operand: int

    @property
    def varies(self) -> set[str]:
        return {self.letters[dim] for dim in varying(self.labels)}


def _contract(
    call: Call,
    left: str,
    right: str,
    output: str,
    operands: object = None,
) -> Activation:
    arguments = (
        list(operands)
        if isinstance(operands, list | tuple)
        else [call.argument(0), call.argument(1)]
    )
    size = _extents(call, arguments, (left, right))
    if (layer := _layer(call, arguments, (left, right), output, size)) is not None:
        return layer
    factors = _factors(call, arguments, (left, right))
    for argument, letters in zip(arguments, (left, right), strict=True):
        value = call.value(argument)
        if not isinstance(value, Activation):
            for factor in factors:
                _meets_constant(call, factor, value, letters, call.shape_of(argument), size)
    summed = (set(left) | set(right)) - set(output)
    consumed = [factor for factor in factors if factor.varies & summed]
    kept = [factor for factor in factors if not factor.varies & summed]
    for factor in consumed:  # scores: what neurons say to each other
        call.builder.mixed.append(factor.labels.flatten())
    _note_scores(call, arguments, consumed, kept, summed, size)
    if main := (consumed or kept)[:1]:
        nodes = main[0].labels.flatten()
        work = math.prod(size.values())
        call.builder.products.append(Product(nodes=nodes, positions=work // len(nodes)))
    if summed and not consumed and len(kept) == 1:
        values = kept[0].labels
        if values.numel() > values.shape[-1] > 1:
            call.builder.attend(call.module, values.numel() // values.shape[-1], values.flatten())
            call.builder.equals += call.builder.as_wide_as_input(values.flatten())
    return _product(call, kept, output)


def _extents(call: Call, arguments: list[Any], letters: tuple[str, str]) -> dict[str, int]:
    """Length of the dimension of each letter."""
    size: dict[str, int] = {}
    for argument, own in zip(arguments, letters, strict=True):
        for letter, extent in zip(own, call.shape_of(argument), strict=True):
            size[letter] = max(extent, size.get(letter, 1))
    return size


def _factors(call: Call, arguments: list[Any], letters: tuple[str, str]) -> list[_Factor]:
    """All labellings of both operands that belong to neurons."""
    return [
        _Factor(labels, own, index)
        for index, (argument, own) in enumerate(zip(arguments, letters, strict=True))
        if isinstance(value := call.value(argument), Activation)
        for labels in value.all_labels
        if not is_nobody(labels)
    ]


def _note_scores(
    call: Call,
    arguments: list[Any],
    consumed: list[_Factor],
    kept: list[_Factor],
    summed: set[str],
    size: dict[str, int],
) -> None:
    """Neurons of queries and keys that are multiplied go together."""
    pairs = [(a, b) for a in consumed for b in consumed if a.operand < b.operand]
    for one, other in pairs:
        both = one.varies & other.varies
        if not both & summed:
            continue
        shared = [x for x in dict.fromkeys(one.letters + other.letters) if x in both]
        rows = [
            _aligned(one.labels, one.letters, shared, size),
            _aligned(other.labels, other.letters, shared, size),
        ]
        call.builder.tie(torch.stack(rows))
        call.builder.equals += call.builder.as_wide_as_input(rows[0])
        if not kept:
            heads = math.prod(size[letter] for letter in shared if letter not in summed)
            call.builder.attend(call.module, heads, *rows)
            queries = rows[0].reshape(heads, -1)
            note_possible_scale(call, arguments[one.operand], queries)


def _product(call: Call, kept: list[_Factor], output: str) -> Activation:
    """The result of a product belongs to the neurons that were not summed over."""
    laid = []
    for factor in kept:
        order = [factor.letters.index(letter) for letter in output if letter in factor.letters]
        rest = [index for index in range(len(factor.letters)) if index not in order]
        sizes = [
            factor.labels.shape[factor.letters.index(x)] if x in factor.letters else 1
            for x in output
        ]
        laid.append(factor.labels.permute(*order, *rest).reshape(sizes))
    if not laid:
        return nobody(len(output))
    for part in laid[1:]:
        if part.shape == laid[0].shape:  # channel by channel
            call.builder.tie(torch.stack([laid[0].flatten(), part.flatten()]))
    partners = tuple(part for part in laid[1:] if part.shape != laid[0].shape)
    if partners:
        call.builder.mixed += [part.flatten() for part in laid]
    return Activation(laid[0], None, partners)


def _layer(
    call: Call,
    arguments: list[Any],
    letters: tuple[str, str],
    output: str,
    size: dict[str, int],
) -> Activation | None:
    """A product with a parameter that reads channels and gives others is a linear layer."""
    values = [call.value(argument) for argument in arguments]
    index = next((i for i, value in enumerate(values) if isinstance(value, Parameter)), None)
    if index is None or not isinstance(x := values[1 - index], Activation):
        return None
    weight: Parameter = values[index]
    own = letters[index]
    read = letters[1 - index]
    wide = [letter for letter in own if size[letter] > 1]
    inner = [letter for letter in wide if letter in read and letter not in output]
    outer = [letter for letter in wide if letter in output and letter not in read]
    if len(wide) != 2 or len(inner) != 1 or len(outer) != 1 or x.partners or weight.companions:
        return None
    if varying(x.labels) != {read.index(inner[0])} or bool((x.labels == NOBODY).any()):
        return None
    elements = weight.elements.squeeze()
    if [letter for letter in own if letter in wide] == [*inner, *outer]:
        elements = elements.t()
    inputs_first = _in_order(elements.t())
    if not inputs_first and not _in_order(elements):
        return None
    source = x.labels.flatten()
    positions = math.prod(size.values()) // elements.numel()
    shape = [-1 if letter in outer else 1 for letter in output]
    if (known := call.again(weight, source, positions)) is not None:
        return Activation(known.reshape(shape))
    owner, target = call.produce(elements.shape[0], source, weight, None)
    call.builder.connect(
        Connection(
            name=call.module,
            parameter=weight.name,
            target=target[None],
            source=source[None],
            positions=positions,
            inputs_first=inputs_first,
        )
    )
    return Activation(target.reshape(shape), owner)


def _in_order(elements: Tensor) -> bool:
    """Whether elements are those of a parameter as it is stored."""
    return torch.equal(elements.flatten(), torch.arange(elements.numel()))


def _meets_constant(
    call: Call,
    factor: _Factor,
    value: object,
    letters: str,
    shape: torch.Size,
    size: dict[str, int],
) -> None:
    """A parameter or constant is as wide as the neurons that it is multiplied with."""
    wide = {letter for letter, extent in zip(letters, shape, strict=True) if extent > 1}
    if not wide & factor.varies:
        return
    if not isinstance(value, Parameter):
        call.builder.fix(factor.labels)
        return
    union = list(dict.fromkeys(factor.letters + letters))
    union = [letter for letter in union if letter in wide | factor.varies]
    sizes = [size[letter] for letter in union]
    nodes = _aligned(
        factor.labels,
        factor.letters,
        union,
        size,
    )
    index = _aligned(
        value.elements,
        letters,
        union,
        size,
    )
    call.builder.follow(
        value.name,
        value.shape,
        index.reshape(sizes),
        nodes.reshape(sizes),
    )


def _aligned(
    labels: Tensor,
    letters: str,
    shared: list[str],
    size: dict[str, int],
) -> Tensor:
    """Lay out labels by the shared letters and flatten them."""
    rest = [index for index, letter in enumerate(letters) if letter not in shared]
    order = [letters.index(letter) for letter in shared if letter in letters]
    laid = (
        labels.permute(*order, *rest).flatten(len(order))[..., 0]
        if rest
        else labels.permute(*order)
    )
    sizes = [laid.shape[order.index(letters.index(x))] if x in letters else 1 for x in shared]
    return laid.reshape(sizes).expand([size[letter] for letter in shared]).flatten()
