"""What each operation does to neurons: one handler per kind of ATen operator, in the table at the end."""

import math
from collections.abc import Callable
from typing import Any

import torch

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs import attention, moves, norms
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import NOBODY, Activation, Parameter, is_nobody, varying
from metaprune_pl.graphs.weight_graph import Connection, Product


def _convolution(call: Call) -> Activation:
    weight, groups = call.parameter(1), call.argument(6, 1)
    assert weight is not None
    shape, own = call.shape_of(call.node), call.shape_of(call.argument(1))
    x = call.activation()
    if is_nobody(x.labels) or (x.labels.shape[1] == 1 and varying(x.labels)):
        return _mix_places(call, x)
    if len(varying(x.labels)) > 1 and x.labels.shape[1] > 1:
        return _convolution_of_parts(call, x, weight)
    source = call.neurons(x, 1)
    if weight.constant:
        return _filter(call, x, weight, source)
    transposed = call.operator.startswith("conv_transpose")
    positions = call.shape_of(call.argument(0)) if transposed else shape
    count = positions[0] * math.prod(positions[2:])
    known = call.again(weight, source, count)
    if known is not None:
        return Activation(known.reshape(1, -1, *[1] * (len(shape) - 2)), None, x.partners)
    owner, target = call.produce(shape[1], source, weight, 2)
    call.builder.connect(
        Connection(
            name=call.module, parameter=weight.name, kernel=(math.prod(own[2:-1]), own[-1]), positions=count,
            target=target.reshape(groups, -1), source=source.reshape(groups, -1), inputs_first=transposed,
        )
    )  # fmt: skip
    return Activation(target.reshape(1, -1, *[1] * (len(shape) - 2)), owner, x.partners)


