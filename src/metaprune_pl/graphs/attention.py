"""Products of activations: attention, whole or written out as two products, and what it needs beside them."""

import math

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import NOBODY, Activation
from metaprune_pl.graphs.weight_graph import Product


def attention(call: Call) -> Activation:
    """Scaled dot-product attention of queries, keys and values of equal width [B, heads, tokens, head width]."""
    query, key, value = (call.activation(index) for index in range(3))
    nodes = [part.labels.flatten() for part in (query, key, value)]
    if len({len(part) for part in nodes}) > 1:
        raise TraceError(f"attention of queries and keys of other widths is not supported: {call.where}.")
    call.builder.tie(torch.stack(nodes))
    call.builder.mixed += nodes[:2]
    call.builder.heads.append((nodes[0], nodes[1], nodes[2]))
    call.builder.attend(call.module, nodes[0].numel() // query.labels.shape[-1], *nodes)
    places = call.shape_of(call.argument(0)).numel() // len(nodes[0])
    tokens = call.shape_of(call.argument(1))[-2]
    call.builder.products += [Product(nodes=part, positions=places * tokens) for part in (nodes[0], nodes[2])]
    _may_equal_input(call, nodes[0])
    return Activation(value.labels)


def _may_equal_input(call: Call, queries: Tensor) -> None:
    """Note where attention is as wide as what it reads: some forward passes count on it, others do not."""
    for connection in call.builder.connections:
        if connection.parameter is not None and connection.source.numel() == len(queries):
            if bool(torch.isin(queries, connection.target).all()):
                call.builder.equals.append(torch.stack([connection.source.flatten(), queries]))


def matmul(call: Call) -> Activation:
    """Batched product of matrices [..., i, k] and [..., k, j]."""
    left, right = (len(call.shape_of(call.argument(index))) for index in (0, 1))
    letters = "abcdefgh"
    batch = letters[: max(left, right) - 2]
    return _contract(call, batch[len(batch) - left + 2 :] + "ik", batch[len(batch) - right + 2 :] + "kj", batch + "ij")


def einsum(call: Call) -> Activation:
    """A product of two tensors by its equation."""
    inputs, output = str(call.node.args[0]).replace(" ", "").split("->")
    left, right = inputs.split(",")
    return _contract(call, left, right, output, operands=call.node.args[1])


def _contract(call: Call, left: str, right: str, output: str, operands: object = None) -> Activation:
    arguments = list(operands) if isinstance(operands, list | tuple) else [call.argument(0), call.argument(1)]
    size: dict[str, int] = {}
    labels: list[Tensor] = []
    for argument, letters in zip(arguments, (left, right), strict=True):
        shape = call.shape_of(argument)
        for letter, extent in zip(letters, shape, strict=True):
            size[letter] = max(extent, size.get(letter, 1))
        value = call.value(argument)
        labels.append(value.labels if isinstance(value, Activation) else torch.full([1] * len(shape), NOBODY))
    work = math.prod(size.values())
    varying = [
        {letter for letter, extent in zip(letters, part.shape, strict=True) if extent > 1}
        for letters, part in zip((left, right), labels, strict=True)
    ]
    summed = (set(left) & set(right)) - set(output)
    none = Activation(torch.full([1] * len(output), NOBODY))
    if summed & varying[0] & varying[1]:  # scores: what the neurons of both say to each other
        shared = [letter for letter in left if letter in varying[0] | varying[1]]
        nodes = torch.stack([_aligned(p, ls, shared, size) for p, ls in zip(labels, (left, right), strict=True)])
        call.builder.tie(nodes)
        heads = math.prod(size[letter] for letter in shared if letter not in summed)
        call.builder.attend(call.module, heads, *nodes)
        _may_equal_input(call, nodes[0])
        call.builder.mixed += [nodes[0], nodes[1]]
        call.builder.products.append(Product(nodes=nodes[0], positions=work // nodes.shape[1]))
        return none
    if (varying[0] and varying[1]) or summed & (varying[0] | varying[1]):
        raise TraceError(f"operator 'aten.{call.operator}' mixes the channels of both tensors: {call.where}.")
    part, letters = (labels[0], left) if varying[0] else (labels[1], right)
    if not varying[0] | varying[1]:
        return none
    call.builder.products.append(Product(nodes=part.flatten(), positions=work // part.numel()))
    if summed and part.numel() > part.shape[-1] > 1:
        call.builder.attend(call.module, part.numel() // part.shape[-1], part.flatten())
    order = [letters.index(letter) for letter in output if letter in letters]
    rest = [index for index in range(len(letters)) if index not in order]
    sizes = [part.shape[letters.index(letter)] if letter in letters else 1 for letter in output]
    return Activation(part.permute(*order, *rest).reshape(sizes))


def _aligned(labels: Tensor, letters: str, shared: list[str], size: dict[str, int]) -> Tensor:
    """Lay out labels by the shared letters and flatten them."""
    rest = [index for index, letter in enumerate(letters) if letter not in shared]
    order = [letters.index(letter) for letter in shared if letter in letters]
    laid = labels.permute(*order, *rest).flatten(len(order))[..., 0] if rest else labels.permute(*order)
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
