"""The metanetwork on one dense piece of a network, forward and backward.

Equations (13) to (23) of the paper.

A piece has rows r (output neurons), columns c (input neurons) and hidden channels. Edges are [H, G,
R, C]: with the hidden channel first, the encoder, the edge update and most gradients are matrix
products. The nodes' factors are those of the rows, a, q and p, [H, G, R, 3], and of the columns, b
= inv a, p' = inv p and q, [H, G, 3, C]. Nothing of the size of the edges outlives a call.
`engine` joins the pieces; the folder `cpp` has the same with all loops fused.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-5
"""Variances below this count as zero, as in torch_geometric's standard deviation."""


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the type that statistics are accumulated in: half precision would not hold them."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def encode(raw: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Equation (13): e_0 = W w + b; [G, R, C, T], [H, T] and [H] -> [H, G, R, C]."""
    edges = torch.addmm(bias[:, None], weight, raw.flatten(0, 2).t())
    return edges.view(len(bias), *raw.shape[:3])


def update_factor(rows: Tensor, columns: Tensor) -> Tensor:
    """Equation (19): what a layer multiplies edges with, 1 + p_r q_c + q_r p'_c, [H, G, R, C]."""
    left, right = rows[..., 1:].flatten(0, 1), columns[:, :, 1:].flatten(0, 1)
    product = torch.baddbmm(left.new_ones(1, 1, 1), left, right)
    return product.view(*rows.shape[:3], columns.shape[3])


def send(nodes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Node factors z, a, p and q from the normalised nodes.

    [N, H], [4 H, H] and [4 H] -> [N, 4, H].
    """
    factors = F.silu(F.linear(F.layer_norm(nodes, nodes.shape[-1:]), weight, bias))
    return factors.view(len(nodes), 4, -1)


def reduce_messages(edges: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Equations (14) and (15): messages y_rc = a_r e_rc to columns and b_c e_rc to rows, reduced.

    Returns:
        Sum of y, of y^2, maximum of y and of -y and how often each is attained, at the rows [6, H,
        G, R] and columns [6, H, G, C]. The receiver's factor, which all messages to a node have in
        common, is not in y.
    """
    to_columns = _reduce(rows[..., :1] * edges, 2)
    return _reduce(columns[:, :, :1] * edges, 3), to_columns


def _reduce(messages: Tensor, dim: int) -> Tensor:
    wide = accumulator(messages.dtype)
    high, low = messages.amax(dim), messages.amin(dim)
    attained = [
        (messages == extreme.unsqueeze(dim)).sum(dim, dtype=wide) for extreme in (high, low)
    ]
    total, squares = messages.sum(dim, dtype=wide), messages.to(wide).square().sum(dim)
    return torch.stack([total, squares, high.to(wide), -low.to(wide), *attained])


def collect(
    received: Tensor, counts: Tensor, factors: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """Equations (16) to (18): statistics of the messages that each node gets in one direction.

    They are the mean, standard deviation, maximum and minimum.

    Args:
        received: Sum of the messages y without the receiver's factor z and of y^2, maximum of y and
            of -y, [N, 4, H].
        counts: Number of messages, at least 1, [N].
        factors: [N, 4, H].
        weight: MLP_Aggr's, [H, 4 H].
        bias: The same, [H].

    Returns:
        What the nodes change by, [N, H].
    """
    total, squares, high, low = received.unbind(1)
    factor, many = factors[:, 0], counts[:, None].to(total)
    mean = factor * total / many
    variance = factor.square() * squares / many - mean.square()
    deviation = variance.clamp(min=FLOOR).sqrt().masked_fill(variance <= FLOOR, 0.0)
    high, low = factor * high, factor * -low
    four = mean, deviation, torch.where(factor >= 0, high, low), torch.where(factor >= 0, low, high)
    return F.linear(torch.cat(four, 1).to(factors.dtype), weight, bias)


def gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of a function's inputs that are no whole numbers, by computing it again."""
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_(value.is_floating_point()) for value in inputs]
        out = function(*leaves)
    return torch.autograd.grad(out, [leaf for leaf in leaves if leaf.requires_grad], gradient)


def message_gradient(messages: Tensor, dim: int, received: Tensor) -> Tensor:
    """Gradient of equation (18) for each message y.

    GS + 2 gQ y + [y = M] gM / #M - [-y = m] gm / #m.

    Args:
        messages: [H, G, R, C].
        dim: The senders' dimension.
        received: gS, 2 gQ, gM / #M, gm / #m, M and m at the receivers, [6, H, G, C] or [6, H, G,
            R].
    """
    total, square, high, low, highest, lowest = received.unsqueeze(dim + 1)
    gradient = torch.addcmul(total, square, messages)
    gradient += (messages == highest) * high
    gradient -= (messages == -lowest) * low
    return gradient


def layer_backward(
    edges: Tensor,
    gradient: Tensor,
    rows: Tensor,
    columns: Tensor,
    to_rows: Tensor,
    to_columns: Tensor,
) -> tuple[Tensor, Tensor]:
    """Backward pass of equations (14), (15) and (19).

    Args:
        edges: e of this layer, [H, G, R, C].
        gradient: In: of the next layer's edges, [H, G, R, C]. Out: of this layer's.
        rows: Factors at the rows.
        columns: Factors at the columns.
        to_rows: What `message_gradient` takes for the messages that the rows receive, [6, H, G, R].
        to_columns: The same for the columns, [6, H, G, C].

    Returns:
        Gradients of the factors at the rows, [H, G, R, 3], and at the columns, [H, G, 3, C].
    """
    g_rows, g_columns = torch.empty_like(rows), torch.empty_like(columns)
    a, b = rows[..., :1], columns[:, :, :1]
    u = message_gradient(a * edges, 2, to_columns)
    own = u * a
    g_rows[..., 0] = u.mul_(edges).sum(3)
    u = message_gradient(b * edges, 3, to_rows)
    own.addcmul_(u, b)
    g_columns[:, :, 0] = u.mul_(edges).sum(2)
    t = edges * gradient
    g_rows[..., 1:] = t @ columns[:, :, 1:].mT
    g_columns[:, :, 1:] = rows[..., 1:].mT @ t
    gradient.mul_(update_factor(rows, columns)).add_(own)
    return g_rows, g_columns


def decode(
    edges: Tensor, raw: Tensor, first: Tensor, first_bias: Tensor, last: Tensor, last_bias: Tensor
) -> Tensor:
    """Equations (21) and (23): LayerNorm, two layers, and the residual connection.

    Args:
        edges: e of the last layer, [H, G, R, C].
        raw: Edge features that came in, [G, R, C, T].
        first: [H, H].
        first_bias: [H].
        last: Times the residual coefficient, [T, H].
        last_bias: The same, [T].
    """
    x = F.layer_norm(edges.flatten(1).t(), (len(first),))
    delta = F.linear(F.silu(F.linear(x, first, first_bias)), last, last_bias)
    return raw + delta.view_as(raw)
