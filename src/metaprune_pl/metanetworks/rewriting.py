"""Stored networks and stored metanetworks together."""

from pathlib import Path

import torch
from torch import nn

from metaprune_pl.errors import ConfigError, TraceError
from metaprune_pl.graphs import WeightGraph, trace
from metaprune_pl.metanetworks.storage import load_metanetwork
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.networks.widths import put_state


@torch.no_grad()
def rewrite(network: nn.Module, graph: WeightGraph, metanetwork: str) -> str:
    """Give a network, or the part of one that a graph is of, the weights of a metanetwork.

    Args:
        network: Changed in place.
        graph: Its topology.
        metanetwork: Folder of the metanetwork.

    Returns:
        The engine that the metanetwork ran in.

    Raises:
        ConfigError: The metanetwork has no place for a parameter, or does not know a size of its
            kernels.
    """
    device = next(network.parameters()).device
    try:
        rewriter = load_metanetwork(metanetwork).to(device)
        new = rewriter.rewrite(graph, network.state_dict())
    except TraceError as error:
        raise ConfigError(
            f"the metanetwork '{metanetwork}' does not go with the network: {error} Meta-training "
            "is `metaprune fit`; "
            "to go without, set metanetwork to null."
        ) from error
    put_state(network, new)
    return rewriter.engine_used


@torch.no_grad()
def check_fit(metanetwork: str, network: Path, names: str) -> None:
    """Refuse a metanetwork that cannot read a network, before any network is pruned by it.

    Raises:
        ConfigError: It has no place for a parameter of the network, or does not know a size of its
            kernels.
    """
    loaded = load_network(network)
    try:
        graph = trace(loaded, read_card(network).example())
        load_metanetwork(metanetwork).rewrite(graph, loaded.state_dict())
    except TraceError as error:
        raise ConfigError(f"compare: {names} do not go together: {error}") from error
