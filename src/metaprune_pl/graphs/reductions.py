"""Means, sums and pooling over places, branches or channels."""

import torch
from torch import Tensor

from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import NOBODY, Activation, is_nobody, varying


def spatial(call: Call) -> Activation:
    """Mixes places of a feature map [B, C, ...], each channel by itself."""
    x = as_map(call, call.activation())
    if x.partners or varying(x.labels) - {1}:
        call.neurons(x, 1)
    for node in call.node.all_input_nodes[1:]:  # coordinates to sample at
        other = call.activation_of(node)
        if other is None or other.labels.numel() <= 1:
            continue
        if not torch.equal(other.labels, x.labels):
            call.builder.fix(other.labels)
    return x


def pooled_with_indices(call: Call) -> list[Activation]:
    """Pooling that also tells where the largest value was."""
    x = spatial(call)
    return [x, Activation(x.labels)]


def as_map(call: Call, x: Activation) -> Activation:
    """Count each position of a map with neurons of its own as a channel.

    Such maps come from a linear layer or a pixel shuffle.
    """
    shape = call.shape_of(call.argument(0))
    over = sorted(varying(x.labels) - {0, 1})
    if not over or x.partners or 0 in varying(x.labels) or x.labels.shape[1] != shape[1]:
        return x
    if bool((x.labels == NOBODY).any()):
        return x
    return Activation(sum_of_parts(call, x.labels, over))


def norm(call: Call) -> Activation:
    """Length of vectors: over places, of each channel; over channels, of none."""
    x = call.activation()
    rank = x.labels.dim()
    dims = call.argument(2) or range(rank)
    over = {dim % rank for dim in dims}
    keep = bool(call.argument(3, False))
    laid = []
    for part in x.all_labels:
        labels = part
        if varying(part) & over:
            call.builder.mixed.append(part[part != NOBODY].flatten())
            labels = torch.full([1] * rank, NOBODY)
        laid.append(labels if keep else labels.squeeze(sorted(over)))
    return Activation(laid[0], None, tuple(laid[1:]))


def reduce(call: Call) -> Activation:
    """Mean, sum or the like over some dimensions."""
    x = call.activation()
    rank = x.labels.dim()
    dims = call.argument(1)
    if isinstance(dims, int):
        dims = [dims]
    reduced = {dim % rank for dim in dims or range(rank)}
    labels = x.labels
    owner = x.owner
    over = varying(labels) & reduced
    rest = varying(labels) - reduced
    branches = over and rest and (max(over) < min(rest) or _stacked(call, over))
    if branches and not bool((labels == NOBODY).any()):
        labels = sum_of_parts(call, labels, sorted(over))
        owner = None
    elif over:  # over channels: the result belongs to none of them
        call.builder.mixed.append(labels[labels != NOBODY])
        labels = torch.full([1] * rank, NOBODY)
        owner = None
    partners = []
    for part in x.partners:
        if varying(part) & reduced:
            call.builder.mixed.append(part[part != NOBODY])
        else:
            partners.append(part)
    result = call.node.meta["val"]
    first = result[0] if isinstance(result, tuple | list) else result
    if first.dim() < rank:  # keepdim is off
        labels, *partners = (part.squeeze(sorted(reduced)) for part in (labels, *partners))
    return Activation(labels, owner, tuple(partners))


def _stacked(call: Call, over: set[int]) -> bool:
    """Whether what is reduced are tensors that were stacked just before."""
    node = call.argument(0)
    stacked = str(node.target) == "aten.stack.default"
    rank = len(call.shape_of(node))
    dim = node.args[1] if len(node.args) > 1 else 0
    return stacked and over == {dim % rank}


def sum_of_parts(call: Call, labels: Tensor, over: list[int]) -> Tensor:
    """Branches that were stacked are added up: an addition of several activations."""
    kept = [dim for dim in range(labels.dim()) if dim not in over]
    branches = labels.permute(*over, *kept).flatten(0, len(over) - 1).flatten(1)
    builder = call.builder
    name = f"{call.module}.sum".lstrip(".")
    depth = builder.depth(labels.flatten())
    _, target = builder.new_group(name, branches.shape[1], depth=depth)
    distinct = {tuple(branch.tolist()): branch for branch in branches}  # of a map, each once
    for branch in distinct.values():
        builder.connect_identity(call.module, branch, target)
    shape = [1 if dim in over else size for dim, size in enumerate(labels.shape)]
    return target.reshape(shape)


def index(call: Call) -> Activation:
    """Where the largest value is; among channels it counts on all of them."""
    x = call.activation()
    result = reduce(call)
    if is_nobody(result.labels):
        call.builder.fix(x.labels)
    return result


def several(call: Call) -> list[Activation]:
    """A reduction with two results."""
    result = reduce(call)
    return [result, result]
