"""The work on a network's dense blocks in one pass.

What `plain` does in PyTorch and `native` in C++.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metaprune_pl.metanetworks.blocks import Block

Z, A, P, Q = range(4)
"""Node factors of a layer: MLP_Node 2 and 1 (a node as receiver and as sender), MLP_Edge 1 and
2."""


@dataclass(eq=False)
class EdgeBlock:
    """The values of one block in one pass.

    Attributes:
        block: Its nodes.
        raw: Edge features of each member, [G, O, I, T] together.
        encoder: Weight [H, T] and bias [H].
        decoder: Weight and bias of both layers, [H, H], [H], [T, H] and [T]; the last two times the
            coefficient.
    """

    block: Block
    raw: tuple[Tensor, ...]
    encoder: tuple[Tensor, ...]
    decoder: tuple[Tensor, ...]

    @property
    def hidden(self) -> int:
        """H."""
        return len(self.encoder[1])


class Kernels(ABC):
    """The work on the blocks of one pass.

    A node tensor is [N, K, W] or [2, N, K, W], the two being nodes as targets (rows) and as sources
    (columns); W is H or more. *Factors* are those of every layer so far, [N, 4, W] each; A and P of
    a column count inverted: times 1 or -1 for each hidden channel.

    Args:
        blocks: The blocks.
        num_nodes: N.
        inverter: EdgeInvertor, [H].
    """

    name: ClassVar[str]
    """What the setting `engine` calls it."""

    def __init__(self, blocks: Sequence[EdgeBlock], num_nodes: int, inverter: Tensor) -> None:
        self.blocks = blocks
        self.inverter = inverter
        self.counts = _count_neighbours([values.block for values in blocks], num_nodes)
        self.sizes = [values.block.num_edges * self.width(values.hidden) for values in blocks]

    def width(self, hidden: int) -> int:
        """W: numbers that a hidden feature takes."""
        return hidden

    @abstractmethod
    def send(self, nodes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Factors of a layer from its normalised nodes, by one linear layer and SiLU, [N, 4, W].

        Args:
            nodes: [N, H].
            weight: Of MLP_Node 2 and 1 and MLP_Edge 1 and 2, [4 H, H].
            bias: [4 H].
        """

    @abstractmethod
    def send_backward(
        self, nodes: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        """Backward pass of `send`: gradients of its three arguments from that of the factors."""

    @abstractmethod
    def statistics(self, factors: Sequence[Tensor]) -> Tensor:
        """Messages of the last layer, equations (14) and (15), reduced at each node, [2, N, 6, W].

        The six are the sum of the messages y, of y^2, the maximum of y and of -y, and how often
        each is attained, which is 0 for a node without messages. The receiver's factor is not in y.
        """

    @abstractmethod
    def collect(self, received: Tensor, factors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Equations (16) to (18): what the nodes change by, [N, H], from what they received.

        Mean, deviation, maximum and minimum of the messages to a node as a row, and as a column, go
        through one linear layer, and both are added up.

        Args:
            received: From `statistics`.
            factors: Of this layer, [N, 4, W].
            weight: Of MLP_Aggr, [H, 4 H].
            bias: [H].
        """

    @abstractmethod
    def collect_backward(
        self, received: Tensor, factors: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        """Backward pass of `collect`.

        Returns:
            What each message gets, [2, N, 6, W]: the gradients of the sum, of the sum of squares
            (twice), of both extremes (for each message that attains them), and the extremes; the
            gradient of the factors, [N, 4, W], zero but for that of Z; those of weight and bias.
        """

    @abstractmethod
    def layer_backward(
        self, factors: Sequence[Tensor], received: Tensor, gradient: Tensor, g_factors: Tensor
    ) -> None:
        """Backward pass of the last layer's messages and update, equations (14), (15) and (19).

        Args:
            factors: Node factors of the layers so far.
            received: From `collect_backward`.
            gradient: Of the edges of all blocks, flat: in, of those after the update; out, of those
                before.
            g_factors: The gradient of the last layer's factors is added to it, [N, 4, W].
        """

    @abstractmethod
    def decode(self, factors: Sequence[Tensor]) -> list[Tensor]:
        """Equations (21) and (23), for each block's members in turn."""

    @abstractmethod
    def decode_backward(
        self, factors: Sequence[Tensor], new: Sequence[Tensor], gradient: Tensor
    ) -> list[tuple[Tensor, ...]]:
        """Backward pass of `decode`.

        Args:
            factors: Node factors of all layers.
            new: Gradients of the decoded features, for each block's members in turn.
            gradient: Out: that of the edges of all blocks, flat.

        Returns:
            Gradients of each block's decoder's weights and biases.
        """

    @abstractmethod
    def encode_backward(self, gradient: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Backward pass of equation (13): the gradients of each block's weight and bias."""

    @abstractmethod
    def raw_backward(self, gradient: Tensor) -> list[Tensor]:
        """The same for the raw features of each block's members in turn."""


def _count_neighbours(blocks: Sequence[Block], num_nodes: int) -> Tensor:
    """How many messages each node receives as a target and as a source, at least 1, [2, N]."""
    counts = torch.zeros(2, num_nodes, dtype=torch.long, device=blocks[0].target.device)
    for block in blocks:
        ends = (block.target, block.source)
        for received, own, other in zip(counts, ends, reversed(ends), strict=True):
            nodes = own.flatten()
            received.index_add_(0, nodes, torch.full_like(nodes, other.shape[1]))
    return counts.clamp_(min=1)
