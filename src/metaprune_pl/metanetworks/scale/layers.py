"""Functions that respect a symmetry of channels: what goes in times q comes out times q.

A hidden channel of a ReLU network may be multiplied by any q > 0 before the activation and divided
by it after; one of a tanh network by -1. Its features scale by q, those of an edge from s to r by
q_r / q_s. These functions are the building blocks of ScaleGMN (Kalogeropoulos et al., 2024, section
5): biases, norms and non-linearities act on canonical features only, which no q changes.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Symmetry = Literal["scale", "sign", "permutation"]
"""What a hidden channel may be multiplied by: any positive number, -1, or nothing but 1."""


def canonical(x: Tensor, symmetry: Symmetry) -> Tensor:
    """Features that no multiplication changes, [..., H]: direction, or absolute values.

    Of scales: as long as the features are not near 3e-6 (float32) or smaller, which is nothing.
    """
    if symmetry == "permutation":
        return x
    if symmetry == "sign":
        return x.abs()
    floor = 0.01 * torch.finfo(x.dtype).eps ** 0.5
    squares: Tensor = x.square().sum(-1, keepdim=True)
    direction: Tensor = x * (squares + floor**2).rsqrt()
    return direction


def inverse(x: Tensor, symmetry: Symmetry) -> Tensor:
    """What scales by 1 / q where x scales by q, [..., T]: x / |x|^2, and 0 at 0."""
    if symmetry != "scale":
        return x
    squares: Tensor = x.square().sum(-1, keepdim=True)
    tiny = squares <= torch.finfo(x.dtype).tiny ** 0.5
    result: Tensor = x / squares.masked_fill(tiny, 1.0) * ~tiny
    return result


class Perceptron(nn.Sequential):
    """Two linear layers with LayerNorm and SiLU between them.

    Shapes: [..., I] -> [..., O].
    """

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__(
            nn.Linear(inputs, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, outputs),
        )

    def begin_at_zero(self) -> None:
        """Let the last layer give zeros."""
        for parameter in self[3].parameters():
            nn.init.zeros_(parameter)


class ScaleInv(nn.Module):
    """A perceptron of canonical features: the same for every q.

    Shapes: [..., I] -> [..., O].
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, symmetry: Symmetry) -> None:
        super().__init__()
        self.symmetry = symmetry
        self.perceptron = Perceptron(inputs, outputs, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Apply."""
        return self.perceptron(canonical(x, self.symmetry))  # type: ignore[no-any-return]


class ScaleEq(nn.Module):
    """A linear map without bias times `ScaleInv`: the output scales as the input does.

    Shapes: [..., I] -> [..., O].
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, symmetry: Symmetry) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.invariant = ScaleInv(inputs, outputs, hidden, symmetry)

    def forward(self, x: Tensor) -> Tensor:
        """Apply."""
        return self.linear(x) * self.invariant(x)  # type: ignore[no-any-return]


class NodeFunction(nn.Module):
    """`ScaleEq` for nodes with a symmetry, a perceptron for those without (inputs and outputs).

    With the symmetry `permutation` there are none of the first kind.

    Shapes: [..., I] -> [..., O].
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, symmetry: Symmetry) -> None:
        super().__init__()
        self.equivariant = (
            None if symmetry == "permutation" else ScaleEq(inputs, outputs, hidden, symmetry)
        )
        self.plain = Perceptron(inputs, outputs, hidden)

    def forward(self, x: Tensor, symmetric: bool) -> Tensor:
        """Apply to features that belong to nodes of one kind."""
        function = self.equivariant if symmetric else self.plain
        assert function is not None
        return function(x)  # type: ignore[no-any-return]

    def at(self, x: Tensor, symmetric: Tensor) -> Tensor:
        """Apply to the features of all nodes, [N, I], of both kinds, bool [N]."""
        plain: Tensor = self.plain(x)
        if self.equivariant is None:
            return plain
        return torch.where(symmetric[:, None], self.equivariant(x), plain)

    def begin_at_zero(self) -> None:
        """Give zeros."""
        self.plain.begin_at_zero()
        if self.equivariant is not None:
            self.equivariant.invariant.perceptron.begin_at_zero()


class Message(nn.Module):
    """Messages along edges (ReScaleEq): a product of two linear maps, then a node function.

    The linear maps have no bias.

    The sender scales by q_s and the edge by q_r / q_s, so the message scales as its receiver.
    """

    def __init__(self, hidden: int, symmetry: Symmetry) -> None:
        super().__init__()
        self.sender = nn.Linear(hidden, hidden, bias=False)
        self.edge = nn.Linear(hidden, hidden, bias=False)
        self.function = NodeFunction(hidden, hidden, hidden, symmetry)

    def forward(self, senders: Tensor, edges: Tensor, symmetric: bool) -> Tensor:
        """Return messages.

        Args:
            senders: `sender` of the senders' features, broadcastable to the edges.
            edges: [..., H].
            symmetric: Whether the receivers have a symmetry.
        """
        return self.function(senders * self.edge(edges), symmetric)  # type: ignore[no-any-return]


class EdgeUpdate(nn.Module):
    """A linear map of the features of an edge, times a perceptron of canonical features.

    The canonical features are the edge's and those of both ends.

    Shapes: [..., H] -> [..., O].
    """

    def __init__(self, outputs: int, hidden: int, symmetry: Symmetry) -> None:
        super().__init__()
        self.symmetry = symmetry
        self.linear = nn.Linear(hidden, outputs, bias=False)
        self.source = nn.Linear(hidden, hidden, bias=False)
        self.target = nn.Linear(hidden, hidden, bias=False)
        self.perceptron = Perceptron(hidden, outputs, hidden)

    def ends(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The part of the first layer that nodes have as sources and as targets, [N, H] each."""
        x = canonical(nodes, self.symmetry)
        return self.source(x), self.target(x)

    def forward(self, edges: Tensor, own: Tensor, ends: Tensor) -> Tensor:
        """Return new edges.

        Args:
            edges: [..., H].
            own: The edges as their ends scale them, [..., H]: `edges` but for a factor.
            ends: Sum of both ends' parts, [..., H].
        """
        first, *rest = self.perceptron
        hidden = first(canonical(own, self.symmetry)) + ends
        for module in rest:
            hidden = module(hidden)
        return self.linear(edges) * hidden  # type: ignore[no-any-return]
