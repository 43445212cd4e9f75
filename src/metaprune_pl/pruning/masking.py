"""Channels that nobody reads: the network without them, in training and with gradients.

Letters in shapes: N nodes, U units.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.pruning.groups import PruningGroups


def masked_parameters(
    graph: WeightGraph, parameters: Mapping[str, Tensor], mask: Tensor
) -> dict[str, Tensor]:
    """Return parameters with which each layer reads its inputs times a mask.

    With them a network in training does what it would do without the masked channels.

    Args:
        graph: Topology.
        parameters: Parameters by name.
        mask: Factor of each node, [N].
    """
    masked = dict(parameters)
    for connection in graph.connections:
        if connection.parameter in masked:
            weight = parameters[connection.parameter]
            factors = mask[connection.source.to(mask.device)][:, None, :, None]
            edges = connection.block(weight) * factors.to(weight)
            masked[connection.parameter] = connection.unblock(edges, weight)
    return masked


def maskable(groups: PruningGroups) -> Tensor:
    """Return the units for which a mask is as good as removal, bool [U].

    Those are all that may be removed, but for channels that are normalised together with others and
    those of queries and keys.
    """
    constraints = groups.graph.constraints
    mixed = torch.zeros_like(groups.prunable)
    mixed[groups.unit[torch.cat([constraints.mixed, constraints.several])]] = True
    return groups.prunable & ~mixed


def straight_through(
    importance: Tensor,
    kept: Tensor,
    costs: Tensor,
    competition: Tensor,
    temperature: float,
) -> Tensor:
    """Return a mask of zeros and ones whose gradient is that of a soft one, [U].

    The soft mask is sigmoid((log importance - log threshold) / temperature). Its threshold moves
    with the importances, so that the cost of what stays does not change to first order.

    Args:
        importance: Above 0, with a gradient, [U].
        kept: Which units stay, bool [U].
        costs: What each unit costs, [U].
        competition: Number of the ranking that each unit is in, [U].
        temperature: How far from the threshold a gradient is felt.
    """
    scores = importance.clamp(min=torch.finfo(importance.dtype).tiny).log()
    zeros = scores.new_zeros(int(competition.max()) + 1)
    fixed = scores.detach()
    lowest = torch.full_like(zeros, torch.inf).scatter_reduce(
        0,
        competition,
        fixed.where(kept, torch.inf),
        "amin",
    )
    highest = torch.full_like(zeros, -torch.inf).scatter_reduce(
        0,
        competition,
        fixed.where(~kept, -torch.inf),
        "amax",
    )
    threshold = ((lowest + highest) / 2)[competition]
    soft = torch.sigmoid((fixed - threshold) / temperature)
    slope = torch.where(soft.isfinite(), soft * (1 - soft), 0.0) / temperature
    weights = costs.to(scores) * slope
    totals = zeros.index_add(0, competition, weights)[competition]
    shares = torch.where(totals > 0, weights / totals, 0.0)
    moved = zeros.index_add(0, competition, shares * scores)[competition]
    carrier = slope * (scores - moved)
    return kept.to(scores) + carrier - carrier.detach()


def unit_costs(groups: PruningGroups) -> Tensor:
    """Return the multiply-accumulates that each unit alone takes part in, [U]."""
    graph = groups.graph
    nodes = torch.zeros(graph.num_nodes, dtype=torch.float64)
    for connection in graph.connections:
        _, outputs, inputs, taps = connection.shape
        work = float(taps * connection.positions)
        nodes.index_add_(
            0,
            connection.target.flatten(),
            nodes.new_full((connection.target.numel(),), inputs * work),
        )
        nodes.index_add_(
            0,
            connection.source.flatten(),
            nodes.new_full((connection.source.numel(),), outputs * work),
        )
    for product in graph.constraints.products:
        nodes[product.nodes] += product.positions
    return nodes.new_zeros(len(groups.group)).index_add(0, groups.unit, nodes)
