"""Message passing over a network's dense blocks with bounded memory.

Nothing of the size edges x hidden is kept from layer to layer: the edge update is multiplicative, so the edges of any
layer are recomputed from the weights and the node factors of the layers before. The one such buffer is the gradient of
the edges in the backward pass, which runs down the layers in place. Autograd sees it as the gradient of a *token*: a
tensor of that size without memory that goes from layer to layer and stands for the edges.

`Kernels` is the work on the blocks; `plain` does it in PyTorch, `native` in C++.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metaprune_pl.metanetworks.blocks import Block

Z, A, P, Q = range(4)
"""Node factors of a layer: MLP_Node 2 and 1 (a node as receiver and as sender), MLP_Edge 1 and 2."""


@dataclass(eq=False)
class EdgeBlock:
    """The values of one block in one pass.

    Attributes:
        block: Its nodes.
        raw: Edge features of each member, [G, O, I, T] together.
        encoder: Weight [H, T] and bias [H].
        decoder: Weight and bias of both layers, [H, H], [H], [T, H] and [T]; the last two times the coefficient.
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

    A node tensor is [N, K, W] or [2, N, K, W], the two being nodes as targets (rows) and as sources (columns); W is H
    or more. *Factors* are those of every layer so far, [N, 4, W] each; A and P of a column count inverted, that is times
    1 or -1 for each hidden channel. A layer's weights are those of its senders, [4 H, H] and [4 H], and of its receivers,
    [H, 4 H] and [H].

    Args:
        blocks: The blocks.
        num_nodes: N.
        inverter: EdgeInvertor, [H].
    """

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
        """Factors of a layer from its nodes [N, H], normalised: one linear layer and SiLU, [N, 4, W]."""

    @abstractmethod
    def send_backward(self, nodes: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Backward pass of `send`: gradients of its three arguments from that of the factors."""

    @abstractmethod
    def statistics(self, factors: Sequence[Tensor]) -> Tensor:
        """Messages of the last layer, equations (14) and (15), reduced at each node, [2, N, 6, W].

        The six are the sum of the messages y, of y^2, the maximum of y and of -y, and how often each is attained, which
        is 0 for a node without messages. The receiver's factor is not in y.
        """

    @abstractmethod
    def collect(self, received: Tensor, factors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Equations (16) to (18): what the nodes change by, [N, H], from what they received.

        Mean, deviation, maximum and minimum of the messages to a node as a row and as a column go through one linear
        layer each, and are added up.
        """

    @abstractmethod
    def collect_backward(
        self, received: Tensor, factors: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        """Backward pass of `collect`.

        Returns:
            What each message gets, [2, N, 6, W]: the gradients of the sum, of the sum of squares (twice), of both
            extremes (for each message that attains them), and the extremes; the gradient of the factors, [N, 4, W],
            zero but for that of Z; those of weight and bias.
        """

    @abstractmethod
    def layer_backward(self, factors: Sequence[Tensor], received: Tensor, gradient: Tensor, found: Tensor) -> None:
        """Backward pass of the last layer's messages and update, equations (14), (15) and (19).

        Args:
            factors: Node factors of the layers so far.
            received: From `collect_backward`.
            gradient: Of the edges of all blocks, flat: in, of those after the update; out, of those before.
            found: The gradient of the last layer's factors is added to it, [N, 4, W].
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


class Edges:
    """The edges of one pass through the metanetwork.

    Args:
        blocks: The network's blocks.
        raw: Edge features of each connection, [G, O, I, T].
        encoders: Weight and bias for each block.
        decoders: Weights and biases of both layers for each block.
        num_nodes: N.
        inverter: EdgeInvertor: 1 or -1 for each hidden channel, [H].
        kernels: Who does the work.
    """

    def __init__(
        self, blocks: Sequence[Block], raw: Sequence[Tensor], encoders: Sequence[tuple[Tensor, ...]],
        decoders: Sequence[tuple[Tensor, ...]], num_nodes: int, inverter: Tensor, kernels: type[Kernels],
    ) -> None:  # fmt: skip
        members = [tuple(raw[member].contiguous() for member in block.members) for block in blocks]
        values = [
            EdgeBlock(block, *(tuple(tensor.detach() for tensor in part) for part in (own, encoder, decoder)))
            for block, own, encoder, decoder in zip(blocks, members, encoders, decoders, strict=True)
        ]
        self.kernels = kernels(values, num_nodes, inverter)
        self.factors: list[Tensor] = []
        self._inputs = [part for own in members for part in own]
        self._decoders = [part for decoder in decoders for part in decoder]
        self.token: Tensor = _Encode.apply(self, *self._inputs, *(part for encoder in encoders for part in encoder))

    def pass_messages(self, nodes: Tensor, sender: Sequence[Tensor], receiver: Sequence[Tensor]) -> Tensor:
        """One layer, equations (14) to (19): send and receive messages, and update nodes and edges.

        Args:
            nodes: Hidden features, [N, H].
            sender: Weight [4 H, H] and bias [4 H] of MLP_Node 2 and 1 and MLP_Edge 1 and 2.
            receiver: Weight [H, 4 H] and bias [H] of MLP_Aggr.

        Returns:
            The new nodes, [N, H].
        """
        new: Tensor
        new, self.token = _Layer.apply(self.token, nodes, *sender, *receiver, self)
        return new

    def decode(self) -> list[Tensor]:
        """New features of each block's members in turn, equations (21) and (23). Nothing can follow it."""
        token = self.token
        del self.token  # its graph holds these edges: a circle would keep them until the garbage is collected
        return list(_Decode.apply(token, self, *self._inputs, *self._decoders))

    def new_token(self, like: Tensor) -> Tensor:
        """Return what stands for the edges."""
        return like.new_zeros(1).expand(sum(self.kernels.sizes))


def _count_neighbours(blocks: Sequence[Block], num_nodes: int) -> Tensor:
    """How many messages each node receives as a target and as a source, at least 1, [2, N]."""
    counts = torch.zeros(2, num_nodes, dtype=torch.long, device=blocks[0].target.device)
    for own, ends in enumerate(zip(*((b.target, b.source) for b in blocks), strict=True)):
        others = [(b.source, b.target)[own].shape[1] for b in blocks]
        for index, other in zip(ends, others, strict=True):
            counts[own].index_add_(0, index.flatten(), torch.full_like(index.flatten(), other))
    return counts.clamp_(min=1)


class _Encode(torch.autograd.Function):
    """The token of the encoded edges."""

    @staticmethod
    def forward(ctx: Any, edges: Edges, *inputs: Tensor) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(*inputs)
        return edges.new_token(inputs[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kernels: Kernels = ctx.edges.kernels
        assert ctx.saved_tensors  # raises where somebody wrote into them
        count = sum(len(values.raw) for values in kernels.blocks)
        raw = kernels.raw_backward(gradient) if any(ctx.needs_input_grad[1 : 1 + count]) else [None] * count
        return None, *raw, *(part for coder in kernels.encode_backward(gradient) for part in coder)


class _Layer(torch.autograd.Function):
    """The nodes after a layer, and the token of the edges after it; keeps the nodes before and what they received."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, nodes: Tensor, *weights_and_edges: Any) -> tuple[Tensor, Tensor]:
        *weights, edges = weights_and_edges
        kernels: Kernels = edges.kernels
        edges.factors.append(kernels.send(nodes, *weights[:2]))
        received = kernels.statistics(edges.factors)
        ctx.edges, ctx.layer = edges, len(edges.factors)
        ctx.save_for_backward(received, nodes, *weights)
        return nodes + kernels.collect(received, edges.factors[-1], *weights[2:]), edges.new_token(nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, new: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kernels: Kernels = ctx.edges.kernels
        received, nodes, *weights = ctx.saved_tensors
        factors = ctx.edges.factors[: ctx.layer]
        received, found, *receiver = kernels.collect_backward(received, factors[-1], *weights[2:], new.contiguous())
        kernels.layer_backward(factors, received, gradient, found)
        own, *sender = kernels.send_backward(nodes, *weights[:2], found)
        return gradient, new + own, *sender, *receiver, None


class _Decode(torch.autograd.Function):
    """New features from the token of the last layer."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, edges: Edges, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.edges = edges
        ctx.save_for_backward(*inputs)
        return tuple(edges.kernels.decode(edges.factors))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *new: Tensor) -> tuple[Tensor | None, ...]:
        edges: Edges = ctx.edges
        assert ctx.saved_tensors  # raises where somebody wrote into them
        gradient = new[0].new_empty(sum(edges.kernels.sizes))
        coders = edges.kernels.decode_backward(edges.factors, [part.contiguous() for part in new], gradient)
        return gradient, None, *new, *(part for coder in coders for part in coder)  # `new`: the residual connection
