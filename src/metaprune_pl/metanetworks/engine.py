"""Message passing over a network's dense blocks with bounded memory.

Nothing of the size edges x hidden is kept from layer to layer: the edge update is multiplicative,
so the edges of any layer are recomputed from the weights and the node factors of the layers before.
The one such buffer is the gradient of the edges in the backward pass, which runs down the layers in
place. Autograd sees it as the gradient of a *token*: a tensor of that size without memory that goes
from layer to layer and stands for the edges.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from metaprune_pl.metanetworks.blocks import Block
from metaprune_pl.metanetworks.kernels import EdgeBlock, Kernels


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
        self,
        blocks: Sequence[Block],
        raw: Sequence[Tensor],
        encoders: Sequence[tuple[Tensor, ...]],
        decoders: Sequence[tuple[Tensor, ...]],
        num_nodes: int,
        inverter: Tensor,
        kernels: type[Kernels],
    ) -> None:
        members = [tuple(raw[member].contiguous() for member in block.members) for block in blocks]
        values = [
            EdgeBlock(
                block,
                *(tuple(tensor.detach() for tensor in part) for part in (own, encoder, decoder)),
            )
            for block, own, encoder, decoder in zip(
                blocks, members, encoders, decoders, strict=True
            )
        ]
        self.kernels = kernels(values, num_nodes, inverter)
        self.factors: list[Tensor] = []
        self._inputs = [part for own in members for part in own]
        self._decoders = [part for decoder in decoders for part in decoder]
        self.token: Tensor = _Encode.apply(
            self, *self._inputs, *(part for encoder in encoders for part in encoder)
        )

    def pass_messages(
        self, nodes: Tensor, sender: Sequence[Tensor], receiver: Sequence[Tensor]
    ) -> Tensor:
        """One layer, equations (14) to (19): send and receive messages, and update nodes and edges.

        Args:
            nodes: Hidden features, [N, H].
            sender: Weight [4 H, H] and bias [4 H] of MLP_Node 2 and 1 and MLP_Edge 1 and 2.
            receiver: Weight [H, 4 H] and bias [H] of MLP_Aggr.

        Returns:
            The new nodes, [N, H].
        """
        new: Tensor
        new, self.token = _Layer.apply(
            self.token,
            self,
            nodes,
            *sender,
            *receiver,
        )
        return new

    def decode(self) -> list[Tensor]:
        """New features of the members of each block, equations (21) and (23); the last step."""
        token = self.token
        del (
            self.token
        )  # its graph holds these edges: a circle would keep them until the garbage is collected
        return list(
            _Decode.apply(
                token,
                self,
                *self._inputs,
                *self._decoders,
            )
        )

    def new_token(self, like: Tensor) -> Tensor:
        """Return what stands for the edges."""
        return like.new_zeros(1).expand(sum(self.kernels.sizes))


class _Encode(Function):
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
        raw = (
            kernels.raw_backward(gradient)
            if any(ctx.needs_input_grad[1 : 1 + count])
            else [None] * count
        )
        return None, *raw, *(part for coder in kernels.encode_backward(gradient) for part in coder)


class _Layer(Function):
    """The nodes after a layer, and the token of the edges after it.

    Keeps the nodes before and what they received.
    """

    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        edges: Edges,
        nodes: Tensor,
        weight: Tensor,
        bias: Tensor,
        out: Tensor,
        o_bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        kernels = edges.kernels
        edges.factors.append(kernels.send(nodes, weight, bias))
        received = kernels.statistics(edges.factors)
        ctx.edges = edges
        ctx.layer = len(edges.factors)
        ctx.save_for_backward(
            received,
            nodes,
            weight,
            bias,
            out,
            o_bias,
        )
        change = kernels.collect(
            received,
            edges.factors[-1],
            out,
            o_bias,
        )
        return nodes + change, edges.new_token(nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, new: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kernels: Kernels = ctx.edges.kernels
        received, nodes, weight, bias, out, o_bias = ctx.saved_tensors
        factors = ctx.edges.factors[: ctx.layer]
        messages, g_factors, *g_out = kernels.collect_backward(
            received, factors[-1], out, o_bias, new.contiguous()
        )
        kernels.layer_backward(factors, messages, gradient, g_factors)
        g_nodes, *g_in = kernels.send_backward(
            nodes,
            weight,
            bias,
            g_factors,
        )
        return gradient, None, new + g_nodes, *g_in, *g_out


class _Decode(Function):
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
        coders = edges.kernels.decode_backward(
            edges.factors, [part.contiguous() for part in new], gradient
        )
        return (
            gradient,
            None,
            *new,
            *(part for coder in coders for part in coder),
        )  # `new`: the residual connection
