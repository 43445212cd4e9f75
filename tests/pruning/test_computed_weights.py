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
    examine,
    find_groups,
    prune,
)
from metaprune_pl.pruning.importance import (
    Elimination,
    Energy,
    Importance,
    Magnitude,
    Taylor,
    UnitTaylor,
)

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


class OfTwo(nn.Conv2d):
    """A convolution of a weight that is computed from two parameters of its shape."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.beside = nn.Parameter(torch.rand_like(self.weight) + 0.5)
        self.gain = nn.Parameter(torch.rand(len(self.weight), 1, 1, 1) + 0.5)

    def weight_in_use(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        return F.conv2d(x, self.weight_in_use(), self.bias)


class Product(OfTwo):
    """A weight times soft masks."""

    def weight_in_use(self) -> Tensor:
        return self.beside * self.weight


class Nested(OfTwo):
    """A weight times a product."""

    def weight_in_use(self) -> Tensor:
        return (self.beside * self.gain) * self.weight


class Sum(OfTwo):
    """A weight and what has been learnt beside it."""

    def weight_in_use(self) -> Tensor:
        return self.beside + self.weight


KINDS: dict[str, type[Standardized | OfTwo]] = {
    "standardized": Standardized,
    "product": Product,
    "nested": Nested,
    "sum": Sum,
}


def computed(kind: str) -> tuple[Net, Net]:
    """Return two networks of the same function: the first computes a layer's weights."""
    if kind == "weight norm":
        plain = randomize(Net())
        return weight_normed(plain), plain
    network = randomize(Net())
    plain = copy.deepcopy(network)
    network.second = KINDS[kind](16, 12, 3)
    network.second.bias = plain.second.bias
    with torch.no_grad():
        plain.second.weight.copy_(network.second.weight_in_use())
    return network.eval(), plain


def scores(importance: Importance, network: nn.Module) -> tuple[Tensor, PruningGroups]:
    groups = find_groups(trace(network, IMAGE))
    return importance.importance(groups, importance.measure(network, groups.graph, batches)), groups


@pytest.mark.parametrize(
    "importance",
    [Energy(images=40), Elimination(images=40), Magnitude(), Taylor(), UnitTaylor(of="weights")],
    ids=lambda importance: type(importance).__name__,
)
@pytest.mark.parametrize("kind", ["weight norm", *KINDS])
def test_scores_are_those_of_the_same_network_with_plain_weights(
    importance: Importance, kind: str
) -> None:
    torch.manual_seed(0)
    network, plain = computed(kind)
    (found, groups), (expected, _) = scores(importance, network), scores(importance, plain)
    assert int(groups.prunable.sum()) == 28
    scored = groups.prunable
    torch.testing.assert_close(found[scored], expected[scored], rtol=1e-5, atol=1e-8)
    assert bool(found[scored].isfinite().all())


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
    (told,) = groups.graph.unfollowed
    assert "conv_transpose2d" in told and "computed weights" in told and "module '2'" in told


@pytest.mark.parametrize("importance", [Taylor(), UnitTaylor(of="weights")])
def test_frozen_layers_are_judged_as_others(importance: Importance) -> None:
    torch.manual_seed(0)
    network, _ = computed("sum")
    expected, _ = scores(importance, network)
    network.second.requires_grad_(False)
    found, _ = scores(importance, network)
    assert torch.equal(found, expected)
    assert not network.second.weight.requires_grad


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [
        ("weight norm", "remove_parametrizations"),
        ("standardized", "'second.weight'.*a parameter in its place"),
        ("sum", "'second.weight'.*a parameter in its place"),
    ],
)
def test_masks_refuse_parameters_whose_zeros_are_not_the_weights(kind: str, way_out: str) -> None:
    network, _ = computed(kind)
    unpruned = examine(network, IMAGE)
    target = ZeroShare(share=0.5)
    with pytest.raises(PruningError, match=way_out):
        target.check(network, unpruned)
    with pytest.raises(PruningError, match=way_out):
        list(ZeroShare.reach([target], network, unpruned, Magnitude()))


def test_masks_of_a_product_are_those_of_the_same_network_with_plain_weights() -> None:
    masks = []
    for network in computed("product"):
        (masked,) = ZeroShare.reach(
            [ZeroShare(share=0.5)], network, examine(network, IMAGE), Magnitude()
        )
        assert masked.masks is not None
        masks.append(masked.masks.kept["second.weight"])
        if isinstance(network.second, Product):
            assert torch.equal(masked.network.second.weight_in_use() != 0, masks[0])
    assert torch.equal(*masks)
