"""torchvision's convolutional networks, one of each family: exact round trip, full coverage, pruned to 2x."""

import pytest
import torch
from torchvision import models

from helpers import randomize
from metaprune_pl.graphs import SCHEMAS, read, trace, write
from metaprune_pl.pruning import GroupNorm, PruningSettings, count_macs, prune

FAMILIES = {
    "alexnet": 64, "convnext_tiny": 32, "densenet121": 32, "efficientnet_b0": 32, "googlenet": 32, "mnasnet0_5": 32,
    "mobilenet_v2": 32, "mobilenet_v3_small": 32, "regnet_y_400mf": 32, "resnet18": 32, "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32, "squeezenet1_1": 64, "vgg11_bn": 32, "inception_v3": 75,
}  # fmt: skip
"""Network to the side of a small image that it takes."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_network_of_each_family(name: str) -> None:
    arguments = {"aux_logits": False, "init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    network = models.get_model(name, num_classes=10, **arguments).eval()
    randomize(network)
    image = torch.zeros(1, 3, FAMILIES[name], FAMILIES[name])
    graph, state = trace(network, image), network.state_dict()
    again = write(graph, read(graph, state, SCHEMAS["universal"]), state, SCHEMAS["universal"])
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert graph.outside == ()
    macs = count_macs(network, image)
    assert graph.macs(torch.ones(graph.num_nodes, dtype=torch.bool)) == macs
    settings = PruningSettings(step=0.05)
    criterion = GroupNorm(normalize="mean")
    (small,) = prune(network, image, speed_ups=[2.0], base_macs=macs, criterion=criterion, settings=settings)
    assert 2.0 <= macs / count_macs(small, image) < 2.6
    small.train()(torch.randn(2, *image.shape[1:])).sum().backward()
    pruned_graph = trace(small.eval(), image)
    state = small.state_dict()
    again = write(pruned_graph, read(pruned_graph, state, SCHEMAS["universal"]), state, SCHEMAS["universal"])
    assert all(torch.equal(state[key], again[key]) for key in state)
