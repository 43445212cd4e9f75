"""The paper's networks have its sizes, and are traced, written back and pruned exactly."""

from typing import Any

import pytest
import torch

from helpers import masked_logits, randomize
from metaprune_pl.errors import NetworkError
from metaprune_pl.graphs import SCHEMAS, read, trace, write
from metaprune_pl.networks import create_network
from metaprune_pl.pruning import (
    Magnitude,
    PruningSettings,
    count_macs,
    count_parameters,
    find_groups,
    plan,
    prune,
)

SIZES: list[tuple[str, dict[str, Any], int, int, dict[int, int], int]] = [
    ("cifar_resnet", {"depth": 110}, 32, 4061, {9: 191_024, 1: 5_120}, 1_730_714),
    ("cifar_vgg", {"num_classes": 100}, 32, 5607, {9: 2_224_320, 1: 51_200}, 20_086_692),
    (
        "torchvision/resnet18",
        {"num_classes": 10},
        64,
        3917,
        {49: 192, 9: 1_220_608, 1: 178_176},
        11_181_642,
    ),
    (
        "timm/resnet26",
        {"num_classes": 10},
        64,
        11_597,
        {49: 192, 9: 696_320, 1: 7_663_360},
        13_966_666,
    ),
    ("torchvision/resnet50", {}, 64, 23_723, {49: 192, 9: 1_257_472, 1: 14_187_520}, 25_557_032),
    (
        "torchvision/vit_b_16",
        {},
        224,
        66_283,
        {256: 2_304, 3: 7_077_888, 1: 64_487_424},
        86_567_656,
    ),
]
"""Name, arguments, side of an image, nodes, edges by kernel positions, parameters."""
SMALL: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "resnet110": ("cifar_resnet", {"depth": 110, "width": 4}, 8, "resnet"),
    "vgg19": ("cifar_vgg", {"width": 4}, 16, "vgg"),
    "resnet18": ("torchvision/resnet18", {"num_classes": 10}, 32, "resnet"),
    "resnet26": ("timm/resnet26", {"num_classes": 10, "channels": (8, 8, 16, 16)}, 32, "resnet"),
}


@pytest.mark.parametrize(
    ("name", "arguments", "side", "nodes", "edges", "parameters"), SIZES, ids=lambda v: str(v)[:20]
)
def test_sizes_are_those_of_the_authors_networks(
    name: str,
    arguments: dict[str, Any],
    side: int,
    nodes: int,
    edges: dict[int, int],
    parameters: int,
) -> None:
    network = create_network(name, seed=0, **arguments)
    graph = trace(network, torch.zeros(1, 3, side, side))
    found: dict[int, int] = {}
    for connection in graph.connections:
        groups, targets, sources, taps = connection.shape
        found[taps] = found.get(taps, 0) + groups * targets * sources
    assert (graph.num_nodes, found, count_parameters(network)) == (nodes, edges, parameters)


@pytest.mark.parametrize("name", SMALL)
def test_round_trip_and_pruning_are_exact(name: str) -> None:
    builder, arguments, side, schema = SMALL[name]
    network, image = (
        randomize(create_network(builder, seed=0, **arguments)),
        torch.zeros(1, 3, side, side),
    )
    graph, state = trace(network, image), network.state_dict()
    again = write(graph, read(graph, state, SCHEMAS[schema]), state, SCHEMAS[schema])
    assert all(torch.equal(state[key], again[key]) for key in state)
    macs = count_macs(network, image)
    settings = PruningSettings(step=0.02)
    (kept,) = plan(find_groups(graph), state, Magnitude(), settings, [macs / 2])
    (smaller,) = prune(network, image, speed_ups=[2.0], criterion=Magnitude(), settings=settings)
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = masked_logits(network, graph, kept, images)
    scale = float(expected.abs().max())
    torch.testing.assert_close(smaller(images), expected, rtol=1e-4, atol=1e-5 * scale)
    assert macs / count_macs(smaller, image) >= 2


def test_vgg_takes_images_of_other_sizes_and_refuses_depths_that_are_none() -> None:
    network = create_network("cifar_vgg", depth=11, width=2, num_classes=7, in_channels=1)
    assert network(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
    with pytest.raises(NetworkError, match=r"no depth 12\. Take 11, 13, 16 or 19"):
        create_network("cifar_vgg", depth=12)
    with pytest.raises(NetworkError, match="at least 1"):
        create_network("cifar_vgg", width=0)
