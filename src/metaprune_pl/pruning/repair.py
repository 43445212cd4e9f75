"""Least-squares repair: a pruned network learns from unlabelled images what its layers gave before.

Layer by layer, in the order of the forward pass, a layer of the pruned network gets the weights
that come closest to the unpruned layer's outputs at the neurons that stay, given the outputs of the
layers before it, which are repaired already.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import add

import torch
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.pruning.layerwise import Layer, LayerwiseNetwork, equal_batches
from metaprune_pl.pruning.least_squares import NormalEquations, slices, with_bias

RIDGES = (1e-1, 1e-2, 1e-3, 1e-5, 1e-7, 1e-10)
"""Penalties that compete on the images kept apart."""
HELD = 2**29
"""Most bytes between the layers of both networks, unless four batches take more."""


@dataclass(frozen=True, kw_only=True)
class LayerRepair:
    """What came of a layer.

    Attributes:
        name: Name of its weight.
        before: Error of its outputs on the images kept apart, as a share of their norm.
        after: The same with its new weights; equal where the old ones were left.
    """

    name: str
    before: float
    after: float


@torch.no_grad()
def repair(
    network: nn.Module,
    pruned: nn.Module,
    graph: WeightGraph,
    kept: Tensor,
    images: Tensor,
    *,
    masks: Mapping[str, Tensor] | None = None,
) -> Iterator[LayerRepair]:
    """Give the layers of a pruned network weights that reproduce the outputs of the unpruned one.

    A quarter of the images is held out: they choose the ridge regression's penalty, and a layer (of
    a grouped convolution, a group) whose error there does not fall is left as it is. Early layers
    of large images learn from as many as fit into memory. Layers whose weights are read twice or
    computed (weight normalisation), and transposed convolutions, are left too. Statistics of batch
    norms are right as they are.

    Args:
        network: The unpruned network.
        pruned: What `remove` or `apply_masks` made of it, changed in place.
        graph: Topology of the unpruned network.
        kept: Which nodes stay, bool [N].
        images: Unlabelled, normalised, on the networks' device, [B, C, H, W]; a few are left over.
        masks: Weights that may not be zero, bool, by the name of the parameter.

    Yields:
        Each layer when it is done.

    Raises:
        ConfigError: There are less than four images, or one is not finite.
        PruningError: The network cannot be exported, or overflows.
    """
    if len(images) < 4:
        raise ConfigError(f"repair: {len(images)} images are too few; give at least 4.")
    batches = equal_batches(images)
    unpruned = LayerwiseNetwork(network, graph, batches[0])
    changed = LayerwiseNetwork(pruned, graph, batches[0])
    outputs = _outputs_that_stay(graph, kept.to(images.device))
    names = [name for name in changed.own_layers if name in outputs]
    indices = [outputs[name] for name in names]
    runs = _side_by_side(unpruned, changed, batches, names, indices)
    for name, (sources, layers) in zip(names, runs, strict=True):
        yield _repair_layer(sources, layers, (masks or {}).get(name))


def _side_by_side(
    unpruned: LayerwiseNetwork,
    changed: LayerwiseNetwork,
    batches: Sequence[Tensor],
    names: Sequence[str],
    indices: Sequence[Tensor],
) -> Iterator[tuple[Iterator[Tensor], list[Layer]]]:
    """Run both networks layer by layer: outputs that stay, and layers of the pruned one, by batch.

    Batches set out once what all of them hold from there on fits into memory.
    """
    held = map(add, unpruned.held(names), changed.held(names))
    sources: list[Iterator[Tensor]] = []
    targets: list[Iterator[Layer]] = []
    for index, size in enumerate(held):
        for batch in batches[len(targets) : max(4, HELD // size)]:
            run = unpruned.run(batch, names[index:], fixed=True)
            sources.append(_kept_outputs(run, indices[index:]))
            targets.append(changed.run(batch, names[index:]))
        layers = [next(target) for target in targets]
        yield map(next, sources), layers


def _kept_outputs(run: Iterator[Layer], indices: Sequence[Tensor]) -> Iterator[Tensor]:
    """Give the outputs that stay of each layer of a run, which is at the next layer by then.

    So neither holds what only this layer gives.
    """
    layer = next(run, None)
    for index in indices:
        assert layer is not None
        kept = [layer.compute().index_select(layer.channel_dim, index)]
        layer = next(run, None)
        yield kept.pop()


def _outputs_that_stay(graph: WeightGraph, kept: Tensor) -> dict[str, Tensor]:
    """Return the outputs of each layer that stay, by the name of its weight, [O]."""
    outputs = {}
    for connection in graph.connections:
        if connection.parameter is not None and not connection.inputs_first:
            stays = kept[connection.target.to(kept.device)]
            if connection.rows is None:
                outputs[connection.parameter] = stays.flatten().nonzero().flatten()
            else:
                rows = connection.rows.to(kept.device)[stays[0]]
                outputs[connection.parameter] = rows.flatten().sort().values
    return outputs


def _spread(layer: Layer, outputs: Tensor) -> float:
    """Return the standard deviation of what a layer is to give.

    Raises:
        PruningError: It is not finite.
    """
    spread = float(outputs.std(correction=0))
    if not math.isfinite(spread):
        raise PruningError(
            f"repair: what '{layer.name}' computes of the images is not finite. Normalise them as "
            "the network was trained, and give it single precision."
        )
    return spread


def _repair_layer(
    expected: Iterator[Tensor], layers: Sequence[Layer], mask: Tensor | None
) -> LayerRepair:
    """Find and set the weights of one layer.

    Args:
        expected: What the unpruned layer gives at the outputs that stay, for each batch.
        layers: The layer in the pruned network, for each batch.
        mask: Weights that may not be zero, bool in the shape of the weight.
    """
    layer, first = layers[0], next(expected)
    if torch.allclose(layer.compute(), first, rtol=1e-6, atol=1e-6 * _spread(layer, first)):
        for _ in expected:  # nothing before it has changed
            pass
        return LayerRepair(name=layer.name, before=0.0, after=0.0)
    fitted = NormalEquations()
    apart = NormalEquations()
    for batch, wanted in enumerate(chain([first], expected)):
        for inputs, outputs in slices(layers[batch], wanted):
            (apart if batch % 4 == 3 else fitted).add(inputs, outputs)
    start = with_bias(layer, layer.matrix.double(), layer.bias)
    support = None
    if mask is not None:
        allowed = mask.reshape(layer.matrix.shape).to(start.device)
        support = with_bias(
            layer,
            allowed,
            torch.ones(len(layer.weight), device=start.device),
        )
    before = least = apart.error(start)
    best = start
    for ridge in RIDGES:
        weights = fitted.solve(start, ridge, support)
        error = apart.error(weights)
        best = torch.where((error < least)[:, None, None], weights, best)
        least = torch.minimum(error, least)
    if layer.bias is not None:
        layer.bias.copy_(best[..., -1].flatten())
        best = best[..., :-1]
    layer.weight.copy_(best.reshape(layer.weight.shape))
    norm = float(apart.square.sum()) or 1.0
    shares = [(float(error.sum()) / norm) ** 0.5 for error in (before, least)]
    return LayerRepair(name=layer.name, before=shares[0], after=shares[1])
