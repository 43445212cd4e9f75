"""What each operation does to neurons: one handler per kind of ATen operator, in the table at the end."""

import math
from collections.abc import Callable
from typing import Any

import torch

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs import attention, moves, norms
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import NOBODY, Activation, Parameter
from metaprune_pl.graphs.weight_graph import Connection, Product


def _convolution(call: Call) -> Activation:
    weight, groups = call.parameter(1), call.argument(6, 1)
    assert weight is not None
    shape = call.shape_of(call.node)
    source = call.neurons(call.activation(), 1)
    owner, target = call.produce(shape[1], source, weight, call.parameter(2))
    kernel = (1, *weight.shape[2:]) if len(weight.shape) == 3 else weight.shape[2:]
    call.builder.connect(
        Connection(
            name=call.module, parameter=weight.name, kernel=kernel, positions=shape[0] * math.prod(shape[2:]),  # type: ignore[arg-type]
            target=target.reshape(groups, -1), source=source.reshape(groups, -1),
        )
    )  # fmt: skip
    return Activation(target.reshape(1, -1, *[1] * (len(shape) - 2)), owner)


def _linear(call: Call) -> Activation:
    weight = call.parameter(1)
    assert weight is not None
    shape = call.shape_of(call.node)
    x = call.activation()
    if x.labels.shape[-1] == 1 and (x.labels.numel() > 1 or bool((x.labels == NOBODY).all())):
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
    owner, target = call.produce(shape[-1], neuron_major, weight, call.parameter(2))
    call.builder.connect(
        Connection(
            name=call.module, parameter=weight.name, target=target[None], source=neuron_major[None],
            kernel=(side, side) if side * side == taps else (1, taps), taps_first=taps_first,
            positions=math.prod(shape[:-1]),
        )
    )  # fmt: skip
    return Activation(target.reshape(*[1] * (len(shape) - 1), -1), owner)


def _mix_places(call: Call, x: Activation) -> Activation:
    """A linear layer over places, the same for each channel (token mixing): its weights connect no neurons."""
    nodes = x.labels[x.labels != NOBODY]
    if len(nodes):
        inputs = call.shape_of(call.argument(0))[-1]
        work = call.shape_of(call.node).numel() * inputs
        call.builder.products.append(Product(nodes=nodes, positions=work // len(nodes)))
    return Activation(x.labels)


def _add(call: Call) -> Activation:
    operands = _operands(call)
    if len(operands) == 1:  # a number, a constant or a parameter outside the graph
        _follow(call, operands[0])
        return operands[0]
    left, right = operands
    if torch.equal(left.labels, right.labels):
        return Activation(left.labels)
    for constant, x in ((left, right), (right, left)):
        if bool((constant.labels == NOBODY).all()):  # attention scores, a mask, a length
            return Activation(x.labels)
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
    if torch.equal(left.labels, right.labels):
        return Activation(left.labels)
    for constant, x in ((left, right), (right, left)):
        if bool((constant.labels == NOBODY).all()):
            return Activation(x.labels)
    for gate, x in ((left, right), (right, left)):
        if gate.labels.numel() == 1 < x.labels.numel():  # one neuron for all channels: it has to stay
            call.builder.fixed += gate.labels.flatten().tolist()
            return Activation(x.labels)
    if left.labels.shape != right.labels.shape:
        raise TraceError(f"operator 'aten.{call.operator}' multiplies tensors of other channels: {call.where}.")
    x, gate = sorted(operands, key=lambda operand: call.builder.depth(operand.labels))
    call.builder.connect_identity(call.module, gate.labels.flatten(), x.labels.flatten())
    return Activation(x.labels)


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
    """Mean or sum over dimensions along which the neuron does not change."""
    x = call.activation()
    dims = call.argument(1)
    dims = [dims] if isinstance(dims, int) else list(dims or range(x.labels.dim()))
    labels, owner = x.labels, x.owner
    if any(labels.shape[dim] > 1 for dim in dims):  # over channels: the result belongs to none of them
        call.builder.mixed.append(labels[labels != NOBODY])
        labels, owner = torch.full([1] * labels.dim(), NOBODY), None
    if not bool(call.argument(2, False)):
        labels = labels.squeeze([dim % labels.dim() for dim in dims])
    return Activation(labels, owner)


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
    """Note that a parameter outside the graph meets an activation element by element."""
    for argument in call.node.args:
        value = call.value(argument)
        if isinstance(value, Parameter) and math.prod(value.shape) > 1:
            shape = call.shape_of(call.node)
            call.builder.follow(value.name, value.shape, value.elements.expand(shape), x.labels.expand(shape))


def _table(handler: Callable[[Call], Any], names: str) -> dict[str, Callable[[Call], Any]]:
    return dict.fromkeys(names.split(), handler)


OPERATORS: dict[str, Callable[[Call], Any]] = {
    **_table(_convolution, "conv1d.default conv2d.default conv2d.padding"),
    **_table(_linear, "linear.default"),
    **_table(norms.batch_norm, "batch_norm.default"),
    **_table(norms.group_norm, "group_norm.default"),
    **_table(norms.layer_norm, "layer_norm.default"),
    **_table(_add, "add.Tensor add_.Tensor sub.Tensor"),
    **_table(_multiply, "mul.Tensor mul_.Tensor div.Tensor"),
    **_table(
        _pointwise,
        "relu.default relu_.default relu6.default relu6_.default gelu.default silu.default silu_.default elu.default "
        "elu_.default leaky_relu.default leaky_relu_.default hardtanh.default hardtanh_.default hardswish.default "
        "hardswish_.default hardsigmoid.default sigmoid.default tanh.default mish.default softplus.default "
        "dropout.default dropout_.default feature_dropout.default clone.default contiguous.default alias.default "
        "detach.default detach_.default to.dtype _to_copy.default lift_fresh_copy.default neg.default mul.Scalar "
        "expand_as.default softmax.int masked_fill.Scalar masked_fill.Tensor div.Scalar clamp.default "
        "clamp_min.default clamp_max.default",
    ),
    **_table(
        _spatial,
        "max_pool2d.default avg_pool2d.default adaptive_avg_pool2d.default adaptive_max_pool2d.default "
        "avg_pool1d.default max_pool1d.default upsample_bicubic2d.vec "
        "upsample_nearest2d.vec upsample_bilinear2d.vec",
    ),
    **_table(attention.attention, "scaled_dot_product_attention.default"),
    **_table(attention.matmul, "matmul.default bmm.default"),
    **_table(attention.einsum, "einsum.default"),
    **_table(attention.normalized, "linalg_vector_norm.default"),
    **_table(attention.constant, "new_zeros.default new_ones.default new_full.default zeros_like.default "
             "ones_like.default"),
    **_table(_reduce, "mean.dim sum.dim_IntList"),
    **dict.fromkeys(moves.MOVES, moves.move),
    **_table(moves.like, "reshape_as.default view_as.default"),
    **_table(_affine, "addcmul.default"),
    "<built-in function getitem>": moves.item,
    **_table(moves.pad, "pad.default constant_pad_nd.default"),
}  # fmt: skip
"""ATen operator to the handler that labels its result."""
