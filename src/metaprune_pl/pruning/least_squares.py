"""Ridge regression of a layer's outputs on its inputs, from sums over batches in float64.

Letters: G conv groups, O outputs of one, K inputs of one (channels times taps, and 1 for the bias).
"""

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from metaprune_pl.pruning.layerwise import Layer

ENTRIES = 2**22
"""Numbers of the largest matrix of inputs that is made at a time."""


class NormalEquations:
    """What least squares needs of any number of rows: sums of their products.

    Attributes:
        gram: Products of the inputs with each other, [G, K, K].
        cross: Products of outputs and inputs, [G, O, K].
        square: Squares of the outputs, [G].
    """

    def __init__(self) -> None:
        self.gram = self.cross = self.square = torch.zeros((), dtype=torch.float64)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Add rows.

        Args:
            inputs: [G, rows, K].
            outputs: [G, rows, O].
        """
        inputs = inputs.double()
        outputs = outputs.double()
        self.gram = self.gram.to(inputs.device) + inputs.mT @ inputs
        self.cross = self.cross.to(inputs.device) + outputs.mT @ inputs
        self.square = self.square.to(inputs.device) + outputs.square().sum((1, 2))

    def error(self, weights: Tensor) -> Tensor:
        """Return the squared error of weights [G, O, K], [G]."""
        slope = weights @ self.gram - 2 * self.cross
        inner = (weights * slope).sum((1, 2))
        return (self.square + inner).clamp(min=0)

    def solve(self, start: Tensor, ridge: float, support: Tensor | None = None) -> Tensor:
        """Return the weights of least error with a penalty on their distance from others.

        Args:
            start: The others, [G, O, K].
            ridge: Weight of the penalty, as a share of the mean square of an input.
            support: Which weights may change, bool [G, O, K]; None is all.

        Returns:
            Weights [G, O, K]; those of `start` where the equations are singular.
        """
        missing = self.cross - start @ self.gram
        mean = self.gram.diagonal(dim1=1, dim2=2).mean(1)
        diagonal = mean[:, None].expand(start.shape[::2])
        system = self.gram + ridge * torch.diag_embed(diagonal)
        if support is None:
            return start + _solve(system, missing)
        change = torch.zeros_like(start)
        groups, outputs, _ = start.shape
        for group, row in product(range(groups), range(outputs)):
            chosen = support[group, row].nonzero().flatten()
            part = system[group][chosen][:, chosen]
            right = missing[group, row, chosen]
            change[group, row, chosen] = _solve(part[None], right[None, None])
        return start + change


def _solve(systems: Tensor, right: Tensor) -> Tensor:
    """Solve X A = R, [G, K, K] and [G, O, K] -> [G, O, K], A symmetric; 0 where it is singular."""
    factors, failed = torch.linalg.cholesky_ex(systems)
    solved = torch.cholesky_solve(right.mT, factors).mT
    return torch.where(
        (failed > 0)[:, None, None] | ~solved.isfinite(),
        0.0,
        solved,
    )


def slices(layer: Layer, outputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Give what a layer reads and something of the shape of its outputs, a few rows at a time.

    Args:
        layer: The layer.
        outputs: [B, C, ...] or [..., C]; a constant bias of the layer is taken off.

    Yields:
        Inputs [G, rows, K] with the bias's 1, and outputs [G, rows, O].
    """
    width = layer.matrix.shape[2] * layer.groups
    positions = outputs[0].numel() // len(layer.weight)
    few = max(1, ENTRIES // (positions * width))
    for inputs, expected in zip(layer.inputs.split(few), outputs.split(few), strict=True):
        patches = layer.patches(inputs)
        rows = layer.rows(expected)
        if layer.constant is not None:
            rows = rows - layer.constant.reshape(layer.groups, 1, -1)
        ones = torch.ones_like(patches[..., 0])
        yield with_bias(layer, patches, ones), rows


def with_bias(layer: Layer, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """Append a column for the bias, [G, rows, K] -> [G, rows, K + 1], where the layer has one."""
    if layer.bias is None or bias is None:
        return matrix
    column = bias.reshape(*matrix.shape[:2], 1).to(matrix)
    return torch.cat([matrix, column], 2)
