"""What each operation does to neurons: one handler per kind of ATen operator, in the table at the end."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs import attention
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import NOBODY, Activation, Parameter, moved, shrink
from metaprune_pl.graphs.weight_graph import Connection, Extent, Product

_NAMING = {"view.default", "reshape.default", "_unsafe_view.default", "unflatten.int"}
"""Operations whose arguments are sizes."""
_COPYING = {"clone.default", "contiguous.default", "detach.default", "alias.default", "to.dtype"}
"""Operations that leave a parameter as it is."""


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


def _batch_norm(call: Call) -> Activation:
    names = ("norm.weight", "norm.bias", "norm.mean", "norm.var")
    found = {slot: p.name for index, slot in enumerate(names, 1) if (p := call.parameter(index)) is not None}
    x = call.activation()
    return _norm(call, x, 1, x.owner, found)


def _group_norm(call: Call) -> Activation:
    x, groups = call.activation(), call.argument(1)
    nodes = call.neurons(x, 1)
    if groups > 1:  # whole norm groups are removed: their nodes go together
        call.builder.tie(nodes.reshape(groups, -1).t())
    else:
        call.builder.mixed.append(nodes)
    names = (("norm.weight", 2), ("norm.bias", 3))
    found = {slot: p.name for slot, index in names if (p := call.parameter(index)) is not None}
    return _norm(call, x, 1, x.owner, found)


def _layer_norm(call: Call) -> Activation:
    x = call.activation()
    if len(call.argument(1)) != 1:
        raise TraceError(f"operator 'aten.{call.operator}' over several dimensions is not supported: {call.where}.")
    nodes = call.neurons(x, -1)
    call.builder.mixed.append(nodes)
    names = (("layer_norm.weight", 2), ("layer_norm.bias", 3))
    found = {slot: p.name for slot, index in names if (p := call.parameter(index)) is not None}
    home = call.builder.owner_of(nodes)  # the norm that reads a stream is kept on the stream's nodes (paper, G.1)
    return _norm(call, x, -1, home, found)


def _norm(call: Call, x: Activation, dim: int, home: str | None, found: dict[str, str]) -> Activation:
    """Keep a norm's parameters on the neurons of `home`, or on neurons of its own where that place is taken."""
    source = call.neurons(x, dim)
    group = None if home is None else call.builder.group(home)
    if group is not None and group.size == len(source) and not any(slot in group.slots for slot in found):
        group.slots.update(found)
        return x
    owner, target = call.builder.new_group(call.module, len(source), depth=call.builder.depth(source))
    call.builder.connect_identity(call.module, source, target)
    call.builder.group(owner).slots.update(found)
    shape = [1] * x.labels.dim()
    shape[dim] = -1
    return Activation(target.reshape(shape), owner)


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


def _follow(call: Call, x: Activation) -> None:
    """Note that a parameter outside the graph meets an activation element by element."""
    for argument in call.node.args:
        value = call.value(argument)
        if isinstance(value, Parameter) and math.prod(value.shape) > 1:
            shape = call.shape_of(call.node)
            call.builder.follow(value.name, value.shape, value.elements.expand(shape), x.labels.expand(shape))


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


def _move(call: Call) -> Any:
    """Moves data without changing it: run on the labels themselves."""
    first: Any = call.node.args[0]
    several = isinstance(first, list | tuple)
    sources = list(first) if several else [first]
    full = [_full_labels(call, source, sources) for source in sources]
    if call.operator == "cat.default":
        full = _joined(call, full)
    result = _run(call, full if several else full[0])
    if isinstance(result, list | tuple):
        parts = [shrink(part) for part in result]
        for part in parts:
            rows = part.reshape(-1, [size for size in part.shape if size > 1][-1]) if part.numel() > 1 else part
            call.builder.extents.append(Extent(module=call.module, nodes=rows.flatten()[: rows.shape[-1]]))
        if len({part.shape for part in parts}) == 1 and parts[0].numel() > 1:  # halves stay as wide as each other
            call.builder.tie(torch.stack([part.flatten() for part in parts]))
        return [Activation(part) for part in parts]
    labels = shrink(result)
    varying = [size for size in labels.shape if size > 1]
    if len(varying) > 1 and not several and call.activation().labels.numel() == max(call.activation().labels.shape):
        grid = labels.reshape(-1, varying[-1])
        call.builder.tie(grid)  # rows stay as long as each other
        call.builder.extents.append(Extent(module=call.module, nodes=grid[0]))
    if not several and len(varying) == 1 and call.operator in _NAMING:
        call.builder.extents.append(Extent(module=call.module, nodes=labels.flatten()))
    owner = None if several else call.activation().owner
    if owner is not None:
        group = call.builder.group(owner)
        whole = torch.arange(group.start, group.start + group.size)
        owner = owner if torch.equal(labels.flatten(), whole) else None
    return Activation(labels, owner)


