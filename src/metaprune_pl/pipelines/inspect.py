"""`inspect`: what can be pruned in a network; the doctor that one runs before any training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from metaprune_pl.errors import TraceError
from metaprune_pl.networks import NetworkSource
from metaprune_pl.networks.detector import is_detector
from metaprune_pl.networks.inputs import Shape, example_of, read_shape, shape_as_text
from metaprune_pl.pruning import AttentionUnits, PruningGroups, count_macs, prunable_groups
from metaprune_pl.pruning.unpruned import unpruned_macs
from metaprune_pl.reports.figures import check_figure, save_figure
from metaprune_pl.reports.graph_figure import draw_graph
from metaprune_pl.reports.inspection import Inspection


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
        input_shape: Sizes of one input, as in 3,224,224, or a word for each of several inputs,
            [NAME=]SIZES[:ids|:mask|:flags]; by default what it is made for, as far as it tells.
        attention: What goes together in attention: `width`, the same channels of all heads, or
            whole `heads`.
        figure: File for a picture of the graph (.png, .pdf or .svg).

    Example:
        metaprune inspect torchvision/resnet18
    """
    if figure is not None:
        check_figure(Path(figure))
    given = None if input_shape is None else read_shape(input_shape)
    source = NetworkSource(network=network, arguments=arguments, state=state)
    whole, card = source.open(input_shape=given)
    name, part = network, whole
    if is_detector(whole):
        name, part = f"{network}, backbone", whole.get_submodule("backbone")
    shape = given or card.input_shape
    guessed = not source.stored and given is None
    groups = _groups(part, shape, attention, guessed)
    macs = count_macs(part, example_of(shape))
    speed_up = 1.0
    if source.stored and part is whole:
        speed_up = unpruned_macs(replace(card, input_shape=shape)) / macs
    result = Inspection.of(name, part, shape, groups, macs=macs, speed_up=speed_up, assumed=guessed)
    if figure is not None:
        save_figure(draw_graph(groups, result.title), Path(figure))
    return result


def _groups(
    network: nn.Module, shape: Shape, attention: AttentionUnits, guessed: bool
) -> PruningGroups:
    """Find the pruning groups; where the image's shape was guessed, an error says so."""
    try:
        return prunable_groups(network, example_of(shape), attention)
    except TraceError as error:
        if not guessed:
            raise
        raise TraceError(
            f"{error} (Traced with an image of {shape_as_text(shape)}, as none was given; "
            "--input_shape C,H,W sets another.)"
        ) from error
