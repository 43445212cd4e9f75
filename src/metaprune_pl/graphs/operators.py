"""What each operation does to neurons: one handler per kind of ATen operator, in the table at the end."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.builder import GraphBuilder
from metaprune_pl.graphs.labels import NOBODY, Activation, Parameter, channels, moved, shrink
from metaprune_pl.graphs.weight_graph import Connection


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One operation of the exported program, with what its arguments stand for."""

    builder: GraphBuilder
    node: torch.fx.Node
    operator: str
    module: str
    values: dict[torch.fx.Node, Any]

    @property
    def where(self) -> str:
        """Module path and tensor of the operation, for errors."""
        shape = "x".join(map(str, self.shape_of(self.node)))
        return f"module '{self.module or 'the network'}', tensor '{self.node.name}' of shape {shape}"

    @staticmethod
    def shape_of(node: Any) -> torch.Size:
        """Shape of a node's tensor."""
        value = node.meta.get("val")
        return value.shape if isinstance(value, Tensor) else torch.Size()

    def value(self, argument: Any) -> Any:
        """What an argument stands for: Activation, Parameter, None (a constant tensor) or a plain number or list."""
        return self.values.get(argument) if isinstance(argument, torch.fx.Node) else argument

    def argument(self, index: int, default: Any = None) -> Any:
        """Return a raw argument; export leaves out trailing defaults."""
        return self.node.args[index] if len(self.node.args) > index else default

    def activation(self, index: int = 0) -> Activation:
        """Return an argument that must be an activation; fresh only where nobody else reads it."""
        node = self.argument(index)
        value = self.value(node)
        if not isinstance(value, Activation):
            raise TraceError(f"operator 'aten.{self.operator}' on a tensor without neurons: {self.where}.")
        return Activation(value.labels, value.owner if len(node.users) == 1 else None)

    def parameter(self, index: int) -> Parameter | None:
        """Return an argument that must be a parameter or buffer, or absent."""
        node = self.argument(index)
        value = self.value(node)
        if node is None:
            return None
        if isinstance(value, Parameter):
            return value
        raise TraceError(f"operator 'aten.{self.operator}' with computed weights is not supported: {self.where}.")

    def neurons(self, activation: Activation, dim: int) -> Tensor:
        """Return the nodes along a dimension of the first argument, [C]."""
        nodes = channels(activation.labels, dim, self.shape_of(self.argument(0)))
        if nodes is None or bool((nodes == NOBODY).any()):
            raise TraceError(
                f"operator 'aten.{self.operator}' reads a tensor whose channels are not in one dimension: {self.where}."
            )
        return nodes

    def produce(self, outputs: int, inputs: Tensor, weight: Parameter, bias: Parameter | None) -> tuple[str, Tensor]:
        """Add the neurons of a layer that reads the given nodes."""
        if any(connection.parameter == weight.name for connection in self.builder.connections):
            raise TraceError(f"parameter '{weight.name}' is used twice, which is not supported: {self.where}.")
        owner, target = self.builder.new_group(self.module, outputs, depth=self.builder.depth(inputs) + 1)
        if bias is not None:
            self.builder.group(owner).slots["bias"] = bias.name
        return owner, target


def _convolution(call: Call) -> Activation:
    weight, groups = call.parameter(1), call.argument(6, 1)
    assert weight is not None
    shape = call.shape_of(call.node)
    source = call.neurons(call.activation(), 1)
    owner, target = call.produce(shape[1], source, weight, call.parameter(2))
    kernel = (1, *weight.shape[2:]) if len(weight.shape) == 3 else weight.shape[2:]
    call.builder.connect(
        Connection(
            name=call.module, parameter=weight.name, kernel=kernel, positions=math.prod(shape[2:]),  # type: ignore[arg-type]
            target=target.reshape(groups, -1), source=source.reshape(groups, -1),
        )
    )  # fmt: skip
    return Activation(target.reshape(1, -1, *[1] * (len(shape) - 2)), owner)


def _linear(call: Call) -> Activation:
    weight = call.parameter(1)
    assert weight is not None
    shape = call.shape_of(call.node)
    features = call.neurons(call.activation(), -1)
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
            positions=math.prod(shape[1:-1]),
        )
    )  # fmt: skip
    return Activation(target.reshape(*[1] * (len(shape) - 1), -1), owner)


