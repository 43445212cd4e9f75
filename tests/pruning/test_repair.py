"""Repair reproduces what layers gave before: exactly where that is possible, and never worse."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from helpers import PlainNet, random_kept, random_resnet, randomize
from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.graphs import WeightGraph, trace
from metaprune_pl.pruning import (
    Elimination,
    Magnitude,
    Taylor,
    ZeroShare,
    apply_masks,
    examine,
    find_groups,
    find_masks,
    remove,
)
from metaprune_pl.pruning.layerwise import Layer, LayerwiseNetwork, equal_batches
from metaprune_pl.pruning.recovery import RepairSettings
from metaprune_pl.pruning.repair import LayerRepair, repair


def images(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).double()


class Redundant(nn.Module):
    """A 1x1 convolution with linearly dependent channels, what reads it, and a classifier."""

    def __init__(self, reader: nn.Module, *, rank: int, width: int, dims: int = 2) -> None:
        super().__init__()
        convolution = [nn.Conv1d, nn.Conv2d, nn.Conv3d][dims - 1]
        self.first = convolution(rank, width, 1, bias=False)
        self.reader = reader
        self.classifier = nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.classifier(torch.tanh(self.reader(self.first(x))).flatten(2).mean(2))


class FlattenReader(nn.Module):
    """A linear layer that reads flattened 3 x 3 maps.

    Shapes: [B, 8, 3, 3] -> [B, 6, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8 * 9, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return self.linear(x.flatten(1))[..., None]


class AttentionReader(nn.Module):
    """Attention over places whose queries, keys and values read the channels.

    Shapes: [B, 8, H, W] -> [B, 6, H * W].
    """

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 4)
        self.out = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention."""
        x = x.flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.out(mixed).transpose(1, 2)


class Fused(AttentionReader):
    """The same with queries, keys and values in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 12)
        del self.q, self.k, self.v

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention."""
        x = x.flatten(2).transpose(1, 2)
        parts = self.qkv(x).reshape(len(x), -1, 3, 4).unbind(2)
        return self.out(F.scaled_dot_product_attention(*parts)).transpose(1, 2)


class Grouped(nn.Module):
    """A depthwise, a grouped and a dilated convolution in turn, after one that mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.mixes = nn.Conv2d(8, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.grouped = nn.Conv2d(6, 9, (3, 2), padding="same", groups=3, dilation=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply them."""
        return self.grouped(torch.tanh(self.depthwise(torch.tanh(self.mixes(x)))))


READERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "conv": (lambda: nn.Conv2d(8, 6, 3, padding=1), 2),
    "strided": (
        lambda: nn.Conv2d(8, 6, (3, 2), stride=2, padding=(2, 0), dilation=2, bias=False),
        2,
    ),
    "conv1d": (lambda: nn.Conv1d(8, 6, 3, padding="same"), 1),
    "conv3d": (lambda: nn.Conv3d(8, 6, 2, stride=(1, 2, 1)), 3),
    "flatten": (FlattenReader, 2),
    "attention": (AttentionReader, 2),
    "fused": (Fused, 2),
    "grouped": (Grouped, 2),
}


def redundant(kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    make, dims = READERS[kind]
    torch.manual_seed(0)
    shape = (4, *([3] * dims if kind == "flatten" else [6, 5, 4][:dims]))
    network = Redundant(make(), rank=4, width=8, dims=dims).double()
    network(torch.zeros(1, *shape, dtype=torch.float64))
    return network.eval(), shape


@pytest.mark.parametrize("kind", READERS)
def test_channels_that_are_combinations_of_others_cost_nothing(kind: str) -> None:
    network, shape = redundant(kind)
    graph = trace(network, torch.zeros(1, *shape, dtype=torch.float64))
    (first,) = (c for c in graph.connections if c.name == "first")
    kept = torch.ones(graph.num_nodes, dtype=torch.bool)
    kept[first.target.flatten()[[1, 3, 4, 6]]] = False  # of rank 4, which the others have
    pruned = remove(network, graph, kept)
    fresh = images(10, *shape, seed=1)
    expected = network(fresh).detach()
    assert float((pruned(fresh) - expected).detach().abs().max()) > 0.01
    before = {name: value.clone() for name, value in network.state_dict().items()}
    layers = list(repair(network, pruned, graph, kept, images(64, *shape)))
    assert float((pruned(fresh) - expected).detach().abs().max()) < 1e-6
    assert max(layer.before for layer in layers) > 0.1
    assert max(layer.after for layer in layers) < 1e-6
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_value_that_is_a_combination_of_others_in_attention_costs_nothing() -> None:
    class Net(nn.Module):
        """Attention of one head with a scale of its own; value 3 is a combination of the others."""

        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(6, 12), nn.Linear(4, 5)
            with torch.no_grad():
                for values in (self.qkv.weight, self.qkv.bias):
                    values[[3, 7]] = 0.0
                    values[11] = 2 * values[8] - values[10]

        def forward(self, x: Tensor) -> Tensor:
            """Return logits."""
            q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).unflatten(2, (3, -1)).unbind(2)
            return self.out(F.scaled_dot_product_attention(q, k, v, scale=0.5)).mean(1)

    torch.manual_seed(0)
    network = Net().double().eval()
    graph = trace(network, torch.zeros(1, 6, 3, 3, dtype=torch.float64))
    (inner,) = (c for c in graph.connections if c.name == "qkv")
    kept = torch.ones(graph.num_nodes, dtype=torch.bool)
    kept[inner.target.flatten()[3]] = False
    pruned = remove(network, graph, kept)
    fresh = images(10, 6, 3, 3, seed=1)
    assert float((pruned(fresh) - network(fresh)).abs().max()) > 0.01
    assert len(list(repair(network, pruned, graph, kept, images(64, 6, 3, 3)))) == 2
    assert float((pruned(fresh) - network(fresh)).abs().max()) < 1e-6


def networks() -> dict[str, tuple[nn.Module, tuple[int, int, int]]]:
    torch.manual_seed(0)
    vit = VisionTransformer(16, 4, 2, 2, hidden_dim=24, mlp_dim=32, num_classes=5)
    nn.init.normal_(vit.heads.head.weight, std=0.1)
    return {
        "plain": (randomize(PlainNet()), (3, 8, 8)),
        "resnet": (random_resnet(8, 8), (3, 16, 16)),
        "vit": (vit.eval(), (3, 16, 16)),
    }


@pytest.mark.parametrize("name", ["plain", "resnet", "vit"])
def test_no_layer_is_worse_on_the_images_kept_apart(name: str) -> None:
    network, shape = networks()[name]
    graph = trace(network, torch.zeros(1, *shape))
    kept = random_kept(find_groups(graph, equal="attention"))
    data = images(96, *shape).float()
    first, second = (remove(network, graph, kept) for _ in range(2))
    layers = list(repair(network, first, graph, kept, data))
    assert all(layer.after <= layer.before for layer in layers)
    assert sum(layer.after < 0.9 * layer.before for layer in layers) >= 2
    for layer in layers[:: len(layers) - 1]:  # the errors, from outputs themselves
        expected, found = (outputs(n, data, layer) for n in (network, first))
        index = outputs_kept(graph, kept, layer.name)
        dim = 1 if expected.dim() == 4 else -1
        expected = expected.index_select(dim, index)
        error = (found - expected).norm() / expected.norm()
        assert float(error) == pytest.approx(layer.after, rel=1e-3, abs=1e-6)
    assert repr(list(repair(network, second, graph, kept, data))) == repr(layers)
    same = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def outputs(network: nn.Module, data: Tensor, layer: LayerRepair) -> Tensor:
    """What a layer gives for the images kept apart: each fourth batch of 24."""
    program = LayerwiseNetwork(network, trace(network, data[:1]), data[72:])
    (step,) = program.run(data[72:], [layer.name])
    return step.compute()


def outputs_kept(graph: WeightGraph, kept: Tensor, name: str) -> Tensor:
    (connection,) = (c for c in graph.connections if c.parameter == name)
    return kept[connection.target.flatten()].nonzero().flatten()


def test_masked_weights_stay_zero_and_the_others_make_up_for_them() -> None:
    network = random_resnet(8, 4)
    graph = trace(network, torch.zeros(1, 3, 16, 16))
    masks = find_masks(
        graph, network.state_dict(), Magnitude(p=1.0, normalize="none"), ZeroShare(share=0.6)
    )
    masked = apply_masks(network, masks)
    every, data = torch.ones(graph.num_nodes, dtype=torch.bool), images(64, 3, 16, 16).float()
    layers = list(repair(network, masked, graph, every, data, masks=masks.kept))
    assert all(layer.after <= layer.before for layer in layers)
    assert sum(layer.after < layer.before for layer in layers) > len(layers) // 2
    for name, kept in masks.kept.items():
        assert not bool(masked.get_parameter(name)[~kept].any()), name
    fresh = images(32, 3, 16, 16, seed=1).float()
    errors = [
        float((result(fresh) - network(fresh)).norm())
        for result in (apply_masks(network, masks), masked)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_weights_that_are_read_twice_are_left() -> None:
    class Twice(nn.Module):
        """One convolution in two places."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.same = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
            self.classifier = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            """Return logits."""
            x = torch.relu(self.same(torch.relu(self.first(x))))
            return self.classifier(torch.relu(self.same(x)).mean((2, 3)))

    network = randomize(Twice())
    graph = trace(network, torch.zeros(1, 3, 8, 8))
    kept = random_kept(find_groups(graph))
    pruned = remove(network, graph, kept)
    layers = list(repair(network, pruned, graph, kept, images(16, 3, 8, 8).float()))
    assert [layer.name for layer in layers] == ["first.weight", "classifier.weight"]


def test_images_wait_until_what_all_give_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network, shape = redundant("strided")
    data = images(320, *shape)
    graph = trace(network, data[:1])
    (first,) = (c for c in graph.connections if c.name == "first")
    kept = torch.ones(graph.num_nodes, dtype=torch.bool)
    kept[first.target.flatten()[[1, 3, 4, 6]]] = False
    pruned = remove(network, graph, kept)
    batches = equal_batches(data)
    held = [LayerwiseNetwork(net, graph, batches[0]).held(NAMES) for net in (network, pruned)]
    assert held[0] == [32 * 8 * 8 * 30, 32 * 8 * 8 * 30, 32 * 8 * 6]  # the reader's inputs are most
    limit = 5 * (held[0][1] + held[1][1])
    monkeypatch.setattr(sys.modules[LayerRepair.__module__], "HELD", limit)
    begun = count_runs(monkeypatch)
    steps = repair(network, pruned, graph, kept, data)
    expected = {"first.weight": 5, "reader.weight": 5, "classifier.weight": len(batches)}
    assert {next(steps).name: len(begun) // 2 for _ in expected} == expected
    fresh = images(10, *shape, seed=1)
    assert float((pruned(fresh) - network(fresh)).detach().abs().max()) < 1e-6


NAMES = ["first.weight", "reader.weight", "classifier.weight"]


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets longer with each run of a batch."""
    begun: list[int] = []
    original = LayerwiseNetwork.run

    def run(self: LayerwiseNetwork, batch: Tensor, *args: Any, **kwargs: Any) -> Iterator[Layer]:
        begun.append(len(batch))
        return original(self, batch, *args, **kwargs)

    monkeypatch.setattr(LayerwiseNetwork, "run", run)
    return begun


def test_too_few_images_are_refused() -> None:
    network = random_resnet()
    graph = trace(network, torch.zeros(1, 3, 16, 16))
    every = torch.ones(graph.num_nodes, dtype=torch.bool)
    with pytest.raises(ConfigError, match="at least 4"):
        list(repair(network, network, graph, every, torch.zeros(3, 3, 16, 16)))


def test_what_is_not_finite_is_told_before_anything_is_learnt() -> None:
    network = random_resnet()
    graph = trace(network, torch.zeros(1, 3, 16, 16))
    every = torch.ones(graph.num_nodes, dtype=torch.bool)
    broken = torch.zeros(8, 3, 16, 16)
    broken[5, 0, 0, 0] = torch.nan
    with pytest.raises(ConfigError, match="images: one holds NaN or infinity"):
        list(repair(network, network, graph, every, broken))
    for criterion in (Elimination(), Taylor()):
        labelled = [(broken, torch.zeros(8, dtype=torch.int64))]
        with pytest.raises(ConfigError, match="images: one holds NaN or infinity"):
            criterion.measure(network, graph, lambda given=labelled: given)
    small = next(iter(network.parameters()))
    with torch.no_grad():
        small.mul_(1e38)
    with pytest.raises(PruningError, match="computes of the images is not finite"):
        list(repair(network, network, graph, every, torch.full((8, 3, 16, 16), 1e30)))
    with torch.no_grad():
        small.fill_(torch.nan)
    with pytest.raises(PruningError, match="the network holds NaN or infinity"):
        examine(network, torch.zeros(1, 3, 16, 16))


def test_large_images_are_fewer() -> None:
    settings = RepairSettings(images=1024)
    assert settings.of_size(32, 32).images == settings.of_size(128, 128).images == 1024
    assert settings.of_size(224, 224).images * 224**2 <= 2**24
    assert settings.of_size(8192, 8192).images == 4
