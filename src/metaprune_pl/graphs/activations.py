"""Which activation follows each neuron: what decides about the symmetries of its channel."""

import re

from torch import Tensor

from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import NOBODY, Activation
from metaprune_pl.graphs.moves import MOVES
from metaprune_pl.graphs.weight_graph import Followed

_SCALE = frozenset(
    (
        "relu.default leaky_relu.default prelu.default abs.default amax.default amin.default "
        "max_pool1d.default max_pool2d.default max_pool3d.default maximum.default minimum.default "
        "adaptive_max_pool1d.default adaptive_max_pool2d.default adaptive_max_pool3d.default "
        "max_pool1d_with_indices.default max_pool2d_with_indices.default "
        "max_pool3d_with_indices.default"
    ).split()
)
_SIGN = frozenset("tanh.default sin.default erf.default".split())
_LINEAR = frozenset(
    (
        "conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default "
        "conv3d.padding conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input "
        "linear.default batch_norm.default mul.Scalar div.Scalar neg.default dropout.default "
        "feature_dropout.default clone.default contiguous.default alias.default detach.default "
        "to.dtype to.device to.dtype_layout _to_copy.default avg_pool1d.default avg_pool2d.default "
        "avg_pool3d.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default "
        "adaptive_avg_pool3d.default upsample_nearest2d.vec upsample_bilinear2d.vec mean.dim "
        "mean.default sum.dim_IntList sum.default <built-in function getitem> reshape_as.default "
        "view_as.default expand_as.default"
    ).split()
) | frozenset(MOVES)

_REDUCTIONS = frozenset("mean.dim sum.dim_IntList amax.default amin.default".split())
_WHOLE = frozenset("mean.default sum.default".split())


def observe(call: Call) -> None:
    """Note what follows the neurons that an operation reads."""
    operands = [value for node in call.node.all_input_nodes if (value := call.activation_of(node))]
    kept = _kept(call, operands)
    for operand in operands:
        for labels in operand.all_labels:
            nodes = labels[labels != NOBODY].flatten()
            if len(nodes) and kept != {"scale", "sign"}:
                name = call.operator.partition(".")[0].rstrip("_")
                call.builder.followed.append(
                    Followed(nodes=nodes, operator=name, module=call.module, keeps=frozenset(kept))
                )


def _mixes(call: Call, labels: Tensor) -> bool:
    """Whether an operation reduces or pools over several neurons."""
    if call.operator in _WHOLE:
        return labels.numel() > 1
    if call.operator in _REDUCTIONS:
        given = call.argument(1)
        dims = [given] if isinstance(given, int) else given or range(labels.dim())
        return any(labels.shape[dim] > 1 for dim in dims)
    pooled = re.search(r"(?:pool|upsample_\w+?)(\d)d", call.operator)
    return pooled is not None and any(size > 1 for size in labels.shape[-int(pooled[1]) :])


def _kept(call: Call, operands: list[Activation]) -> set[str]:
    """Which factors an operation passes on."""
    name = call.operator.replace("_.", ".")
    both = {"scale", "sign"}
    if any(operand.partners or _mixes(call, operand.labels) for operand in operands):
        return set()
    if name == "batch_norm.default" and call.value(call.argument(1)) is None:
        return set()  # no weight takes the factor
    active = [call.activation_of(argument) is not None for argument in call.node.args[:2]]
    if name in ("add.Tensor", "sub.Tensor"):
        return both if all(active) else set()
    if name == "mul.Tensor":
        return both if sum(active) == 1 else set()
    if name == "div.Tensor":
        return both if active == [True, False] else set()
    if name in ("pad.default", "constant_pad_nd.default"):
        zeros = call.argument(2) in (None, 0, "constant") and not call.argument(3)
        return both if zeros else set()
    if name in _LINEAR:
        return both
    return {"scale"} if name in _SCALE else {"sign"} if name in _SIGN else set()
