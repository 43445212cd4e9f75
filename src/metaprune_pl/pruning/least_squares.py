"""Ridge regression of a layer's outputs on its inputs, from sums over batches in float64.

Letters: G conv groups, O outputs of one, K inputs of one (channels times taps, and 1 for the bias).
"""

import torch
from torch import Tensor


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
        inputs, outputs = inputs.double(), outputs.double()
        self.gram = self.gram.to(inputs.device) + inputs.mT @ inputs
        self.cross = self.cross.to(inputs.device) + outputs.mT @ inputs
        self.square = self.square.to(inputs.device) + outputs.square().sum((1, 2))

    def error(self, weights: Tensor) -> Tensor:
        """Return the squared error of weights [G, O, K], [G]."""
        inner = (weights * (weights @ self.gram - 2 * self.cross)).sum((1, 2))
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
        system = self.gram + ridge * torch.diag_embed(mean[:, None].expand(start.shape[::2]))
        if support is None:
            return start + _solve(system, missing)
        change = torch.zeros_like(start)
        for group, row in torch.cartesian_prod(*map(torch.arange, start.shape[:2])).tolist():
            chosen = support[group, row].nonzero().flatten()
            part = system[group][chosen][:, chosen]
            change[group, row, chosen] = _solve(part[None], missing[group, row, chosen][None, None])
        return start + change


def _solve(systems: Tensor, right: Tensor) -> Tensor:
    """Solve X A = R for symmetric A: [G, K, K] and [G, O, K] -> [G, O, K]; 0 where A is singular."""
    factors, failed = torch.linalg.cholesky_ex(systems)
    solved = torch.cholesky_solve(right.mT, factors).mT
    return torch.where((failed > 0)[:, None, None] | ~solved.isfinite(), 0.0, solved)
