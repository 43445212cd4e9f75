"""Sums and products of activations with each other, with parameters and with constants."""

import math

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.constraints import Extent
from metaprune_pl.graphs.labels import NOBODY, Activation, Parameter, is_nobody, varying


def add(call: Call) -> Activation:
    """A sum joins neurons (paper, 4.1).

    The main branch absorbs the layer of a shortcut; a shortcut without one becomes an identity.
    """
    operands = _operands(call)
    if len(operands) == 1:  # a number, a constant or a parameter outside the graph
        _follow(call, operands[0])
        return operands[0]
    left, right = operands
    if (plain := _without_new_edges(call, left, right)) is not None:
        return plain
    if left.labels.shape != right.labels.shape:
        raise TraceError(f"{call.name} adds tensors of other channels: {call.where}")
    builder = call.builder
    fresh = [operand for operand in operands if operand.owner is not None]
    if not fresh:
        nodes = left.labels.flatten()
        _, target = builder.new_group(
            f"{call.module}.add".lstrip("."),
            len(nodes),
            depth=builder.depth(nodes),
        )
        for operand in operands:
            _beside_zeros(call, operand.labels.flatten(), target)
            builder.connect_identity(
                call.module,
                operand.labels.flatten(),
                target,
            )
        return Activation(target.reshape(left.labels.shape))
    main = max(fresh, key=lambda operand: builder.depth(operand.labels))
    shortcut = right if main is left else left
    assert main.owner is not None
    if shortcut.owner is not None and builder.can_absorb(main.owner, shortcut.owner):
        builder.absorb(main.owner, shortcut.owner)
    else:
        source = shortcut.labels.flatten()
        target = main.labels.flatten()
        builder.connect_identity(call.module, source, target)
        _beside_zeros(call, source, target)
    return Activation(main.labels)


def _beside_zeros(call: Call, source: Tensor, target: Tensor) -> None:
    """Channels that zero padding is added to: as many as the padding's module says, or all."""
    zeros = (source == NOBODY).nonzero().flatten()
    if not len(zeros):
        return
    nodes = [node for node in call.node.all_input_nodes if "pad" in str(node.target)]
    module = call.module_of(nodes[0]) if nodes else call.module
    first = int((zeros == torch.arange(len(zeros))).sum())
    for part in (zeros[:first], zeros[first:]):
        if len(part):
            call.builder.padded.append(Extent(module=module, parts=(target[part],)))


def multiply(call: Call) -> Activation:
    """A channel gate goes with its channel.

    A parameter is a scale of the neurons where they are fresh.
    """
    operands = _operands(call)
    if len(operands) == 1:
        x = operands[0]
        first = call.value(call.argument(0))
        other = call.value(call.argument(1)) if isinstance(first, Activation) else first
        group = None if x.owner is None else call.builder.group(x.owner)
        if isinstance(other, Parameter) and other.moved is not None and len(varying(x.labels)) == 1:
            call.builder.count(call.module, x.labels)  # it was brought to a shape
        if isinstance(other, Parameter) and group is not None and "scale" not in group.slots:
            in_order = torch.arange(group.size)
            same_size = math.prod(other.shape) == group.size
            if same_size and torch.equal(other.elements.flatten(), in_order):
                group.slots["scale"] = other.name
                return x
        _follow(call, x)
        return x
    left, right = operands
    return _without_new_edges(call, left, right) or _joined(call, left, right)


def _without_new_edges(call: Call, left: Activation, right: Activation) -> Activation | None:
    """The result where no edges are needed, or None.

    The operands have the same neurons, or one belongs to nobody (scores, a mask) or to one neuron.
    """
    if torch.equal(left.labels, right.labels):
        return Activation(left.labels, None, left.partners)
    for one, x in ((left, right), (right, left)):
        if is_nobody(one.labels):
            return Activation(x.labels, None, x.partners)
    for one, x in ((left, right), (right, left)):
        if one.labels.numel() == 1 < x.labels.numel():
            call.builder.fix(one.labels)  # one neuron for all channels has to stay
            return Activation(x.labels, None, x.partners)
    return None


