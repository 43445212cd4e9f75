"""Layers with weights: convolutions and linear layers."""

import math

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.constraints import Product
from metaprune_pl.graphs.labels import NOBODY, Activation, Parameter, is_nobody, varying
from metaprune_pl.graphs.reductions import as_map, sum_of_parts
from metaprune_pl.graphs.weight_graph import Connection


def convolution(call: Call) -> Activation:
    """A convolution of one to three dimensions, of any groups, or a transposed one.

    Its outputs are new neurons.
    """
    weight = call.parameter(1)
    groups = call.argument(6, 1)
    assert weight is not None
    shape = call.shape_of(call.node)
    own = call.shape_of(call.argument(1))
    x = call.activation()
    if is_nobody(x.labels) or (x.labels.shape[1] == 1 and varying(x.labels)):
        return _mix_places(call, x)
    x = as_map(call, x)
    if len(varying(x.labels)) > 1 and x.labels.shape[1] > 1:
        return _convolution_of_parts(call, x, weight)
    source = call.neurons(x, 1)
    if weight.constant:
        return _filter(call, x, weight, source)
    transposed = call.operator.startswith("conv_transpose")
    if transposed and weight.companions:  # they lie along the inputs
        raise TraceError(f"{call.name} with computed weights is not supported: {call.where}")
    positions = call.shape_of(call.argument(0)) if transposed else shape
    count = positions[0] * math.prod(positions[2:])
    laid = [1, -1, *[1] * (len(shape) - 2)]
    known = call.again(weight, source, count)
    if known is not None:
        return Activation(known.reshape(laid), None, x.partners)
    owner, target = call.produce(shape[1], source, weight, 2)
    call.builder.connect(
        Connection(
            name=call.module,
            parameter=weight.name,
            kernel=(math.prod(own[2:-1]), own[-1]),
            positions=count,
            target=target.reshape(groups, -1),
            source=source.reshape(groups, -1),
            inputs_first=transposed,
        )
    )
    return Activation(target.reshape(laid), owner, x.partners)


