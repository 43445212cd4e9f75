"""Weights that are computed from parameters in each pass, and what a mask does to them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from metaprune_pl.graphs import WeightGraph


def weights_in_use(graph: WeightGraph, state: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """Return what layers multiply their inputs with, where that is computed from a parameter.

    Args:
        graph: Topology.
        state: Parameters and buffers by name.

    Returns:
        By the name of the parameter that the graph has for the layer, and in its shape, a weight
        for each layer that uses it.
    """
    assert graph.constraints.masked is not None
    values = graph.constraints.masked.without_input(state)
    uses = graph.constraints.uses
    computed = {use.parameter for use in uses if use.node.op != "placeholder"}
    found: dict[str, list[Tensor]] = {}
    for use in uses:
        if use.parameter in computed:
            weight = values(use.node).detach().flatten()
            if use.order is not None:
                weight = weight.scatter(0, use.order.to(weight.device), weight)
            shape = state[use.parameter].shape
            found.setdefault(use.parameter, []).append(weight.reshape(shape))
    return found


@torch.no_grad()
def masks_elsewhere(graph: WeightGraph, state: Mapping[str, Tensor]) -> list[str]:
    """Return the parameters whose zeros are not just those of the weight, as a trial shows.

    Such are the direction of a weight that has a length of its own, and weights that are
    standardised.

    Args:
        graph: Topology.
        state: Parameters and buffers by name.
    """
    before = weights_in_use(graph, state)
    if not before:
        return []
    names = [c.parameter for c in graph.connections if c.parameter is not None]
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.rand(state[name].shape, generator=generator) < 0.5 for name in names}
    elsewhere = set()
    for masks in (drawn, {name: ~mask for name, mask in drawn.items()}):
        own = {name: mask.to(state[name].device) for name, mask in masks.items()}
        masked = {name: state[name] * mask for name, mask in own.items()}
        after = weights_in_use(graph, {**state, **masked})
        for name, weights in before.items():
            pairs = zip(weights, after[name], strict=True)
            if not all(torch.equal(weight * own[name], new) for weight, new in pairs):
                elsewhere.add(name)
    return sorted(elsewhere)
