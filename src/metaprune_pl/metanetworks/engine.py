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

A, B, P, Q, P_BACK = range(5)
"""Node factors: MLP_Node 1 and the same inverted, MLP_Edge 1 and 2, and MLP_Edge 1 inverted."""


@dataclass(eq=False)
class EdgeBlock:
    """The values of one block in one pass.

    Attributes:
        block: Its nodes.
        raw: Edge features, [G, O, I, T].
        encoder: Weight [H, T] and bias [H].
        decoder: Weight and bias of both layers, [H, H], [H], [T, H] and [T]; the last two times the coefficient.
    """

    block: Block
    raw: Tensor
    encoder: tuple[Tensor, ...]
    decoder: tuple[Tensor, ...]

    @property
    def hidden(self) -> int:
        """H."""
        return len(self.encoder[1])


class Kernels(ABC):
    """The work on the blocks.

    A node tensor is [N, K, W] or [2, N, K, W], the two being nodes as targets (rows) and as sources (columns); W is H
    or more. *Factors* are those of every layer so far, [N, 5, W] each.
    """

    def width(self, hidden: int) -> int:
        """W: numbers that a hidden feature takes."""
        return hidden

    @abstractmethod
    def statistics(self, blocks: Sequence[EdgeBlock], factors: Sequence[Tensor]) -> Tensor:
        """Messages of the last layer, equations (14) and (15), reduced at each node, [2, N, 6, W].

        The six are the sum of the messages y, of y^2, the maximum of y and of -y, and how often each is attained, which
        is 0 for a node without messages. The receiver's factor is not in y.
        """

    @abstractmethod
    def aggregate(self, received: Tensor, counts: Tensor, factor: Tensor) -> Tensor:
        """Equation (18): mean, deviation, maximum and minimum, added up for both directions, [N, 4, H].

        Args:
            received: From `statistics`.
            counts: Number of messages, at least 1, [2, N].
            factor: The receivers' factor, [N, H].
        """

    @abstractmethod
    def aggregate_backward(
        self, received: Tensor, counts: Tensor, factor: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Backward pass of `aggregate`.

        Returns:
            What each message gets, [2, N, 6, W]: the gradients of the sum, of the sum of squares (twice), of both
            extremes (for each message that attains them), and the extremes; and the gradient of the factor, [N, H].
        """

    @abstractmethod
    def layer_backward(
        self, blocks: Sequence[EdgeBlock], factors: Sequence[Tensor], received: Tensor, gradient: Sequence[Tensor]
    ) -> Tensor:
        """Backward pass of the last layer's messages and update, equations (14), (15) and (19).

        Args:
            blocks: The blocks.
            factors: Node factors of the layers so far.
            received: From `aggregate_backward`.
            gradient: Of each block's edges, flat: in, of those after the update; out, of those before.

        Returns:
            Gradient of the last layer's factors, [N, 5, W].
        """

    @abstractmethod
    def decode(self, values: EdgeBlock, factors: Sequence[Tensor]) -> Tensor:
        """Equations (21) and (23) for one block, [G, O, I, T]."""

    @abstractmethod
    def decode_backward(
        self, values: EdgeBlock, factors: Sequence[Tensor], new: Tensor, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        """Backward pass of `decode`.

        Args:
            values: The block.
            factors: Node factors of all layers.
            new: Gradient of the decoded features, [G, O, I, T].
            gradient: Out: that of the block's edges, flat.

        Returns:
            Gradients of the decoder's weights and biases.
        """

    @abstractmethod
    def encode_backward(self, values: EdgeBlock, gradient: Tensor, *, wants_raw: bool) -> tuple[Tensor | None, ...]:
        """Backward pass of equation (13): gradients of the raw features (where wanted), the weight and the bias."""


class Edges:
    """The edges of one pass through the metanetwork.

    Args:
        blocks: The network's blocks.
        raw: Edge features of each block, [G, O, I, T].
        encoders: Weight and bias for each block.
        decoders: Weights and biases of both layers for each block.
        num_nodes: N.
        kernels: Who does the work.
    """

    def __init__(
        self, blocks: Sequence[Block], raw: Sequence[Tensor], encoders: Sequence[tuple[Tensor, ...]],
        decoders: Sequence[tuple[Tensor, ...]], num_nodes: int, kernels: Kernels,
    ) -> None:  # fmt: skip
        self.kernels = kernels
        self.blocks = [
            EdgeBlock(block, w.detach(), tuple(v.detach() for v in encoder), tuple(v.detach() for v in decoder))
            for block, w, encoder, decoder in zip(blocks, raw, encoders, decoders, strict=True)
        ]
        self.counts = _count_neighbours(blocks, num_nodes)
        self.sizes = [v.block.num_edges * kernels.width(v.hidden) for v in self.blocks]
        self.factors: list[Tensor] = []
        self._decoder_inputs = [v for w, decoder in zip(raw, decoders, strict=True) for v in (w, *decoder)]
        encoder_inputs = [v for w, encoder in zip(raw, encoders, strict=True) for v in (w, *encoder)]
        self.token: Tensor = _Encode.apply(self, *encoder_inputs)

    def pass_messages(self, factors: Tensor, inverter: Tensor) -> Tensor:
        """One layer, equations (14), (15), (18) and (19): send and aggregate messages, and update the edges.

        Args:
            factors: MLP_Node 1 and 2 and MLP_Edge 1 and 2 of the nodes, [N, 4, H].
            inverter: EdgeInvertor: 1 or -1 for each hidden channel, [H].

        Returns:
            Mean, deviation, maximum and minimum of each node's messages as a target and as a source, added up,
            [N, 4, H].
        """
        inbox: Tensor
        inbox, self.token = _Layer.apply(self.token, factors, inverter, self)
        return inbox

    def decode(self) -> list[Tensor]:
        """New features of each block's members in turn, equations (21) and (23). Nothing can follow it."""
        token = self.token
        del self.token  # its graph holds these edges: a circle would keep them until the garbage is collected
        return list(_Decode.apply(token, self, *self._decoder_inputs))

    def new_token(self, like: Tensor) -> Tensor:
        """Return what stands for the edges."""
        return like.new_zeros(1).expand(sum(self.sizes))


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
        edges: Edges = ctx.edges
        assert len(ctx.saved_tensors) == 3 * len(edges.blocks)  # raises where somebody wrote into them
        found: list[Tensor | None] = [None]
        for number, (values, own) in enumerate(zip(edges.blocks, gradient.split(edges.sizes), strict=True)):
            found += edges.kernels.encode_backward(values, own, wants_raw=ctx.needs_input_grad[1 + 3 * number])
        return tuple(found)


class _Layer(torch.autograd.Function):
    """What a layer's nodes receive, and the token of the edges after its update."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, factors: Tensor, inverter: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        a, z, p, q = factors.unbind(1)
        own = torch.stack([a, a * inverter, p, q, p * inverter], 1)
        edges.factors.append(torch.nn.functional.pad(own, (0, edges.kernels.width(a.shape[1]) - a.shape[1])))
        received = edges.kernels.statistics(edges.blocks, edges.factors)
        ctx.edges, ctx.layer = edges, len(edges.factors)
        z = z.contiguous()  # a view would keep all four
        ctx.save_for_backward(received, z, inverter)
        return edges.kernels.aggregate(received, edges.counts, z), edges.new_token(factors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, inbox: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
        edges: Edges = ctx.edges
        received, z, inverter = ctx.saved_tensors
        received, g_z = edges.kernels.aggregate_backward(received, edges.counts, z, inbox.contiguous())
        found = edges.kernels.layer_backward(
            edges.blocks, edges.factors[: ctx.layer], received, gradient.split(edges.sizes)
        )
        a, b, p, q, p_back = found[..., : len(inverter)].unbind(1)
        return gradient, torch.stack([a + b * inverter, g_z, p + p_back * inverter, q], 1), None, None


class _Decode(torch.autograd.Function):
    """New features from the token of the last layer."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, edges: Edges, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.edges = edges
        ctx.save_for_backward(*inputs)
        return tuple(
            part for v in edges.blocks for part in edges.kernels.decode(v, edges.factors).split(v.block.sizes)
        )  # fmt: skip

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *new: Tensor) -> tuple[Tensor | None, ...]:
        edges: Edges = ctx.edges
        assert len(ctx.saved_tensors) == 5 * len(edges.blocks)  # raises where somebody wrote into them
        gradient = new[0].new_empty(sum(edges.sizes))
        found: list[Tensor | None] = [gradient, None]
        parts = iter(new)
        for number, (values, own) in enumerate(zip(edges.blocks, gradient.split(edges.sizes), strict=True)):
            g = torch.cat([next(parts) for _ in values.block.members])
            found.append(g if ctx.needs_input_grad[2 + 5 * number] else None)  # the residual connection
            found += edges.kernels.decode_backward(values, edges.factors, g, own)
        return tuple(found)