def _operands(call: Call) -> list[Activation]:
    rank = len(call.shape_of(call.node))
    activations = [call.activation_of(call.argument(index)) for index in (0, 1)]
    return [_ranked(x, rank) for x in activations if x is not None]


def pointwise(call: Call) -> Activation:
    """Each element depends on the element at its position only."""
    return call.activation()


def combined(call: Call) -> Activation:
    """Each element depends on those at its position in all operands (a maximum, a choice)."""
    operands = [x for node in call.node.all_input_nodes if (x := call.activation_of(node))]
    result, *others = operands
    rank = len(call.shape_of(call.node))
    for other in others:
        left, right = (_ranked(x, rank) for x in (result, other))
        result = _without_new_edges(call, left, right) or _joined(call, left, right)
    _follow(call, result)
    return result if not others else Activation(result.labels, None, result.partners)


def _ranked(x: Activation, rank: int) -> Activation:
    """Add the dimensions in front that broadcasting adds."""
    if x.labels.dim() == rank:
        return x
    lead = [1] * (rank - x.labels.dim())
    partners = tuple(part.reshape(*lead, *part.shape) for part in x.partners)
    return Activation(
        x.labels.reshape(*lead, *x.labels.shape),
        x.owner,
        partners,
    )


def _joined(call: Call, left: Activation, right: Activation) -> Activation:
    """Tie neurons that meet element by element: the deeper ones lead to the others."""
    if left.labels.shape != right.labels.shape:
        raise TraceError(f"{call.name} joins tensors of other channels: {call.where}")
    builder = call.builder
    x, gate = sorted(
        (left, right),
        key=lambda operand: builder.depth(operand.labels),
    )
    source = gate.labels.flatten()
    target = x.labels.flatten()
    both = (source != NOBODY) & (target != NOBODY)
    builder.connect_identity(call.module, source[both], target[both])
    builder.fix(source[target == NOBODY])
    builder.fix(target[source == NOBODY])
    return Activation(x.labels.where(x.labels != NOBODY, gate.labels))


def softmax(call: Call) -> Activation:
    """Shares along one dimension; where channels compete, they stay, and branches go together."""
    x = call.activation()
    dim = call.argument(1) % x.labels.dim()
    over = x.labels.shape[dim] > 1
    if over and not x.partners and len(varying(x.labels)) == 1:
        call.builder.fix(x.labels)
    elif over and not x.partners:
        call.builder.tie(x.labels.movedim(dim, 0).flatten(1))
    elif any(part.shape[dim] > 1 for part in x.all_labels):
        for part in x.all_labels:
            call.builder.mixed.append(part.flatten())
    return Activation(x.labels, None, x.partners)


def glu(call: Call) -> Activation:
    """One half of the channels is a gate of the other."""
    x = call.activation()
    dim = call.argument(1, -1) % x.labels.dim()
    if x.labels.shape[dim] == 1:
        return Activation(x.labels, None, x.partners)
    value, gate = x.labels.chunk(2, dim)
    call.builder.count(call.module, value)
    return _joined(call, Activation(value), Activation(gate))


def _follow(call: Call, x: Activation) -> None:
    """Note a parameter or constant outside the graph that meets an activation elementwise."""
    shape = call.shape_of(call.node)
    for argument in call.node.args:
        value = call.value(argument)
        if isinstance(value, Parameter):
            for parameter in (value, *value.companions):
                if math.prod(parameter.shape) > 1:
                    elements = parameter.elements.expand(shape)
                    call.builder.follow(
                        parameter.name,
                        parameter.shape,
                        elements,
                        x.labels.expand(shape),
                    )
        elif isinstance(argument, torch.fx.Node) and not isinstance(value, Activation):
            wide = call.shape_of(argument)
            added = len(shape) - len(wide)  # dimensions that broadcasting adds in front
            if any(
                x.labels.shape[dim] > 1 < wide[dim - added]
                for dim in range(len(shape))
                if dim >= added
            ):
                call.builder.fix(x.labels)  # the constant was made for this width
