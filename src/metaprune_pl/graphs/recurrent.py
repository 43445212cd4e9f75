"""Recurrent layers: each hidden neuron has a row of weights for every gate."""

from typing import Any

import torch
from torch import Tensor

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.call import Call
from metaprune_pl.graphs.labels import Activation, Parameter
from metaprune_pl.graphs.weight_graph import Connection


def recurrent(call: Call) -> list[Activation]:
    """RNN, GRU or LSTM of any number of layers and directions: outputs, then last states."""
    x = call.activation()
    states = call.argument(1)
    states = list(states) if isinstance(states, list | tuple) else [states]
    layers = int(call.argument(4))
    both = bool(call.argument(7))
    biases = bool(call.argument(3))
    directions = 2 if both else 1
    step = 4 if biases else 2
    weights = [call.value(node) for node in call.argument(2)]
    if any(isinstance(call.value(state), Activation) for state in states):
        raise TraceError(f"{call.name} with a computed state is not supported: {call.where}")
    if len(weights) != layers * directions * step:
        raise TraceError(f"{call.name} with a projection is not supported: {call.where}")
    shape = call.shape_of(call.argument(0))
    positions = shape[:-1].numel()
    source = call.neurons(x, -1)
    groups = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            first = (layer * directions + direction) * step
            parameters = weights[first : first + step]
            outputs.append(_layer(call, source, parameters, positions))
        source = torch.cat(outputs)
        groups += outputs
    call.builder.tie(torch.stack(groups))  # one hidden size for all
    results = call.node.meta["val"]
    rank = results[0].dim()
    last = torch.stack(groups).reshape(
        len(groups),
        *[1] * (rank - 2),
        -1,
    )
    outputs_of_all = Activation(source.reshape(*[1] * (rank - 1), -1))
    last_states = [Activation(last)] * (len(results) - 1)
    return [outputs_of_all, *last_states]


def cell(call: Call) -> Activation | list[Activation]:
    """One step of a recurrent layer."""
    x = call.activation()
    state: Any = call.argument(1)
    states = list(state) if isinstance(state, list | tuple) else [state]
    parameters = [call.value(node) for node in call.node.args[2:] if node is not None]
    target = _layer(
        call,
        call.neurons(x, -1),
        parameters,
        1,
    )
    for before in states:
        if (value := call.activation_of(before)) is not None:
            call.builder.tie(torch.stack([target, value.labels.flatten()]))
    for module in {call.module, call.module.rpartition(".")[0]}:
        call.builder.count(module, target)
    result = Activation(target.reshape(1, -1))
    value = call.node.meta["val"]
    return [result] * len(value) if isinstance(value, tuple | list) else result


def _layer(
    call: Call,
    source: Tensor,
    parameters: list[Any],
    positions: int,
) -> Tensor:
    """Add the hidden neurons of one layer in one direction, [H]."""
    if not all(isinstance(p, Parameter) and p.moved is None for p in parameters):
        raise TraceError(f"{call.name} with computed weights is not supported: {call.where}")
    from_input, from_state, *biases = parameters
    if (known := call.again(from_input, source, positions)) is not None:
        call.again(from_state, known, positions)
        return known
    size = from_state.shape[1]
    gates = from_state.shape[0] // size
    builder = call.builder
    name = from_input.name.removesuffix(".weight_ih").replace(".weight_ih_", ".")
    _, target = builder.new_group(
        name,
        size,
        depth=builder.depth(source) + 1,
    )
    rows = torch.arange(gates * size).reshape(gates, size).t()
    for weight, nodes in ((from_input, source), (from_state, target)):
        builder.connect(
            Connection(
                name=call.module,
                parameter=weight.name,
                target=target[None],
                source=nodes[None],
                kernel=(1, gates),
                rows=rows,
                positions=positions,
            )
        )
    for bias in biases:
        builder.follow(
            bias.name,
            bias.shape,
            torch.arange(gates * size),
            target.repeat(gates),
        )
    return target
