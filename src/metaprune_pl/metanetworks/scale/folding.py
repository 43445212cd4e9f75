"""Batch norms folded into the layers before them, for reading; changes go back where they belong.

With running mean m, variance v, weight w and bias b, a norm gives `a (k x + c - m) + b`, where
`a = w / sqrt(v + eps)`: weights `a k` and bias `b + a (c - m)`. A change of the folded bias is
added to b. A change of the folded weights is linear in k, so it is applied to k itself and nothing
is divided by a, which may be 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metaprune_pl.graphs import Schema
from metaprune_pl.metanetworks.scale.wiring import Piece

EPS = 1e-5
"""Of batch norms in PyTorch; a network with another is read a little wrong, written right."""
NORMS = "norm", "shortcut_norm"
_DEFAULTS = {
    "weight": 1.0,
    "bias": 0.0,
    "mean": 0.0,
    "var": 1.0,
    "scale": 1.0,
}


@dataclass(frozen=True, eq=False)
class Folded:
    """A network as if it had no norms.

    Attributes:
        bias: Of each node, [N].
        factors: What multiplies the weights that lead to a node: 1, its norm's a, and its
            shortcut's norm's a, [N, 3].
    """

    bias: Tensor
    factors: Tensor

    def at(self, piece: Piece) -> Tensor:
        """The factors of a piece's targets, [G, R, 1, 1]."""
        return self.factors[piece.target, piece.norm][..., None, None]


def fold(nodes: Tensor, normed: Tensor, schema: Schema) -> Folded:
    """Read node features [N, F]; `normed` tells which have a norm and a shortcut norm, [2, N]."""
    bias = nodes.new_zeros(len(nodes))
    factors = [nodes.new_ones(len(nodes))]
    for norm, has, prefix in zip(NORMS, normed, ("", "shortcut_"), strict=True):
        weight = _column(nodes, schema, f"{norm}.weight")
        shift = _column(nodes, schema, f"{norm}.bias")
        mean = _column(nodes, schema, f"{norm}.mean")
        variance = _column(nodes, schema, f"{norm}.var")
        own_bias = _column(nodes, schema, f"{prefix}bias")
        scale = _column(nodes, schema, f"{prefix}scale")
        factor = weight * (variance + EPS * has).rsqrt()
        bias = bias + shift + factor * (own_bias - mean)
        factors.append(factor * scale)
    return Folded(bias, torch.stack(factors, 1))


def _column(nodes: Tensor, schema: Schema, slot: str) -> Tensor:
    """Values of a slot, or what a node without it counts as, [N]."""
    if slot in schema.slots:
        index = list(schema.slots).index(slot)
        return nodes[:, index]
    kind = slot.rpartition(".")[2].rpartition("_")[2]
    return nodes.new_full((len(nodes),), _DEFAULTS[kind])


def unfold(
    nodes: Tensor, normed: Tensor, schema: Schema, bias: Tensor, gains: Sequence[Tensor]
) -> Tensor:
    """Write changes into node features.

    Args:
        nodes: What they were, [N, F].
        normed: Which nodes have a norm and a shortcut's, [2, N].
        schema: Which features there are.
        bias: Change of the folded bias, [N].
        gains: What each norm's weight changes by, relative to itself, [N] for each of the schema's
            norms.
    """
    columns = dict(zip(schema.slots, nodes.unbind(1), strict=True))
    plain = "bias" if "bias" in columns else schema.aliases["bias"]
    columns[plain] = columns[plain] + bias * ~normed[0]
    if "norm.bias" in columns:
        columns["norm.bias"] = columns["norm.bias"] + bias * normed[0]
    for norm, has, gain in zip(NORMS, normed, gains, strict=False):
        slot = f"{norm}.weight"
        columns[slot] = columns[slot] * (1 + gain * has)
    return torch.stack(list(columns.values()), 1)