def _convolution_of_parts(call: Call, x: Activation, weight: Parameter) -> Activation:
    """A convolution over a stack of branches adds them up; a depthwise one treats the channels of all heads alike."""
    kernel, after = call.shape_of(call.argument(1)), call.shape_of(call.node)
    places = varying(x.labels) - {1}
    if call.argument(6, 1) == kernel[0] == after[1] and places == {0}:
        call.share(x, 1, [weight])
        work = after.numel() * kernel[1:].numel()
        call.builder.products.append(Product(nodes=x.labels.flatten(), positions=work // x.labels.numel()))
        return Activation(x.labels, None, x.partners)
    if min(places) > 1 and kernel[2:].numel() == 1:
        labels = _sum_of_parts(call, x.labels, [1])
        work = after.numel() * kernel[1]
        call.builder.products.append(Product(nodes=labels.flatten(), positions=work // labels.numel()))
        return Activation(labels)
    call.neurons(x, 1)
    raise AssertionError("neurons() refuses channels in several dimensions")


def _filter(call: Call, x: Activation, weight: Parameter, source: torch.Tensor) -> Activation:
    """A fixed filter, the same for each channel, such as a blur."""
    if not call.argument(6, 1) == len(source) == call.shape_of(call.node)[1]:
        raise TraceError(f"operator 'aten.{call.operator}' with constant weights is not supported: {call.where}.")
    along = weight.elements.flatten(1)[:, 0]
    call.builder.follow(weight.name, weight.shape, along, source)
    call.builder.count(call.module, source)
    work = call.shape_of(call.node).numel() * call.shape_of(call.argument(1))[1:].numel()
    call.builder.products.append(Product(nodes=source, positions=work // len(source)))
    return Activation(x.labels, None, x.partners)


def _linear(call: Call) -> Activation:
    weight = call.parameter(1)
    assert weight is not None
    shape = call.shape_of(call.node)
    x = call.activation()
    if x.labels.shape[-1] == 1 and (x.labels.numel() > 1 or is_nobody(x.labels)):
        return _mix_places(call, x)
    features = call.neurons(x, -1)
    source = torch.unique(features)
    taps = len(features) // len(source)
    neuron_major = features[::taps]
    taps_first = False
    if not torch.equal(features, neuron_major.repeat_interleave(taps)):
        neuron_major, taps_first = features[: len(source)], True
        if not torch.equal(features, neuron_major.repeat(taps)):
            raise TraceError(f"a linear layer reads channels in no regular order: {call.where}.")
    side = math.isqrt(taps)
    positions = math.prod(shape[:-1])
    known = call.again(weight, neuron_major, positions)
    if known is not None:
        return Activation(known.reshape(*[1] * (len(shape) - 1), -1), None, x.partners)
    owner, target = call.produce(shape[-1], neuron_major, weight, 2)
    call.builder.connect(
        Connection(
            name=call.module, parameter=weight.name, target=target[None], source=neuron_major[None],
            kernel=(side, side) if side * side == taps else (1, taps), taps_first=taps_first, positions=positions,
        )
    )  # fmt: skip
    return Activation(target.reshape(*[1] * (len(shape) - 1), -1), owner, x.partners)


def _mix_places(call: Call, x: Activation) -> Activation:
    """A layer over places, the same for each channel (token mixing): its weights connect no neurons."""
    nodes = x.labels[x.labels != NOBODY]
    before, after = call.shape_of(call.argument(0)), call.shape_of(call.node)
    changed = {dim for dim in varying(x.labels) if before[dim] != after[dim]}
    if changed:
        raise TraceError(f"operator 'aten.{call.operator}' changes the number of channels on its way: {call.where}.")
    if len(nodes):
        weight = call.shape_of(call.argument(1))
        call.builder.products.append(Product(nodes=nodes, positions=after.numel() * weight[1:].numel() // len(nodes)))
    if call.operator.startswith("conv") and varying(x.labels):  # it runs along the channels
        call.builder.mixed.append(nodes)
    return Activation(x.labels)


def _add(call: Call) -> Activation:
    operands = _operands(call)
    if len(operands) == 1:  # a number, a constant or a parameter outside the graph
        _follow(call, operands[0])
        return operands[0]
    left, right = operands
    if (same := _same_or_nobody(left, right)) is not None:
        return same
    for one, x in ((left, right), (right, left)):
        if one.labels.numel() == 1 < x.labels.numel():  # one neuron for all channels: it has to stay
            call.builder.fix(one.labels)
            return Activation(x.labels, None, x.partners)
    if left.labels.shape != right.labels.shape:
        raise TraceError(f"operator 'aten.{call.operator}' adds tensors of other channels: {call.where}.")
    builder = call.builder
    fresh = [operand for operand in operands if operand.owner is not None]
    if not fresh:
        nodes = left.labels.flatten()
        _, target = builder.new_group(f"{call.module}.add".lstrip("."), len(nodes), depth=builder.depth(nodes))
        for operand in operands:
            builder.connect_identity(call.module, operand.labels.flatten(), target)
        return Activation(target.reshape(left.labels.shape))
    main = max(fresh, key=lambda operand: builder.depth(operand.labels))
    shortcut = right if main is left else left
    assert main.owner is not None
    if shortcut.owner is not None and builder.can_absorb(main.owner, shortcut.owner):
        builder.absorb(main.owner, shortcut.owner)
    else:
        source, target = shortcut.labels.flatten(), main.labels.flatten()
        builder.connect_identity(call.module, source, target)
        builder.fixed += target[source == NOBODY].tolist()
    return Activation(main.labels)


def _multiply(call: Call) -> Activation:
    """A channel gate goes with its channel; a parameter is a scale of the neurons where they are fresh."""
    operands = _operands(call)
    if len(operands) == 1:
        x = operands[0]
        other = call.value(call.argument(1 if isinstance(call.value(call.argument(0)), Activation) else 0))
        group = None if x.owner is None else call.builder.group(x.owner)
        if isinstance(other, Parameter) and group is not None and "scale" not in group.slots:
            if math.prod(other.shape) == group.size and torch.equal(other.elements.flatten(), torch.arange(group.size)):
                group.slots["scale"] = other.name
                return x
        _follow(call, x)
        return x
    left, right = operands
    if (same := _same_or_nobody(left, right)) is not None:
        return same
    for gate, x in ((left, right), (right, left)):
        if gate.labels.numel() == 1 < x.labels.numel():  # one neuron for all channels: it has to stay
            call.builder.fix(gate.labels)
            return Activation(x.labels, None, x.partners)
    if left.labels.shape != right.labels.shape:
        raise TraceError(f"operator 'aten.{call.operator}' multiplies tensors of other channels: {call.where}.")
    x, gate = sorted(operands, key=lambda operand: call.builder.depth(operand.labels))
    call.builder.connect_identity(call.module, gate.labels.flatten(), x.labels.flatten())
    return Activation(x.labels)


def _same_or_nobody(left: Activation, right: Activation) -> Activation | None:
    """What comes of operands of the same neurons, or of one that belongs to nobody (scores, a mask, a length)."""
    if torch.equal(left.labels, right.labels):
        return Activation(left.labels, None, left.partners)
    for constant, x in ((left, right), (right, left)):
        if is_nobody(constant.labels):
            return Activation(x.labels, None, x.partners)
    return None


def _operands(call: Call) -> list[Activation]:
    return [call.activation(i) for i in (0, 1) if isinstance(call.value(call.argument(i)), Activation)]


def _pointwise(call: Call) -> Activation:
    """Each element depends on the element at its place only."""
    return call.activation()


def _spatial(call: Call) -> Activation:
    """Mixes places of a feature map [B, C, ...], each channel by itself."""
    x = call.activation()
    call.neurons(x, 1)
    return x


def _reduce(call: Call) -> Activation:
    """Mean, sum or the like over some dimensions."""
    x = call.activation()
    rank = x.labels.dim()
    dims = call.argument(1)
    reduced = {dim % rank for dim in ([dims] if isinstance(dims, int) else list(dims or range(rank)))}
    labels, owner = x.labels, x.owner
    over = varying(labels) & reduced
    rest = varying(labels) - reduced
    if over and rest and max(over) < min(rest) and "sum" in call.operator + call.operator.replace("mean", "sum"):
        labels, owner = _sum_of_parts(call, labels, sorted(over)), None
    elif over:  # over channels: the result belongs to none of them
        call.builder.mixed.append(labels[labels != NOBODY])
        labels, owner = torch.full([1] * rank, NOBODY), None
    partners = []
    for part in x.partners:
        if varying(part) & reduced:
            call.builder.mixed.append(part[part != NOBODY])
        else:
            partners.append(part)
    result = call.node.meta["val"]
    if (result[0] if isinstance(result, tuple | list) else result).dim() < rank:  # keepdim is off
        labels, *partners = (part.squeeze(sorted(reduced)) for part in (labels, *partners))
    return Activation(labels, owner, tuple(partners))


def _sum_of_parts(call: Call, labels: torch.Tensor, over: list[int]) -> torch.Tensor:
    """Branches that were stacked are added up: an addition of several activations."""
    kept = [dim for dim in range(labels.dim()) if dim not in over]
    branches = labels.permute(*over, *kept).flatten(0, len(over) - 1).flatten(1)
    builder = call.builder
    _, target = builder.new_group(
        f"{call.module}.sum".lstrip("."), branches.shape[1], depth=builder.depth(labels.flatten())
    )
    for branch in branches:
        builder.connect_identity(call.module, branch, target)
    return target.reshape([1 if dim in over else labels.shape[dim] for dim in range(labels.dim())])


def _several(call: Call) -> list[Activation]:
    """A reduction with two results."""
    result = _reduce(call)
    return [result, result]


def _affine(call: Call) -> Activation:
    """A product and a sum in one, of one activation and parameters."""
    found = [node for node in call.node.args if isinstance(call.value(node), Activation)]
    if len(found) != 1:
        raise TraceError(f"operator 'aten.{call.operator}' of several activations is not supported: {call.where}.")
    x = call.value(found[0])
    assert isinstance(x, Activation)
    _follow(call, x)
    return Activation(x.labels)


def _follow(call: Call, x: Activation) -> None:
    """Note that a parameter or constant outside the graph meets an activation element by element."""
    shape = call.shape_of(call.node)
    for argument in call.node.args:
        value = call.value(argument)
        if isinstance(value, Parameter):
            for parameter in (value, *value.companions):
                if math.prod(parameter.shape) > 1:
                    elements = parameter.elements.expand(shape)
                    call.builder.follow(parameter.name, parameter.shape, elements, x.labels.expand(shape))
        elif isinstance(argument, torch.fx.Node) and not isinstance(value, Activation):
            wide = call.shape_of(argument)
            if any(
                x.labels.shape[dim] > 1 < wide[dim - len(shape) + len(wide)]
                for dim in range(len(shape))
                if dim - len(shape) + len(wide) >= 0
            ):
                call.builder.fix(x.labels)  # the constant was made for this width


def _table(handler: Callable[[Call], Any], names: str) -> dict[str, Callable[[Call], Any]]:
    return dict.fromkeys(names.split(), handler)


OPERATORS: dict[str, Callable[[Call], Any]] = {
    **_table(
        _convolution,
        "conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default conv_transpose2d.input",
    ),
    **_table(_linear, "linear.default"),
    **_table(norms.batch_norm, "batch_norm.default"),
    **_table(norms.group_norm, "group_norm.default"),
    **_table(norms.layer_norm, "layer_norm.default"),
    **_table(_add, "add.Tensor sub.Tensor rsub.Tensor"),
    **_table(_multiply, "mul.Tensor div.Tensor"),
    **_table(
        _pointwise,
        "relu.default relu6.default gelu.default silu.default elu.default leaky_relu.default hardtanh.default "
        "hardswish.default hardsigmoid.default sigmoid.default tanh.default mish.default softplus.default "
        "log_sigmoid.default selu.default celu.default hardshrink.default softsign.default rrelu.default "
        "dropout.default feature_dropout.default alpha_dropout.default clone.default contiguous.default alias.default "
        "detach.default to.dtype to.device to.dtype_layout type_as.default _to_copy.default lift_fresh_copy.default "
        "neg.default abs.default exp.default sqrt.default rsqrt.default square.default pow.Tensor_Scalar log.default "
        "reciprocal.default sin.default cos.default erf.default mul.Scalar div.Scalar add.Scalar sub.Scalar "
        "rsub.Scalar softmax.int log_softmax.int masked_fill.Scalar masked_fill.Tensor clamp.default clamp_min.default "
        "clamp_max.default nan_to_num.default div.Tensor_mode floor.default round.default",
    ),
    **_table(
        _spatial,
        "max_pool2d.default avg_pool2d.default adaptive_avg_pool2d.default adaptive_max_pool2d.default "
        "avg_pool1d.default max_pool1d.default adaptive_avg_pool1d.default lp_pool2d.default upsample_bicubic2d.vec "
        "upsample_nearest2d.vec upsample_bilinear2d.vec",
    ),
    **_table(attention.attention, "scaled_dot_product_attention.default"),
    **_table(attention.matmul, "matmul.default bmm.default"),
    **_table(attention.einsum, "einsum.default"),
    **_table(attention.normalized, "linalg_vector_norm.default"),
    **_table(attention.constant, "new_zeros.default new_ones.default new_full.default zeros_like.default "
             "ones_like.default _assert_tensor_metadata.default"),
    **_table(_reduce, "mean.dim mean.default sum.dim_IntList var.dim var.correction std.dim std.correction "
             "amax.default amin.default logsumexp.default"),
    **_table(_several, "max.dim min.dim var_mean.dim var_mean.correction"),
    "index.Tensor": moves.indexed,
    "copy.default": moves.overwritten,
    "lstm.input": moves.opaque,
    "gru.input": moves.opaque,
    "col2im.default": moves.overlapped,
    **dict.fromkeys(moves.MOVES, moves.move),
    **_table(moves.like, "reshape_as.default view_as.default expand_as.default"),
    **_table(_affine, "addcmul.default"),
    "<built-in function getitem>": moves.item,
    **_table(moves.pad, "pad.default constant_pad_nd.default"),
}  # fmt: skip
"""ATen operator to the handler that labels its result."""
