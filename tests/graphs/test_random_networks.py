"""Random networks are traced, rewritten, pruned, stored and loaded, or refused in one line.

`pytest tests/graphs/test_random_networks.py --networks 200 --seed 1000` tries others.
"""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graphs.random_networks import RandomNetwork
from helpers import randomize
from metaprune_pl.errors import MetapruneError
from metaprune_pl.graphs import SCHEMAS, read, write
from metaprune_pl.metanetworks import PNAMetanetwork
from metaprune_pl.networks import NetworkCard, NetworkSettings, load_network, save_network
from metaprune_pl.networks.examples import tensors_of
from metaprune_pl.networks.widths import own_state
from metaprune_pl.pruning import PruningGroups, prunable_groups
from metaprune_pl.pruning.removal import check_masked, remove

IMAGE = torch.zeros(1, 3, 6, 6)


def outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    """All outputs of a network."""
    with torch.no_grad():
        return [tensor for _, tensor in tensors_of(network.eval()(images))]


def some(groups: PruningGroups, draw: random.Random) -> Tensor:
    """Keep a random share of each group, at least one unit, bool [N]."""
    units = groups.prunable.clone()
    for index in groups.group[groups.prunable].unique().tolist():
        members = (groups.prunable & (groups.group == index)).nonzero().flatten().tolist()
        units[draw.sample(members, draw.randrange(len(members)))] = False
    return groups.nodes(units)


def assert_rewritten(network: nn.Module, groups: PruningGroups, seed: int) -> None:
    """Reading and writing is exact, and an untrained metanetwork leaves the weights."""
    graph, state = groups.graph, {k: v.detach() for k, v in own_state(network).items()}
    schema = SCHEMAS["universal"]
    again = write(graph, read(graph, state, schema), state, schema)
    assert all(torch.equal(value, again[name]) for name, value in state.items()), seed
    taps = sorted({connection.shape[3] for connection in graph.connections})
    fresh = PNAMetanetwork(layers=1, hidden=2, schema="universal", kernels="per_size", taps=taps)
    new = fresh.rewrite(graph, state)
    assert all(torch.equal(value, new[name]) for name, value in state.items()), seed


def take_through(seed: int, folder: Path) -> str:
    """Take one network through everything, and return why it was refused, if it was."""
    network, draw = randomize(RandomNetwork(seed), seed), random.Random(seed)
    images = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    try:
        groups = prunable_groups(network, IMAGE)
    except MetapruneError as error:
        assert "\n" not in str(error)
        return str(error)
    assert_rewritten(network, groups, seed)
    kept = some(groups, draw)
    pruned = remove(network, groups.graph, kept)
    for image in images.split(1):
        comparison = check_masked(network, pruned, groups.graph, kept, image)
        assert comparison.reason == "" and comparison.difference < 1e-3, seed
    settings = NetworkSettings(
        builder="graphs.random_networks:RandomNetwork", arguments={"index": seed}
    )
    save_network(folder, pruned, NetworkCard(settings=settings, input_shape=(3, 6, 6)))
    again = outputs(load_network(folder), images)
    for value, other in zip(outputs(pruned, images), again, strict=True):
        assert torch.equal(value, other), seed
    smaller = prunable_groups(pruned, IMAGE)  # a pruned network is as good as any
    assert_rewritten(pruned, smaller, seed)
    return ""


def test_random_networks(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    first, count = request.config.getoption("--seed"), request.config.getoption("--networks")
    refused = {}
    for seed in range(first, first + count):
        if reason := take_through(seed, tmp_path / str(seed)):
            refused[seed] = reason
    assert len(refused) <= count // 10, refused