def _joined(call: Call, full: list[Tensor]) -> list[Tensor]:
    """Places of different producers side by side (a class token of its own): their channels go together."""
    axis = call.argument(1, 0)
    small = [shrink(labels) for labels in full]
    if any(part.shape[axis] > 1 or bool((part == NOBODY).any()) for part in small) or small[0].numel() == 1:
        return full
    for index, part in enumerate(small[1:], 1):
        if part.shape == small[0].shape and not torch.equal(part, small[0]):
            call.builder.connect_identity(call.module, part.flatten(), small[0].flatten())
            full[index] = small[0].expand(full[index].shape)
    return full


def _like(call: Call) -> Activation:
    """Takes the shape of another tensor."""
    x = call.activation()
    labels = shrink(x.labels.expand(call.shape_of(call.argument(0))).reshape(call.shape_of(call.node)))
    return Activation(labels)


def _affine(call: Call) -> Activation:
    """A product and a sum in one, of one activation and parameters."""
    found = [node for node in call.node.args if isinstance(call.value(node), Activation)]
    if len(found) != 1:
        raise TraceError(f"operator 'aten.{call.operator}' of several activations is not supported: {call.where}.")
    x = call.value(found[0])
    assert isinstance(x, Activation)
    _follow(call, x)
    return Activation(x.labels)


def _full_labels(call: Call, source: Any, sources: list[Any]) -> Tensor:
    """Labels of every element of an operand; a parameter beside activations (class token) follows their channels."""
    value, shape = call.value(source), call.shape_of(source)
    if isinstance(value, Activation):
        return value.labels.expand(shape)
    beside = next((v for s in sources if isinstance(v := call.value(s), Activation)), None)
    if not isinstance(value, Parameter) or beside is None:
        return torch.full(shape, NOBODY)
    axis = call.argument(1, 0)
    if beside.labels.shape[axis] > 1:
        raise TraceError(f"operator 'aten.{call.operator}' joins channels with a parameter: {call.where}.")
    labels = beside.labels.expand(shape)
    call.builder.follow(value.name, value.shape, value.elements.expand(shape), labels)
    return labels


def _run(call: Call, first: Any) -> Any:
    assert callable(call.node.target)
    return call.node.target(first, *call.node.args[1:], **call.node.kwargs)


def moved_parameter(call: Call) -> Parameter | None:
    """Return a parameter that was only moved; None is anything else that no activation has a part in."""
    first = call.node.args[0] if call.node.args else None
    value = call.value(first) if isinstance(first, torch.fx.Node) else None
    if isinstance(value, Parameter) and call.operator in _COPYING:
        return value
    if isinstance(value, Parameter) and OPERATORS.get(call.operator) is _move:
        result = _run(call, value.elements)
        if isinstance(result, Tensor):
            return Parameter(value.name, value.shape, result)
    return None


def _item(call: Call) -> Any:
    return call.value(call.node.args[0])[call.node.args[1]]


def _pad(call: Call) -> Activation:
    """Padding of places leaves channels as they are; padded channels belong to nobody."""
    x = call.activation()
    amounts = list(call.argument(1))
    sizes = list(x.labels.shape)
    if x.labels.numel() == 1:  # a single neuron does not show where channels are
        sizes[1 if len(sizes) > 3 else -1] = 2
    for index in range(0, len(amounts), 2):
        if sizes[-1 - index // 2] == 1:
            amounts[index] = amounts[index + 1] = 0
    if not any(amounts):
        return x
    return Activation(moved(x, x.labels.shape, lambda labels: torch.nn.functional.pad(labels, amounts, value=NOBODY)))


def _table(handler: Callable[[Call], Any], names: str) -> dict[str, Callable[[Call], Any]]:
    return dict.fromkeys(names.split(), handler)


OPERATORS: dict[str, Callable[[Call], Any]] = {
    **_table(_convolution, "conv1d.default conv2d.default"),
    **_table(_linear, "linear.default"),
    **_table(_batch_norm, "batch_norm.default"),
    **_table(_group_norm, "group_norm.default"),
    **_table(_layer_norm, "layer_norm.default"),
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
        "upsample_nearest2d.vec upsample_bilinear2d.vec",
    ),
    **_table(attention.attention, "scaled_dot_product_attention.default"),
    **_table(attention.matmul, "matmul.default bmm.default"),
    **_table(attention.einsum, "einsum.default"),
    **_table(attention.normalized, "linalg_vector_norm.default"),
    **_table(attention.constant, "new_zeros.default new_ones.default new_full.default zeros_like.default "
             "ones_like.default"),
    **_table(_reduce, "mean.dim sum.dim_IntList"),
    **_table(
        _move,
        "flatten.using_ints view.default reshape.default _unsafe_view.default permute.default transpose.int "
        "swapaxes.default unsqueeze.default squeeze.default squeeze.dim squeeze.dims slice.Tensor select.int "
        "cat.default chunk.default roll.default unbind.int unflatten.int expand.default split.Tensor "
        "split_with_sizes.default",
    ),
    **_table(_like, "reshape_as.default view_as.default"),
    **_table(_affine, "addcmul.default"),
    "<built-in function getitem>": _item,
    **_table(_pad, "pad.default constant_pad_nd.default"),
}  # fmt: skip
"""ATen operator to the handler that labels its result."""
