"""What each operation does to neurons: the table of ATen operators and their handlers."""

from collections.abc import Callable
from typing import Any

from metaprune_pl.graphs import (
    arithmetic,
    attention,
    contraction,
    layers,
    moves,
    norms,
    places,
    recurrent,
    reductions,
)
from metaprune_pl.graphs.call import Call


def _table(handler: Callable[[Call], Any], names: str) -> dict[str, Callable[[Call], Any]]:
    return dict.fromkeys(names.split(), handler)


OPERATORS: dict[str, Callable[[Call], Any]] = {
    **_table(
        layers.convolution,
        "conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default "
        "conv3d.padding conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input",
    ),
    **_table(layers.linear, "linear.default"),
    **_table(layers.embedding, "embedding.default"),
    **_table(norms.batch_norm, "batch_norm.default instance_norm.default"),
    **_table(norms.group_norm, "group_norm.default"),
    **_table(norms.layer_norm, "layer_norm.default rms_norm.default"),
    **_table(norms.prelu, "prelu.default"),
    **_table(arithmetic.add, "add.Tensor sub.Tensor rsub.Tensor"),
    **_table(arithmetic.multiply, "mul.Tensor div.Tensor"),
    **_table(
        arithmetic.combined,
        "maximum.default minimum.default max.other min.other fmax.default fmin.default "
        "where.self where.ScalarSelf where.ScalarOther lerp.Scalar lerp.Tensor "
        "addcmul.default addcdiv.default masked_fill.Scalar masked_fill.Tensor "
        "pow.Tensor_Tensor pow.Scalar atan2.default div.Tensor_mode fmod.Tensor "
        "remainder.Tensor clamp.Tensor clamp_min.Tensor clamp_max.Tensor "
        "gt.Tensor ge.Tensor lt.Tensor le.Tensor eq.Tensor ne.Tensor "
        "logical_and.default logical_or.default logical_xor.default "
        "bitwise_and.Tensor bitwise_or.Tensor bitwise_xor.Tensor __and__.Tensor __or__.Tensor "
        "__xor__.Tensor type_as.default",
    ),
    **_table(
        arithmetic.pointwise,
        "relu.default relu6.default gelu.default silu.default elu.default leaky_relu.default "
        "hardtanh.default hardswish.default hardsigmoid.default sigmoid.default tanh.default "
        "mish.default softplus.default log_sigmoid.default selu.default celu.default "
        "hardshrink.default softshrink.default softsign.default threshold.default rrelu.default "
        "dropout.default feature_dropout.default alpha_dropout.default clone.default "
        "contiguous.default alias.default detach.default to.dtype to.device to.dtype_layout "
        "_to_copy.default lift_fresh_copy.default neg.default abs.default exp.default "
        "expm1.default sqrt.default rsqrt.default square.default pow.Tensor_Scalar log.default "
        "log1p.default log2.default reciprocal.default sin.default cos.default erf.default "
        "sign.default isnan.default isinf.default logical_not.default bitwise_not.default "
        "mul.Scalar div.Scalar add.Scalar sub.Scalar rsub.Scalar gt.Scalar ge.Scalar lt.Scalar "
        "le.Scalar eq.Scalar ne.Scalar clamp.default clamp_min.default clamp_max.default "
        "nan_to_num.default floor.default ceil.default round.default trunc.default "
        "zeros_like.default ones_like.default full_like.default fill.Scalar zero.default "
        "rand_like.default randn_like.default bernoulli.default",
    ),
    **_table(arithmetic.softmax, "softmax.int log_softmax.int"),
    **_table(arithmetic.glu, "glu.default"),
    **_table(
        reductions.spatial,
        "max_pool1d.default max_pool2d.default max_pool3d.default avg_pool1d.default "
        "avg_pool2d.default avg_pool3d.default adaptive_avg_pool1d.default "
        "adaptive_avg_pool2d.default adaptive_avg_pool3d.default lp_pool2d.default "
        "max_unpool2d.default max_unpool3d.default upsample_nearest1d.vec "
        "upsample_nearest2d.vec upsample_nearest3d.vec upsample_linear1d.vec "
        "upsample_bilinear2d.vec upsample_trilinear3d.vec upsample_bicubic2d.vec "
        "_upsample_bilinear2d_aa.vec _upsample_bicubic2d_aa.vec grid_sampler.default "
        "reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default "
        "replication_pad1d.default replication_pad2d.default replication_pad3d.default",
    ),
    **_table(
        reductions.pooled_with_indices,
        "adaptive_max_pool1d.default adaptive_max_pool2d.default adaptive_max_pool3d.default "
        "max_pool1d_with_indices.default max_pool2d_with_indices.default "
        "max_pool3d_with_indices.default",
    ),
    **_table(attention.attention, "scaled_dot_product_attention.default"),
    **_table(contraction.matmul, "matmul.default bmm.default mm.default mv.default"),
    **_table(contraction.added_product, "addmm.default baddbmm.default"),
    **_table(contraction.einsum, "einsum.default"),
    **_table(reductions.norm, "linalg_vector_norm.default norm.ScalarOpt_dim"),
    **_table(
        moves.constant,
        "new_zeros.default new_ones.default new_full.default _assert_tensor_metadata.default",
    ),
    **_table(
        reductions.reduce,
        "mean.dim mean.default sum.dim_IntList sum.default var.dim var.correction std.dim "
        "std.correction amax.default amin.default logsumexp.default",
    ),
    **_table(reductions.index, "argmax.default argmin.default"),
    **_table(reductions.several, "max.dim min.dim var_mean.dim var_mean.correction"),
    **_table(
        places.along,
        "cumsum.default cumprod.default index_fill.int_Scalar index_select.default "
        "index_copy.default index_add.default scatter.value scatter.src gather.default",
    ),
    **_table(places.sorted_along, "sort.default topk.default cummax.default cummin.default"),
    "index.Tensor": places.indexed,
    "copy.default": moves.overwritten,
    **_table(recurrent.recurrent, "lstm.input gru.input rnn_tanh.input rnn_relu.input"),
    **_table(
        recurrent.cell,
        "lstm_cell.default gru_cell.default rnn_tanh_cell.default rnn_relu_cell.default",
    ),
    "col2im.default": places.overlapped,
    **dict.fromkeys(moves.MOVES, moves.move),
    **_table(moves.like, "reshape_as.default view_as.default expand_as.default"),
    "<built-in function getitem>": moves.item,
    **_table(moves.pad, "pad.default constant_pad_nd.default"),
}
"""ATen operator to the handler that labels its result."""

READERS = {
    **dict.fromkeys((name for name in OPERATORS if name.startswith("conv")), 1),
    **dict.fromkeys(("batch_norm.default", "instance_norm.default", "group_norm.default"), 1),
    **dict.fromkeys(("linear.default", "layer_norm.default", "rms_norm.default"), -1),
    **dict.fromkeys(("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input"), -1),
}
"""Operations with weights for channels to the dimension that these lie in."""
