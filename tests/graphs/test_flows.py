"""Ways in which networks compute with their weights and channels.

Each is traced, read back exactly, and pruned.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import randomize
from metaprune_pl.graphs import SCHEMAS, WeightGraph, read, trace, write
from metaprune_pl.pruning import (
    Magnitude,
    PruningSettings,
    count_macs,
    find_groups,
    prunable_groups,
    prune,
)

IMAGE = torch.zeros(1, 3, 8, 8)


class _Around(nn.Module):
    """A convolution before a block of 8 channels, a convolution and a classifier behind it."""

    def __init__(self, block: nn.Module, out: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.block = block
        self.last = nn.Conv2d(out, 6, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.last(self.block(torch.relu(self.first(x))))).mean((2, 3)))


class _Standardized(nn.Conv2d):
    """Weights with mean 0 and variance 1 over their inputs, and a gain."""

    def __init__(self) -> None:
        super().__init__(8, 8, 3, padding=1)
        self.gain = nn.Parameter(torch.rand(8, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=self.gain.view(-1),
            training=True,
        )
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=1)


class _Blur(nn.Module):
    """A fixed filter that is not part of the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 8
        self.register_buffer("taps", torch.full((8, 1, 2, 2), 0.25), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.taps, stride=2, groups=self.channels)


class _ChannelAttention(nn.Module):
    """Attention of channels with channels (cross-covariance), with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).reshape(batch, height * width, 3, 2, -1).permute(2, 0, 3, 4, 1)
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1)
        mixed = (weights @ v).permute(0, 3, 1, 2).reshape(batch, height * width, -1)
        return self.proj(mixed).transpose(1, 2).reshape(batch, -1, height, width)


class _AlongChannels(nn.Module):
    """A gate from a convolution that runs along the channels (ECA)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3))[:, None])[:, 0]
        return x * torch.sigmoid(gate)[:, :, None, None]


class _PartlyMixed(nn.Module):
    """Only some channels are convolved; sizes of the split are a list of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (5, 3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        kept, mixed = torch.split(x, self.sizes, dim=1)
        return torch.cat([kept, torch.relu(self.conv(mixed))], 1)


class _SplitAttention(nn.Module):
    """Branches are stacked, weighted and added up."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([self.left(x), self.right(x)], dim=1)
        return (both * both.mean((3, 4), keepdim=True).softmax(1)).sum(1)


class _NormedHeads(nn.Module):
    """Each head's queries and keys are normalised with the same parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.norm = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        qkv = (
            self.qkv(x.flatten(2).transpose(1, 2))
            .reshape(batch, height * width, 3, 2, -1)
            .permute(2, 0, 3, 1, 4)
        )
        out = F.scaled_dot_product_attention(self.norm(qkv[0]), self.norm(qkv[1]), qkv[2])
        return (
            self.proj(out.transpose(1, 2).flatten(2))
            .transpose(1, 2)
            .reshape(batch, -1, height, width)
        )


class _Recurrent(nn.Module):
    """A recurrent layer is not followed: its inputs and outputs stay as many."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.lstm, self.after = (
            nn.Conv2d(8, 6, 1),
            nn.LSTM(6, 4, batch_first=True),
            nn.Linear(4, 8),
        )

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(self.before(x).flatten(2).transpose(1, 2))
        return self.after(out).transpose(1, 2).reshape(*x.shape[:1], -1, *x.shape[2:])


class _Wrapped(nn.Module):
    """A part runs with autocast switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(device_type="cpu", enabled=False):
            return self.conv(x.float())


def _twice() -> nn.Module:
    shared = nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(shared, nn.ReLU(), shared)


BLOCKS = {
    "standardized": _Standardized,
    "blur": _Blur,
    "channel attention": _ChannelAttention,
    "wrapped": _Wrapped,
    "along channels": _AlongChannels,
    "partly mixed": _PartlyMixed,
    "split attention": _SplitAttention,
    "normed heads": _NormedHeads,
    "recurrent": _Recurrent,
    "twice": _twice,
    "transposed": lambda: nn.ConvTranspose2d(8, 8, 2, stride=2),
    "transposed groups": lambda: nn.ConvTranspose2d(8, 8, 2, stride=2, groups=4),
}


def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomize(_Around(BLOCKS[name]()))


def _assert_exact(network: nn.Module, graph: WeightGraph) -> None:
    state = network.state_dict()
    again = write(graph, read(graph, state, SCHEMAS["universal"]), state, SCHEMAS["universal"])
    assert all(torch.equal(state[name], again[name]) for name in state)


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_traced_exact_and_pruned(name: str) -> None:
    network = _network(name)
    macs = count_macs(network, IMAGE)
    _assert_exact(network, trace(network, IMAGE))
    (small,) = prune(
        network,
        IMAGE,
        speed_ups=[1.5],
        criterion=Magnitude(normalize="mean"),
        settings=PruningSettings(step=0.02),
    )
    assert macs / count_macs(small, IMAGE) >= 1.5
    small.train()(torch.randn(2, *IMAGE.shape[1:])).sum().backward()
    _assert_exact(small, trace(small.eval(), IMAGE))


def test_the_gain_of_a_standardized_convolution_is_a_scale_of_its_neurons() -> None:
    graph = trace(_network("standardized"), IMAGE)
    (group,) = [group for group in graph.groups if group.name == "block"]
    assert group.slots == {"scale": "block.gain", "bias": "block.bias"}
    assert graph.outside == ()


def test_parts_of_a_layer_that_go_different_ways_are_pruning_groups_of_their_own() -> None:
    groups = find_groups(trace(_network("partly mixed"), IMAGE))
    assert [(name, int(size)) for name, size in zip(groups.names, groups.sizes(), strict=True)][
        1:3
    ] == [
        ("first", 5),
        ("first:2", 3),
    ]


def test_neurons_of_a_recurrent_layer_are_pruned_with_their_gates() -> None:
    groups = prunable_groups(_network("recurrent"), IMAGE)
    by_name = dict(zip(groups.names, groups.sizes().tolist(), strict=True))
    assert by_name["block.lstm.l0"] == 4 and by_name["block.before"] == 6


class _Routed(nn.Module):
    """Weights that depend on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * x.mean())


def test_neurons_around_weights_that_depend_on_the_image_stay_and_the_graph_says_so() -> None:
    groups = prunable_groups(_Around(_Routed()), IMAGE)
    (reason,) = groups.graph.unfollowed
    assert "'aten.conv2d.default' with computed weights" in reason
    assert "module 'block'" in reason
    by_name = dict(zip(groups.names, groups.sizes().tolist(), strict=True))
    assert by_name["first"] == by_name["last.input"] == 0 < by_name["last"]
