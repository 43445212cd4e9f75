"""Fused attention."""

from dataclasses import replace

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.constraints import Product
from metaprune_pl.graphs.labels import Activation
from metaprune_pl.graphs.scales import note_scale


def attention(call: Call) -> Activation:
    """Scaled dot-product attention: queries and keys [B, heads, tokens, width], and values.

    Where keys and values have fewer heads, each stands for several heads of queries.
    """
    query, key, value = (call.activation(index) for index in range(3))
    queries, keys, values = (_heads(call, index) for index in range(3))
    if queries.shape != keys.shape:
        raise TraceError(f"{call.name} of queries and keys of other widths: {call.where}")
    nodes = [part.flatten() for part in (queries, keys, values)]
    builder = call.builder
    builder.tie(torch.stack(nodes[:2]))
    builder.mixed += nodes[:2]
    if len(nodes[2]) == len(nodes[0]):
        builder.tie(torch.stack(nodes))
        heads = nodes[0].numel() // queries.shape[-1]
        builder.attend(call.module, heads, *nodes)
        builder.equals += builder.as_wide_as_input(nodes[0])
        whole = zip((query, key, value), nodes, strict=True)
        if all(x.labels.numel() == part.numel() for x, part in whole):
            builder.heads.append((nodes[0], nodes[1], nodes[2]))
    note_scale(call, queries, keys)
    shape = call.shape_of(call.argument(0))
    tokens = call.shape_of(call.argument(1))[-2]
    places = shape.numel() // shape[-1]
    for part, index in ((nodes[0], 0), (nodes[2], 2)):
        width = call.shape_of(call.argument(index))[-1]
        positions = places * tokens * width // len(part)
        builder.products.append(Product(nodes=part, positions=positions))
    rank = len(call.shape_of(call.node))
    lead = [1] * (rank - values.dim())
    laid = values.reshape(*lead, *values.shape)
    return replace(value, labels=laid, owner=None)


def _heads(call: Call, index: int) -> Tensor:
    """Labels of one operand, with the queries' heads where any operand has several."""
    labels = call.activation(index).labels
    rank = labels.dim()
    if rank < 3:
        return labels
    several = any(call.activation(i).labels.shape[-3] > 1 for i in range(3))
    heads = call.shape_of(call.argument(0))[-3] if several else 1
    own = call.shape_of(call.argument(index))[-3]
    if several and own not in (1, heads):  # grouped queries
        labels = labels.expand(
            *labels.shape[:-3],
            own,
            *labels.shape[-2:],
        )
        return labels.repeat_interleave(heads // own, -3)
    sizes = list(labels.shape)
    sizes[-3] = heads if labels.shape[-3] == 1 else labels.shape[-3]
    return labels.expand(sizes)