def _convolution_of_parts(call: Call, x: Activation, weight: Parameter) -> Activation:
    """A convolution over a stack of branches adds them up.

    A depthwise one treats the channels of all heads alike.
    """
    kernel = call.shape_of(call.argument(1))
    after = call.shape_of(call.node)
    places = varying(x.labels) - {1}
    if call.argument(6, 1) == kernel[0] == after[1] and places == {0}:
        call.share(x, 1, [weight])
        work = after.numel() * kernel[1:].numel()
        call.builder.products.append(
            Product(nodes=x.labels.flatten(), positions=work // x.labels.numel())
        )
        return Activation(x.labels, None, x.partners)
    if min(places) > 1 and kernel[2:].numel() == 1:
        labels = sum_of_parts(call, x.labels, [1])
        work = after.numel() * kernel[1]
        call.builder.products.append(
            Product(nodes=labels.flatten(), positions=work // labels.numel())
        )
        return Activation(labels)
    call.neurons(x, 1)
    raise AssertionError("neurons() refuses channels in several dimensions")


def _filter(
    call: Call,
    x: Activation,
    weight: Parameter,
    source: Tensor,
) -> Activation:
    """A fixed filter, the same for each channel, such as a blur."""
    if not call.argument(6, 1) == len(source) == call.shape_of(call.node)[1]:
        raise TraceError(f"{call.name} with constant weights is not supported: {call.where}")
    along = weight.elements.flatten(1)[:, 0]
    call.builder.follow(
        weight.name,
        weight.shape,
        along,
        source,
    )
    call.builder.count(call.module, source)
    taps = call.shape_of(call.argument(1))[1:].numel()
    work = call.shape_of(call.node).numel() * taps
    call.builder.products.append(Product(nodes=source, positions=work // len(source)))
    return Activation(x.labels, None, x.partners)


def linear(call: Call) -> Activation:
    """A linear layer: its outputs are new neurons.

    It may read flattened maps, whose places are its taps.
    """
    weight = call.parameter(1)
    assert weight is not None
    shape = call.shape_of(call.node)
    x = call.activation()
    if is_nobody(x.labels) and x.labels.dim() == 2:  # of a length, say: new neurons
        _, nodes = call.builder.new_group(
            f"{call.module}.input".lstrip("."), call.shape_of(call.argument(0))[-1]
        )
        call.builder.fix(nodes)
        x = Activation(nodes[None])
    if x.labels.shape[-1] == 1 and (x.labels.numel() > 1 or is_nobody(x.labels)):
        return _mix_places(call, x)
    features = call.neurons(x, -1)
    source, taps, taps_first = _order(features)
    side = math.isqrt(taps)
    positions = math.prod(shape[:-1])
    laid = [*[1] * (len(shape) - 1), -1]
    known = call.again(weight, source, positions)
    if known is not None:
        return Activation(known.reshape(laid), None, x.partners)
    owner, target = call.produce(
        shape[-1],
        source,
        weight,
        2,
    )
    call.builder.connect(
        Connection(
            name=call.module,
            parameter=weight.name,
            target=target[None],
            source=source[None],
            kernel=(side, side) if side * side == taps else (1, taps),
            taps_first=taps_first,
            positions=positions,
        )
    )
    return Activation(target.reshape(laid), owner, x.partners)


def _order(features: Tensor) -> tuple[Tensor, int, bool]:
    """Neurons that a linear layer reads, taps of each, and whether taps come first.

    Neurons in no regular order, such as keys that stand for several heads, are read one by one.
    """
    neurons = torch.unique(features)
    taps = len(features) // len(neurons)
    if len(features) != taps * len(neurons):
        return features, 1, False
    if torch.equal(features, features[::taps].repeat_interleave(taps)):
        return features[::taps], taps, False
    if torch.equal(features, features[: len(neurons)].repeat(taps)):
        return features[: len(neurons)], taps, True
    return features, 1, False


def embedding(call: Call) -> Activation:
    """A table of vectors for ids: a linear layer on ids as vectors of zeros and a one."""
    weight = call.parameter(0)
    ids = call.activation(1)
    if weight is None or not is_nobody(ids.labels):
        raise TraceError(f"{call.name} of computed ids is not supported: {call.where}")
    shape = call.shape_of(call.node)
    laid = [*[1] * (len(shape) - 1), -1]
    builder = call.builder
    builder.use(weight)
    for connection in builder.connections:
        if connection.parameter == weight.name:
            return Activation(connection.target.reshape(laid))
    name = weight.name.removesuffix(".weight")
    _, source = builder.new_group(f"{name}.ids", weight.shape[0])
    builder.inputs.append(source)
    owner, target = builder.new_group(name, weight.shape[1], depth=1)
    builder.connect(
        Connection(
            name=call.module,
            parameter=weight.name,
            target=target[None],
            source=source[None],
            inputs_first=True,
        )
    )
    return Activation(target.reshape(laid), owner)


def _mix_places(call: Call, x: Activation) -> Activation:
    """A layer over places, the same for each channel (token mixing).

    Its weights connect no neurons.
    """
    nodes = x.labels[x.labels != NOBODY]
    before = call.shape_of(call.argument(0))
    after = call.shape_of(call.node)
    changed = {dim for dim in varying(x.labels) if before[dim] != after[dim]}
    if changed:
        raise TraceError(f"{call.name} changes the number of channels on its way: {call.where}")
    if len(nodes):
        weight = call.shape_of(call.argument(1))
        call.builder.products.append(
            Product(nodes=nodes, positions=after.numel() * weight[1:].numel() // len(nodes))
        )
    if call.operator.startswith("conv") and varying(x.labels):  # it runs along the channels
        call.builder.mixed.append(nodes)
    return Activation(x.labels)
