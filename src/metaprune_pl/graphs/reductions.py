"""Means, sums and pooling over places, branches or channels."""

import torch
from torch import Tensor

from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import NOBODY, Activation, varying


def spatial(call: Call) -> Activation:
    """Mixes places of a feature map [B, C, ...], each channel by itself."""
    x = call.activation()
    call.neurons(x, 1)
    return x


def reduce(call: Call) -> Activation:
    """Mean, sum or the like over some dimensions."""
    x = call.activation()
    rank = x.labels.dim()
    dims = call.argument(1)
    reduced = {
        dim % rank for dim in ([dims] if isinstance(dims, int) else list(dims or range(rank)))
    }
    labels, owner = x.labels, x.owner
    over = varying(labels) & reduced
    rest = varying(labels) - reduced
    if over and rest and max(over) < min(rest) and call.operator.startswith(("sum", "mean")):
        labels, owner = sum_of_parts(call, labels, sorted(over)), None
    elif over:  # over channels: the result belongs to none of them
        call.builder.mixed.append(labels[labels != NOBODY])
        labels, owner = torch.full([1] * rank, NOBODY), None
    partners = []
    for part in x.partners:
        if varying(part) & reduced:
            call.builder.mixed.append(part[part != NOBODY])
        else:
            partners.append(part)
    result = call.node.meta["val"]
    if (result[0] if isinstance(result, tuple | list) else result).dim() < rank:  # keepdim is off
        labels, *partners = (part.squeeze(sorted(reduced)) for part in (labels, *partners))
    return Activation(labels, owner, tuple(partners))


def sum_of_parts(call: Call, labels: Tensor, over: list[int]) -> Tensor:
    """Branches that were stacked are added up: an addition of several activations."""
    kept = [dim for dim in range(labels.dim()) if dim not in over]
    branches = labels.permute(*over, *kept).flatten(0, len(over) - 1).flatten(1)
    builder = call.builder
    _, target = builder.new_group(
        f"{call.module}.sum".lstrip("."), branches.shape[1], depth=builder.depth(labels.flatten())
    )
    for branch in branches:
        builder.connect_identity(call.module, branch, target)
    return target.reshape([1 if dim in over else labels.shape[dim] for dim in range(labels.dim())])


def several(call: Call) -> list[Activation]:
    """A reduction with two results."""
    result = reduce(call)
    return [result, result]
