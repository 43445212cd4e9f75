"""What each operation does to neurons: the table of ATen operators and their handlers."""

from collections.abc import Callable
from typing import Any

from metaprune_pl.graphs import arithmetic, attention, layers, moves, norms, reductions
from metaprune_pl.graphs.call import Call


def _table(handler: Callable[[Call], Any], names: str) -> dict[str, Callable[[Call], Any]]:
    return dict.fromkeys(names.split(), handler)


OPERATORS: dict[str, Callable[[Call], Any]] = {
    **_table(
        layers.convolution,
        "conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default "
        "conv_transpose2d.input",
    ),
    **_table(layers.linear, "linear.default"),
    **_table(norms.batch_norm, "batch_norm.default"),
    **_table(norms.group_norm, "group_norm.default"),
    **_table(norms.layer_norm, "layer_norm.default"),
    **_table(arithmetic.add, "add.Tensor sub.Tensor rsub.Tensor"),
    **_table(arithmetic.multiply, "mul.Tensor div.Tensor"),
    **_table(
        arithmetic.pointwise,
        "relu.default relu6.default gelu.default silu.default elu.default leaky_relu.default "
        "hardtanh.default "
        "hardswish.default hardsigmoid.default sigmoid.default tanh.default mish.default "
        "softplus.default "
        "log_sigmoid.default selu.default celu.default hardshrink.default softsign.default "
        "rrelu.default "
        "dropout.default feature_dropout.default alpha_dropout.default clone.default "
        "contiguous.default alias.default "
        "detach.default to.dtype to.device to.dtype_layout type_as.default _to_copy.default "
        "lift_fresh_copy.default "
        "neg.default abs.default exp.default sqrt.default rsqrt.default square.default "
        "pow.Tensor_Scalar log.default "
        "reciprocal.default sin.default cos.default erf.default mul.Scalar div.Scalar add.Scalar "
        "sub.Scalar "
        "rsub.Scalar softmax.int log_softmax.int masked_fill.Scalar masked_fill.Tensor "
        "clamp.default clamp_min.default "
        "clamp_max.default nan_to_num.default div.Tensor_mode floor.default round.default",
    ),
    **_table(
        reductions.spatial,
        "max_pool2d.default avg_pool2d.default adaptive_avg_pool2d.default "
        "adaptive_max_pool2d.default "
        "avg_pool1d.default max_pool1d.default adaptive_avg_pool1d.default lp_pool2d.default "
        "upsample_bicubic2d.vec "
        "upsample_nearest2d.vec upsample_bilinear2d.vec",
    ),
    **_table(attention.attention, "scaled_dot_product_attention.default"),
    **_table(attention.matmul, "matmul.default bmm.default"),
    **_table(attention.einsum, "einsum.default"),
    **_table(attention.normalized, "linalg_vector_norm.default"),
    **_table(
        attention.constant,
        "new_zeros.default new_ones.default new_full.default zeros_like.default "
        "ones_like.default _assert_tensor_metadata.default",
    ),
    **_table(
        reductions.reduce,
        "mean.dim mean.default sum.dim_IntList var.dim var.correction std.dim std.correction "
        "amax.default amin.default logsumexp.default",
    ),
    **_table(reductions.several, "max.dim min.dim var_mean.dim var_mean.correction"),
    "index.Tensor": moves.indexed,
    "copy.default": moves.overwritten,
    "lstm.input": moves.opaque,
    "gru.input": moves.opaque,
    "col2im.default": moves.overlapped,
    **dict.fromkeys(moves.MOVES, moves.move),
    **_table(moves.like, "reshape_as.default view_as.default expand_as.default"),
    **_table(arithmetic.affine, "addcmul.default"),
    "<built-in function getitem>": moves.item,
    **_table(moves.pad, "pad.default constant_pad_nd.default"),
}
"""ATen operator to the handler that labels its result."""
