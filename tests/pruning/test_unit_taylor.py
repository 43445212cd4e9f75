"""The usual Taylor importance is the square of the derivative by a gate, batch by batch."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import PlainNet, random_resnet, randomize
from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import trace
from metaprune_pl.pruning import find_groups
from metaprune_pl.pruning.importance import UnitTaylor


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        images = torch.randn(8, 3, 8, 8, generator=generator)
        yield images, torch.randint(4, (8,), generator=generator)


def gate_gradients(network: nn.Module, path: str) -> Tensor:
    """Derivatives of the loss by factors behind a layer, for each batch of 4, [batches, C]."""
    found = []
    layer = copy.deepcopy(network)
    for images, labels in batches():
        for part, own in zip(images.split(4), labels.split(4), strict=True):
            gate = torch.ones(layer.get_submodule(path).num_features, requires_grad=True)
            handle = layer.get_submodule(path).register_forward_hook(
                lambda _, inputs, output, gate=gate: output * gate[:, None, None]
            )
            F.cross_entropy(layer(part), own).backward()
            handle.remove()
            found.append(gate.grad)
    return torch.stack(found).double()


def test_norms_are_gates() -> None:
    network = random_resnet(8, 4)
    groups = find_groups(trace(network, torch.zeros(1, 3, 8, 8)))
    importance = UnitTaylor(normalize="none", batch=4)
    scores = importance.scores(groups, importance.measure(network, groups.graph, batches))
    inside = groups.group == groups.names.index("layer1.0.conv1")
    expected = gate_gradients(network, "layer1.0.bn1").square().mean(0)
    torch.testing.assert_close(scores[inside], expected, rtol=1e-4, atol=1e-10)
    stream = groups.prunable & (groups.group == groups.names.index("conv1"))
    sums = gate_gradients(network, "bn1") + gate_gradients(network, "layer1.0.bn2")
    torch.testing.assert_close(scores[stream], sums.square().mean(0), rtol=1e-4, atol=1e-10)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_weights_count_for_the_unit_that_they_make() -> None:
    network = randomize(PlainNet())
    groups = find_groups(trace(network, torch.zeros(1, 3, 8, 8)))
    importance = UnitTaylor(normalize="none", of="weights", batch=8)
    scores = importance.scores(groups, importance.measure(network, groups.graph, batches))
    squares = []
    for images, labels in batches():
        model = copy.deepcopy(network)
        F.cross_entropy(model(images), labels).backward()
        layer = model.hidden
        sums = (layer.weight * layer.weight.grad).sum(1) + layer.bias * layer.bias.grad
        squares.append(sums.detach().square())
    inside = groups.group == groups.names.index("hidden")
    expected = torch.stack(squares).mean(0).double()
    torch.testing.assert_close(scores[inside], expected, rtol=1e-4, atol=1e-10)


def test_units_without_a_norm_stay_and_images_are_needed() -> None:
    network = randomize(PlainNet())
    groups = find_groups(trace(network, torch.zeros(1, 3, 8, 8)))
    importance = UnitTaylor()
    scores = importance.scores(groups, importance.measure(network, groups.graph, batches))
    told = groups.group[scores.isfinite()].unique().tolist()
    assert [groups.names[number] for number in told] == ["biased"]  # and the grouped layer's norm
    with pytest.raises(ConfigError, match="validation images"):
        importance.measure(network, groups.graph)
