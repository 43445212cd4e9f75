"""What the program sees in a network: the doctor that one runs before any training."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError, TraceError
from metaprune_pl.networks import NetworkSource
from metaprune_pl.networks.detector import is_detector
from metaprune_pl.pipelines.prepare import unpruned_macs
from metaprune_pl.pruning import (
    AttentionUnits,
    Magnitude,
    PruningGroups,
    PruningSettings,
    count_macs,
    count_parameters,
    prunable_groups,
)
from metaprune_pl.pruning.attributes import attributes_set
from metaprune_pl.pruning.plan import highest_speed_up
from metaprune_pl.reports.figures import save_figure
from metaprune_pl.reports.graph_figure import draw_graph
from metaprune_pl.reports.tables import inspection_tables

FIGURES = (".png", ".pdf", ".svg")
"""Endings of pictures."""


@dataclass(frozen=True, kw_only=True)
class GroupFacts:
    """A pruning group.

    Attributes:
        name: Its first layer.
        layers: Layers whose channels go together.
        width: Channels of the first layer.
        units: Number of prunable units: sets of channels that can only go together, over all
            layers.
    """

    name: str
    layers: tuple[str, ...]
    width: int
    units: int


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a network.

    Attributes:
        network: What was asked for.
        input_shape: Shape (C, H, W) of the image that it was traced with.
        neurons: Number of neurons.
        neuron_groups: Number of layers that they stand in.
        connections: Number of layers that connect them, identity shortcuts included.
        edges: Number of connected pairs of neurons.
        parameters: Number of parameters.
        covered: Share of the parameters that lie in the graph.
        outside: Names of the others, and how many elements each has; they are kept, or cut with the
            neurons they meet.
        macs: Multiply-accumulates for one image.
        speed_up: Those of the network before any pruning over these.
        groups: What can be pruned.
        stays: Layers with channels that cannot be pruned: how many, and why.
        highest_speed_up: Multiply-accumulates now over those with one unit left in each group.
        unfollowed: Operations that the trace does not follow; the channels around them stay.
        attributes: Attributes of modules that pruning sets, since they count channels.
    """

    network: str
    input_shape: tuple[int, ...]
    neurons: int
    neuron_groups: int
    connections: int
    edges: int
    parameters: int
    covered: float
    outside: dict[str, int]
    macs: int
    speed_up: float
    groups: tuple[GroupFacts, ...]
    stays: dict[str, str]
    highest_speed_up: float
    unfollowed: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()

    def tables(self) -> list[RenderableType]:
        """Return what was found as tables and sentences."""
        return inspection_tables(self)


def inspect_network(
    source: NetworkSource,
    *,
    input_shape: tuple[int, ...] | None = None,
    attention: AttentionUnits = "width",
    figure: str | None = None,
) -> Inspection:
    """Trace a network, of a detector its backbone, and find its pruning groups.

    Args:
        source: The network.
        input_shape: Shape of one image; None is what the network is known to be made for.
        attention: What goes together in attention.
        figure: File for a picture of the graph.

    Raises:
        ConfigError: The picture's ending is not known.
        NetworkError: The network cannot be built.
        PruningError: Whole heads are asked for, and cannot be pruned in this network.
        StorageError: The network cannot be read.
        TraceError: The network cannot be turned into a graph.
    """
    if figure is not None and Path(figure).suffix not in FIGURES:
        raise ConfigError(f"figure '{figure}': the name of a picture ends in {', '.join(FIGURES)}.")
    network, card = source.open(input_shape=input_shape)
    name, whole = source.network, network
    if is_detector(network):
        name, network = f"{name}, backbone", network.get_submodule("backbone")
    shape = card.input_shape if input_shape is None else input_shape
    guessed = not source.stored and input_shape is None
    groups = _groups(network, shape, attention, guessed)
    macs = count_macs(network, torch.zeros(1, *shape))
    if figure is not None:
        size = f"{count_parameters(network) / 1e6:,.2f} M parameters"
        title = f"{name} · {size} · {macs / 1e9:,.2f} G multiply-accumulates"
        save_figure(draw_graph(groups, title), Path(figure))
    speed_up = 1.0
    if source.stored and network is whole:
        speed_up = unpruned_macs(replace(card, input_shape=shape)) / macs
    return _inspection(name, network, shape, groups, macs, speed_up)


def _groups(
    network: nn.Module, shape: tuple[int, ...], attention: AttentionUnits, guessed: bool
) -> PruningGroups:
    """Find the pruning groups; where the image's shape was guessed, an error says so."""
    try:
        return prunable_groups(network, torch.zeros(1, *shape), attention)
    except TraceError as error:
        if not guessed:
            raise
        text = "x".join(map(str, shape))
        raise TraceError(
            f"{error} (Traced with an image of {text}; --input_shape sets another.)"
        ) from error


