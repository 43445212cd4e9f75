"""Weights that reach zero stay there: the step that an l1 norm asks for, and exact shares.

A minimum of l1 |w| + f(w) has w = 0 where the gradient of f is at most l1 (the fixed points of a
proximal step). So a weight that a step would take through zero stops at zero where that holds.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer


def stopped(old: Tensor, new: Tensor, gradient: Tensor, l1: float) -> Tensor:
    """Return which weights stop at zero in a step, bool [W].

    Args:
        old: Weights before the step, [W].
        new: Weights after it.
        gradient: Of everything but the l1 norm.
        l1: Weight of the l1 norm.
    """
    through = (old * new <= 0) & (old != 0)
    return through & (gradient.abs() <= l1)


def smallest(candidates: Tensor, sizes: Tensor, count: int) -> Tensor:
    """Return the candidates of the smallest sizes, `count` at most, bool [W].

    Args:
        candidates: Bool [W].
        sizes: What they are compared by, [W].
        count: At least 0.
    """
    order = torch.argsort(sizes.masked_fill(~candidates, torch.inf), stable=True)
    chosen = torch.zeros_like(candidates).index_fill(0, order[:count], True)
    return chosen & candidates


def forget(optimizer: Optimizer, zeros: Mapping[Tensor, Tensor]) -> None:
    """Clear what an optimiser remembers of zeros, so that nothing moves them again.

    Args:
        optimizer: Of the weights.
        zeros: Parameter to which of its entries are zero, bool in its shape.
    """
    for parameter, own in zeros.items():
        for value in optimizer.state[parameter].values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value.masked_fill_(own, 0.0)


def split_like(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Cut numbers of all weights into the shapes of their parameters."""
    parts = flat.split([parameter.numel() for parameter in parameters])
    return [part.view_as(own) for part, own in zip(parts, parameters, strict=True)]
