"""Products of activations: attention, whole or written out as two products, and what it needs beside them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import NOBODY, Activation, Parameter, is_nobody, nobody, varying
from metaprune_pl.graphs.weight_graph import Product


def attention(call: Call) -> Activation:
    """Scaled dot-product attention of queries and keys of equal width [B, heads, tokens, head width], and values."""
    query, key, value = (call.activation(index) for index in range(3))
    nodes = [part.labels.flatten() for part in (query, key, value)]
    if len(nodes[0]) != len(nodes[1]):
        raise TraceError(
            f"attention of queries and keys of other widths is not supported: {call.where}."
        )
    call.builder.tie(torch.stack(nodes[:2]))
    call.builder.mixed += nodes[:2]
    if len(nodes[2]) == len(nodes[0]):
        call.builder.tie(torch.stack(nodes))
        call.builder.heads.append((nodes[0], nodes[1], nodes[2]))
        call.builder.attend(call.module, nodes[0].numel() // query.labels.shape[-1], *nodes)
        _may_equal_input(call, nodes[0])
    tokens = call.shape_of(call.argument(1))[-2]
    for part, place in zip((query, value), (0, 2), strict=True):
        places = call.shape_of(call.argument(0)).numel() // call.shape_of(call.argument(0))[-1]
        width = call.shape_of(call.argument(place))[-1]
        work = places * tokens * width
        call.builder.products.append(
            Product(nodes=part.labels.flatten(), positions=work // part.labels.numel())
        )
    return Activation(value.labels, None, value.partners)


def _may_equal_input(call: Call, queries: Tensor) -> None:
    """Note where attention is as wide as what it reads.

    Some forward passes count on it, others do not.
    """
    for connection in call.builder.connections:
        if connection.parameter is not None and connection.source.numel() == len(queries):
            if bool(torch.isin(queries, connection.target).all()):
                call.builder.equals.append(torch.stack([connection.source.flatten(), queries]))


def matmul(call: Call) -> Activation:
    """Batched product of matrices [..., i, k] and [..., k, j]."""
    left, right = (len(call.shape_of(call.argument(index))) for index in (0, 1))
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
    if inputs.count(",") != 1:
        raise TraceError(
            f"operator 'aten.{call.operator}' of other than two tensors is not supported: "
            f"{call.where}."
        )
    left, right = inputs.split(",")
    return _contract(call, left, right, output, operands=call.node.args[1])


@dataclass(frozen=True, eq=False)
class _Factor:
    """One labelling of one operand: labels with a letter for each dimension, and which operand it is."""

    labels: Tensor
    letters: str
    operand: int

    @property
    def varies(self) -> set[str]:
        return {self.letters[dim] for dim in varying(self.labels)}


def _contract(
    call: Call, left: str, right: str, output: str, operands: object = None
) -> Activation:
    arguments = (
        list(operands)
        if isinstance(operands, list | tuple)
        else [call.argument(0), call.argument(1)]
    )
    size: dict[str, int] = {}
    factors: list[_Factor] = []
    for number, (argument, letters) in enumerate(zip(arguments, (left, right), strict=True)):
        for letter, extent in zip(letters, call.shape_of(argument), strict=True):
            size[letter] = max(extent, size.get(letter, 1))
        if isinstance(value := call.value(argument), Activation):
            factors += [
                _Factor(labels, letters, number)
                for labels in value.all_labels
                if not is_nobody(labels)
            ]
    summed = (set(left) | set(right)) - set(output)
    work = math.prod(size.values())
    for argument, letters in zip(arguments, (left, right), strict=True):
        value = call.value(argument)
        if not isinstance(value, Activation):
            for factor in factors:
                _meets_constant(call, factor, value, letters, call.shape_of(argument), size)
    consumed = [factor for factor in factors if factor.varies & summed]
    kept = [factor for factor in factors if not factor.varies & summed]
    for factor in consumed:  # scores: what neurons say to each other
        call.builder.mixed.append(factor.labels.flatten())
    for one in consumed:
        for other in consumed:
            if one.operand < other.operand and one.varies & other.varies & summed:
                shared = [x for x in dict.fromkeys(left + right) if x in one.varies & other.varies]
                nodes = torch.stack(
                    [_aligned(f.labels, f.letters, shared, size) for f in (one, other)]
                )
                call.builder.tie(nodes)
                _may_equal_input(call, nodes[0])
                if not kept:
                    heads = math.prod(size[letter] for letter in shared if letter not in summed)
                    call.builder.attend(call.module, heads, *nodes)
    if main := (consumed or kept)[:1]:
        nodes = main[0].labels.flatten()
        call.builder.products.append(Product(nodes=nodes, positions=work // len(nodes)))
    if (
        summed
        and not consumed
        and len(kept) == 1
        and kept[0].labels.numel() > kept[0].labels.shape[-1] > 1
    ):
        values = kept[0].labels
        call.builder.attend(call.module, values.numel() // values.shape[-1], values.flatten())
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
    nodes = _aligned(factor.labels, factor.letters, union, size).reshape([size[x] for x in union])
    index = _aligned(value.elements, letters, union, size).reshape([size[x] for x in union])
    call.builder.follow(value.name, value.shape, index, nodes)


def _aligned(labels: Tensor, letters: str, shared: list[str], size: dict[str, int]) -> Tensor:
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


def constant(call: Call) -> None:
    """A tensor that takes only its shape or type from an activation."""


def normalized(call: Call) -> Activation:
    """Length of vectors of neurons: it mixes them, and belongs to none."""
    x = call.activation()
    call.builder.mixed.append(x.labels.flatten())
    dims = call.argument(2)
    keep = bool(call.argument(3, False))
    rank = x.labels.dim() if keep else x.labels.dim() - len(dims or range(x.labels.dim()))
    return Activation(torch.full([1] * rank, NOBODY))