def _inspection(
    name: str,
    network: nn.Module,
    shape: tuple[int, ...],
    groups: PruningGroups,
    macs: int,
    speed_up: float,
) -> Inspection:
    graph = groups.graph
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    outside = {name: sizes[name] for name in graph.outside}
    total = count_parameters(network)
    fixed = macs - graph.macs(torch.ones(graph.num_nodes, dtype=torch.bool))
    return Inspection(
        network=name,
        input_shape=shape,
        neurons=graph.num_nodes,
        neuron_groups=len(graph.groups),
        connections=len(graph.connections),
        edges=graph.num_edges,
        parameters=total,
        covered=1 - sum(outside.values()) / max(1, total),
        outside=outside,
        macs=macs,
        groups=_facts(groups),
        speed_up=speed_up,
        stays=_stays(groups),
        highest_speed_up=highest_speed_up(
            groups, network.state_dict(), Magnitude(), PruningSettings(), fixed
        ),
        unfollowed=graph.unfollowed,
        attributes=attributes_set(graph),
    )


def _facts(groups: PruningGroups) -> tuple[GroupFacts, ...]:
    layers: dict[int, list[str]] = {}
    width: dict[int, int] = {}
    for layer in groups.graph.groups:
        for number in groups.group[groups.unit[layer.start : layer.stop]].unique().tolist():
            layers.setdefault(number, []).append(layer.name)
            width.setdefault(number, layer.size)
    for (
        connection
    ) in groups.graph.connections:  # layers whose outputs are added to those of another
        for number in groups.group[groups.unit[connection.target.flatten()]].unique().tolist():
            if connection.parameter is not None and connection.name not in layers[number]:
                layers[number].append(connection.name)
    return tuple(
        GroupFacts(name=name, layers=tuple(layers[number]), width=width[number], units=units)
        for number, (name, units) in enumerate(
            zip(groups.names, groups.sizes().tolist(), strict=True)
        )
        if units
    )


def _stays(groups: PruningGroups) -> dict[str, str]:
    """Layers with channels that cannot be pruned, and why."""
    graph = groups.graph
    image = torch.zeros(len(groups.prunable), dtype=torch.bool)
    classes, counted = image.clone(), image.clone()
    image[groups.unit[graph.inputs]] = True
    classes[groups.unit[graph.output]] = True
    counted[groups.unit[graph.constraints.fixed]] = True

    def why(units: Tensor) -> str:
        if bool(image[units].any()):
            return "the image's channels, or tied to them"
        if bool(classes[units].any()):
            return "the network's output, or tied to it"
        if bool(counted[units].any()):
            return (
                "something is made for as many (zero padding, one gate for all, fixed places, an "
                "operation that is not followed)"
            )
        return "the forward pass does not run with fewer, as a trial has shown"

    found = {}
    for layer in graph.groups:
        units = groups.unit[layer.start : layer.stop]
        if number := int((~groups.prunable[units]).sum()):
            found[layer.name] = (
                f"{number} of {layer.size} channels: {why(units[~groups.prunable[units]])}"
            )
    return found


def inspect(
    network: str,
    *,
    arguments: dict[str, Any] | None = None,
    state: str | None = None,
    input_shape: str | None = None,
    attention: AttentionUnits = "width",
    figure: str | None = None,
) -> Inspection:
    """Tell what can be pruned in a network, before any training.

    Args:
        network: Folder of a stored network, or a name: cifar_resnet, torchvision/NAME,
            timm/NAME, a NAME that only one of these knows, or package.module:function of your
            own.
        arguments: Keyword arguments of the builder that is named.
        state: File of its weights: safetensors, or a state dict of torch.save.
        input_shape: Channels, height and width of one image, as in 3,224,224; by default what
            the network is made for, as far as it tells.
        attention: What goes together in attention: `width`, the same channels of all heads, or
            whole `heads`.
        figure: File for a picture of the graph (.png, .pdf or .svg).

    Example:
        metaprune inspect torchvision/resnet18
    """
    source = NetworkSource(network=network, arguments=arguments or {}, state=state)
    shape = None if input_shape is None else _as_shape(input_shape)
    return inspect_network(source, input_shape=shape, attention=attention, figure=figure)


def _as_shape(text: str) -> tuple[int, int, int]:
    numbers = re.findall(r"\d+", text)
    if len(numbers) != 3 or not all(map(int, numbers)):
        raise ConfigError(
            f"input_shape '{text}': give channels, height and width, as in 3,224,224."
        )
    return int(numbers[0]), int(numbers[1]), int(numbers[2])