def _batch_norm(call: Call) -> Activation:
    x = call.activation()
    names = ("norm.weight", "norm.bias", "norm.mean", "norm.var")
    found = {slot: p.name for index, slot in enumerate(names, 1) if (p := call.parameter(index)) is not None}
    owner, source = x.owner, call.neurons(x, 1)
    group = None if owner is None else call.builder.group(owner)
    if group is None or group.size != len(source) or any(slot.startswith("norm.") for slot in group.slots):
        owner, target = call.builder.new_group(call.module, len(source), depth=call.builder.depth(source))
        call.builder.connect_identity(call.module, source, target)
        x = Activation(target.reshape(1, -1, *[1] * (x.labels.dim() - 2)), owner)
    assert owner is not None
    call.builder.group(owner).slots.update(found)
    return Activation(x.labels, owner)


def _add(call: Call) -> Activation:
    operands = [call.activation(i) for i in (0, 1) if isinstance(call.value(call.argument(i)), Activation)]
    if len(operands) == 1:  # a number, a constant or a parameter outside the graph
        return operands[0]
    left, right = operands
    if torch.equal(left.labels, right.labels):
        return Activation(left.labels)
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
    if any(x.labels.shape[dim] > 1 for dim in dims):
        raise TraceError(f"operator 'aten.{call.operator}' mixes channels: {call.where}.")
    keep = bool(call.argument(2, False))
    labels = x.labels if keep else x.labels.squeeze([dim % x.labels.dim() for dim in dims])
    return Activation(labels, x.owner)


def _move(call: Call) -> Any:
    """Moves data without changing it: run on the labels themselves."""
    sources = list(call.node.args[0]) if isinstance(call.node.args[0], list | tuple) else [call.node.args[0]]
    full = []
    for source in sources:
        value = call.value(source)
        labels = value.labels if isinstance(value, Activation) else torch.tensor(NOBODY)
        full.append(labels.expand(call.shape_of(source)))
    first = full if isinstance(call.node.args[0], list | tuple) else full[0]
    assert callable(call.node.target)
    result = call.node.target(first, *call.node.args[1:], **call.node.kwargs)
    if isinstance(result, list | tuple):
        return [Activation(shrink(part)) for part in result]
    owner = call.activation().owner if len(sources) == 1 and not isinstance(first, list) else None
    labels = shrink(result)
    if owner is not None:
        group = call.builder.group(owner)
        whole = torch.arange(group.start, group.start + group.size)
        owner = owner if torch.equal(labels.flatten(), whole) else None
    return Activation(labels, owner)


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
    **_table(_add, "add.Tensor add_.Tensor"),
    **_table(
        _pointwise,
        "relu.default relu_.default relu6.default relu6_.default gelu.default silu.default silu_.default elu.default "
        "elu_.default leaky_relu.default leaky_relu_.default hardtanh.default hardtanh_.default hardswish.default "
        "hardswish_.default hardsigmoid.default sigmoid.default tanh.default mish.default softplus.default "
        "dropout.default dropout_.default feature_dropout.default clone.default contiguous.default alias.default "
        "detach.default detach_.default to.dtype _to_copy.default lift_fresh_copy.default neg.default mul.Scalar "
        "div.Scalar clamp.default clamp_min.default clamp_max.default",
    ),
    **_table(
        _spatial,
        "max_pool2d.default avg_pool2d.default adaptive_avg_pool2d.default adaptive_max_pool2d.default "
        "upsample_nearest2d.vec upsample_bilinear2d.vec",
    ),
    **_table(_reduce, "mean.dim sum.dim_IntList"),
    **_table(
        _move,
        "flatten.using_ints view.default reshape.default _unsafe_view.default permute.default transpose.int "
        "unsqueeze.default squeeze.default squeeze.dim squeeze.dims slice.Tensor select.int cat.default "
        "chunk.default split.Tensor split_with_sizes.default",
    ),
    "<built-in function getitem>": _item,
    **_table(_pad, "pad.default constant_pad_nd.default"),
}  # fmt: skip
"""ATen operator to the handler that labels its result."""
