"""From a network to its graph: a walk over the exported program that follows the neurons.

`torch.export` gives every tensor operation of a forward pass. The walk labels each activation with
the node that each of its elements belongs to. Around an operation that it does not know, all
neurons stay, and the graph names it: never a guess.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from metaprune_pl.errors import TraceError
from metaprune_pl.graphs.builder import GraphBuilder
from metaprune_pl.graphs.constants import Constants
from metaprune_pl.graphs.export import aliases_of, export
from metaprune_pl.graphs.finished import finished
from metaprune_pl.graphs.labels import NOBODY, Activation, Parameter, Unfollowed, nobody
from metaprune_pl.graphs.walk import Walk, walk
from metaprune_pl.graphs.weight_graph import WeightGraph
from metaprune_pl.graphs.wrapped import WRAPPING
from metaprune_pl.networks.examples import Example


def trace(network: nn.Module, example: Example) -> WeightGraph:
    """Turn a network into its graph.

    Args:
        network: Any module that `torch.export` accepts; left as it is.
        example: One input as a batch on any device: an image [1, C, H, W], a tuple of positional
            arguments, or a dictionary of keyword arguments.

    Raises:
        TraceError: The network cannot be exported, or its output does not depend on its input.
    """
    program = export(network, example)
    graph = _graph(network, program, ())
    for last in _other_layouts(program):
        if not _complete(graph):
            graph = min(graph, _graph(network, program, last), key=_left_out(network))
    for node in program.graph.nodes:
        wrapping = node.meta.get(WRAPPING, ())
        node.meta.clear()  # example tensors and stack traces
        node.meta[WRAPPING] = wrapping
    return graph


def _complete(graph: WeightGraph) -> bool:
    return not graph.unfollowed and not graph.outside


def _other_layouts(program: Any) -> list[tuple[int, ...]]:
    """Ranks of inputs that may have their channels in the last dimension: of tokens, of all."""
    inputs = [value for value in _user_inputs(program).values() if value.is_floating_point()]
    ranks = tuple(sorted({value.dim() for value in inputs if value.dim() > 2}))
    return [layout for layout in dict.fromkeys((ranks[:1], ranks)) if layout]


def _left_out(network: nn.Module) -> Any:
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}

    def amount(graph: WeightGraph) -> tuple[int, int]:
        return sum(sizes[name] for name in graph.outside), len(graph.unfollowed)

    return amount


def _user_inputs(program: Any) -> dict[torch.fx.Node, Tensor]:
    names = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    }
    nodes = program.graph.find_nodes(op="placeholder")
    return {
        node: node.meta["val"]
        for node in nodes
        if node.name in names and isinstance(node.meta.get("val"), Tensor)
    }


def _graph(network: nn.Module, program: Any, last: tuple[int, ...]) -> WeightGraph:
    """Walk over an exported program.

    Args:
        network: Its network.
        program: What `export` gave.
        last: Ranks of inputs whose channels are the last dimension, not the second.
    """
    builder = GraphBuilder()
    aliases = aliases_of(network)
    values, known = _values(
        program,
        builder,
        aliases,
        last,
    )
    if not builder.groups:
        builder.new_input(0)
    state = Walk(
        builder=builder,
        values=values,
        constants=Constants(known),
    )
    labels = _output_labels(walk(program.graph_module, state))
    builder.add_names(dict(network.named_modules(remove_duplicate=False)))
    parameters = [name for name, _ in network.named_parameters()]
    return replace(finished(builder, labels, parameters, program), aliases=aliases)


def _values(
    program: Any,
    builder: GraphBuilder,
    aliases: dict[str, str],
    last: tuple[int, ...],
) -> tuple[dict[torch.fx.Node, Any], dict[torch.fx.Node, Any]]:
    """What the program's arguments stand for, and the values of those that are constant."""
    kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    inputs = _user_inputs(program)
    values: dict[torch.fx.Node, Any] = {}
    known: dict[torch.fx.Node, Any] = {}
    for node in program.graph.find_nodes(op="placeholder"):
        spec = kinds[node.name]
        if node in inputs:
            values[node] = _input_labels(builder, inputs[node], last)
        elif spec.kind is InputKind.USER_INPUT:
            known[node] = getattr(spec.arg, "value", None)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            constant = spec.kind is InputKind.BUFFER
            name = aliases.get(str(spec.target), str(spec.target))
            values[node] = Parameter(
                name,
                tuple(node.meta["val"].shape),
                constant=constant,
                node=node,
            )
            if constant:
                buffers = {**program.constants, **program.state_dict}
                known[node] = buffers.get(spec.target)
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            known[node] = program.constants[spec.target]
    return values, known


def _input_labels(builder: GraphBuilder, value: Tensor, last: tuple[int, ...]) -> Activation:
    """Channels of an image [B, C, ...] or of tokens [B, ..., C]; ids and masks have none."""
    rank = value.dim()
    if not value.is_floating_point() or rank < 2:
        return nobody(rank)
    dim = rank - 1 if rank in last else 1
    nodes = builder.new_input(value.shape[dim])
    shape = [1] * rank
    shape[dim] = -1
    return Activation(nodes.reshape(shape))


def _output_labels(outputs: list[Any]) -> Tensor:
    """Nodes of all outputs, each once, [K]."""
    nodes: dict[int, None] = {}
    depends = False
    for value in outputs:
        for part in value if isinstance(value, list) else [value]:
            depends = depends or isinstance(part, Activation | Unfollowed)
            if isinstance(part, Activation):
                for labels in part.all_labels:
                    nodes.update(dict.fromkeys(labels[labels != NOBODY].flatten().tolist()))
    if not depends:
        raise TraceError("the network's output is no tensor that depends on its input.")
    return torch.tensor(list(nodes), dtype=torch.long)
