"""Of a weight that is computed in each pass, criteria judge what multiplies the inputs."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from helpers import randomize
from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import trace
from metaprune_pl.pruning import (
    Macs,
    PruningGroups,
    PruningSettings,
    ZeroShare,
    find_groups,
    find_masks,
    prune,
)
from metaprune_pl.pruning.importance import Elimination, Energy, Importance, Magnitude, Taylor

IMAGE = torch.zeros(1, 3, 8, 8)


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        yield torch.randn(10, 3, 8, 8, generator=generator), torch.arange(10) % 4


class Standardized(nn.Conv2d):
    """A convolution whose kernels are brought to mean 0 and variance 1 in each pass."""

    def weight_in_use(self) -> Tensor:
        rows = F.batch_norm(self.weight.flatten(1)[None], None, None, training=True)
        return rows.reshape_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        return F.conv2d(x, self.weight_in_use(), self.bias)


class Net(nn.Module):
    """Three layers with a few channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 12, 3)
        self.classifier = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.classifier(F.relu(self.second(F.relu(self.first(x)))).mean((2, 3)))


def weight_normed(network: Net) -> Net:
    """Return the same function, its weights as lengths and directions of any length."""
    normed = copy.deepcopy(network)
    for layer in normed.children():
        direction = weight_norm(layer).parametrizations.weight.original1
        with torch.no_grad():
            direction *= torch.rand(len(direction), *[1] * (direction.dim() - 1)) * 5 + 0.1
    return normed


class InputStandardized(Standardized):
    """A convolution whose kernels are standardised by statistics that each input has."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.register_buffer("mean", torch.randn(sizes[0]) / 10)
        self.register_buffer("variance", torch.rand(sizes[0]) + 0.5)

    def weight_in_use(self) -> Tensor:
        return F.batch_norm(self.weight, self.mean, self.variance)


def standardized() -> tuple[Net, Net]:
    """Return two networks of the same function: the first standardises a layer's weights."""
    network = randomize(Net())
    plain = copy.deepcopy(network)
    network.second = Standardized(16, 12, 3)
    network.second.bias = plain.second.bias
    with torch.no_grad():
        plain.second.weight.copy_(network.second.weight_in_use())
    return network.eval(), plain


def scores(importance: Importance, network: nn.Module) -> tuple[Tensor, PruningGroups]:
    groups = find_groups(trace(network, IMAGE))
    return importance.importance(groups, importance.measure(network, groups.graph, batches)), groups


@pytest.mark.parametrize("importance", [Energy(images=40), Elimination(images=40)])
@pytest.mark.parametrize("kind", ["weight norm", "weight standardisation"])
def test_scores_are_those_of_the_same_network_with_plain_weights(
    importance: Energy, kind: str
) -> None:
    torch.manual_seed(0)
    if kind == "weight norm":
        plain = randomize(Net())
        network = weight_normed(plain)
    else:
        network, plain = standardized()
    (found, groups), (expected, _) = scores(importance, network), scores(importance, plain)
    assert int(groups.prunable.sum()) == 28
    scored = groups.prunable
    torch.testing.assert_close(found[scored], expected[scored], rtol=1e-5, atol=1e-8)
    assert bool(found[scored].isfinite().all())


@pytest.mark.parametrize("importance", [Magnitude(), Taylor()])
def test_a_weight_normed_layer_is_measured_as_a_plain_one(importance: Importance) -> None:
    torch.manual_seed(0)
    plain = randomize(Net())
    network = weight_normed(plain)
    measured, expected = (
        importance.measure(each, trace(each, IMAGE), batches) for each in (network, plain)
    )
    for layer in ("first", "second", "classifier"):
        direction = measured[f"{layer}.parametrizations.weight.original1"]
        torch.testing.assert_close(direction, expected[f"{layer}.weight"], rtol=1e-4, atol=1e-7)


def test_a_weight_normed_network_is_pruned_by_what_its_layers_read() -> None:
    network = weight_normed(randomize(Net()))
    (pruned,) = prune(
        network,
        IMAGE,
        speed_ups=[2.0],
        criterion=Energy(images=40),
        settings=PruningSettings(step=0.1),
        images=batches,
    )
    assert Macs().of_network(pruned, IMAGE) <= Macs().of_network(network, IMAGE) / 2


def test_a_weight_standardised_by_running_statistics_is_pruned_with_them() -> None:
    torch.manual_seed(0)
    network = randomize(Net())
    network.second = InputStandardized(16, 12, 3)
    (pruned,) = prune(
        network.eval(),
        IMAGE,
        speed_ups=[1.5],
        criterion=Elimination(images=40),
        settings=PruningSettings(step=0.1),
        images=batches,
    )
    assert len(pruned.second.mean) == len(pruned.second.variance) == len(pruned.first.weight) < 16
    assert bool(pruned(torch.randn(2, 3, 8, 8)).isfinite().all())


def test_a_transposed_convolution_of_computed_weights_keeps_its_neurons() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.ReLU(),
        weight_norm(nn.ConvTranspose2d(16, 16, 2, stride=2)),
        nn.ReLU(),
        nn.Conv2d(16, 12, 1),
        nn.ReLU(),
        nn.Conv2d(12, 4, 1),
    )
    groups = find_groups(trace(network.eval(), IMAGE))
    assert int(groups.prunable.sum()) == 12


def test_masks_refuse_weights_that_are_given_a_length() -> None:
    network = weight_normed(randomize(Net()))
    graph = trace(network, IMAGE)
    with pytest.raises(PruningError, match="remove_parametrizations"):
        find_masks(graph, network.state_dict(), Magnitude(), ZeroShare(share=0.5))
