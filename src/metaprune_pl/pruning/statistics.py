"""What a network's weights look like, for a comparison before and after the metanetwork.

Paper, 5.4 and H.

Letters in shapes: O output channels of a layer, K weights of one output channel, U units.
"""

import copy
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.pruning.groups import PruningGroups
from metaprune_pl.pruning.importance import Importance

Statistics = dict[str, dict[str, Tensor]]
"""Statistic to layer (or pruning group) to its values, float64, in the order of the network's
operations."""


def loss_gradients(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[dict[str, Tensor], float]:
    """Compute the gradient of the mean cross-entropy over all images, in evaluation mode.

    Args:
        network: Left as it is, with its gradients, running statistics and modes.
        batches: Images [B, C, H, W] and labels [B], on the network's device.

    Returns:
        Gradients by name, and the share of the images that are classified correctly.
    """
    copied = copy.deepcopy(network).eval().requires_grad_(True)
    parameters = dict(copied.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    count = correct = 0
    for images, labels in batches:
        logits = copied(images)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        gradients = torch.autograd.grad(
            loss,
            list(parameters.values()),
            allow_unused=True,
        )
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient
        count += len(labels)
        correct += int((logits.argmax(1) == labels).sum())
    assert count, "there is no image"
    return {name: value / count for name, value in total.items()}, correct / count


def weight_matrices(graph: WeightGraph, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """View the weight of each layer as one row per output channel, [O, K].

    Convolutions, linear layers, attention.
    """
    matrices = {}
    for connection in graph.connections:
        if connection.parameter is not None:
            weight = state[connection.parameter].detach().double()
            rows = weight if connection.rows is not None else connection.block(weight).flatten(0, 1)
            matrices[connection.parameter.removesuffix(".weight")] = rows.flatten(1)
    return matrices


def correlation(matrix: Tensor) -> Tensor:
    """Mean absolute Pearson correlation of each output channel's weights with the others'.

    [O, K] -> [O].

    Constant channels, and a layer with one, correlate with none.
    """
    rows = matrix - matrix.mean(1, keepdim=True)
    norms = rows.norm(dim=1, keepdim=True)
    varies = norms > 1e-12 * matrix.norm(dim=1, keepdim=True)
    rows = torch.where(varies, rows / norms, 0.0)
    others = (rows @ rows.T).abs().fill_diagonal_(0.0)
    return others.sum(1) / max(1, len(matrix) - 1)


def effective_rank(matrix: Tensor) -> Tensor:
    """Exponential of the entropy of the singular values' shares (Roy and Vetterli, 2007).

    [O, K] -> [1].

    A matrix of zeros has rank 0.
    """
    singular = torch.linalg.svdvals(matrix)
    if not bool(singular.any()):
        return matrix.new_zeros(1)
    entropy: Tensor = torch.special.entr(singular / singular.sum()).sum()
    return entropy.exp()[None]


def network_statistics(
    groups: PruningGroups,
    state: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    criterion: Importance,
    measured: Mapping[str, Tensor],
) -> Statistics:
    """Compute all statistics of a network.

    `l1`, `l2`: norms of the weights of each output channel, [O]. `taylor`: |w * dL/dw| of each
    weight, [O * K]. `correlation`: see there, [O]. `effective_rank`: see there, [1]. `norm_scale`:
    |gamma| of each channel of a norm layer, [O]. `group_score`: the criterion's normalised score,
    equation (25), of each prunable unit, [U].

    Args:
        groups: The network's pruning groups.
        state: Its parameters by name.
        gradients: Those of `loss_gradients`.
        criterion: Scores of the pruning groups.
        measured: What the criterion measured of the network.
    """
    weights = weight_matrices(groups.graph, state)
    slopes = weight_matrices(groups.graph, gradients)
    statistics: Statistics = {
        "l1": {name: weight.norm(p=1, dim=1) for name, weight in weights.items()},
        "l2": {name: weight.norm(dim=1) for name, weight in weights.items()},
        "taylor": {name: (w * slopes[name]).abs().flatten() for name, w in weights.items()},
        "correlation": {name: correlation(weight) for name, weight in weights.items()},
        "effective_rank": {name: effective_rank(weight) for name, weight in weights.items()},
        "norm_scale": _norm_scales(groups.graph, state),
        "group_score": _group_scores(groups, measured, criterion),
    }
    return {
        name: {layer: value.cpu() for layer, value in layers.items()}
        for name, layers in statistics.items()
        if layers
    }


def _norm_scales(graph: WeightGraph, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = (
        name
        for group in graph.groups
        for slot, name in group.slots.items()
        if slot.endswith("norm.weight")
    )
    return {name.removesuffix(".weight"): state[name].detach().double().abs() for name in names}


def _group_scores(
    groups: PruningGroups, measured: Mapping[str, Tensor], criterion: Importance
) -> dict[str, Tensor]:
    importance = criterion.importance(groups, measured).detach().double().cpu()
    scores = {}
    for index, name in enumerate(groups.names):
        units = groups.prunable & (groups.group == index)
        if bool(units.any()):
            scores[name] = importance[units]
    return scores
