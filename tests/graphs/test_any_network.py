"""Networks that are no plain classifiers: several outputs, other inputs, unusual layers.

Each is traced, pruned, and compared with the masked original.
"""

import re
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import randomize
from metaprune_pl.errors import ConfigError, PruningError, TraceError
from metaprune_pl.graphs import trace
from metaprune_pl.networks import NetworkCard, NetworkSettings, load_network, save_network
from metaprune_pl.networks.examples import Example, call, tensors_of
from metaprune_pl.pruning import PruningGroups, PruningSettings, count_macs, prunable_groups, prune
from metaprune_pl.pruning.group_facts import reasons_to_stay
from metaprune_pl.pruning.removal import check_masked, masked_outputs, remove

IMAGE = torch.zeros(1, 3, 8, 8)


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def halves(groups: PruningGroups, seed: int = 0) -> Tensor:
    """Keep a random half of each group, bool [N]."""
    generator, units = torch.Generator().manual_seed(seed), groups.prunable.clone()
    for index in groups.group[groups.prunable].unique().tolist():
        members = (groups.prunable & (groups.group == index)).nonzero().flatten()
        gone = torch.randperm(len(members), generator=generator)[: len(members) // 2]
        units[members[gone]] = False
    return groups.nodes(units)


def assert_exact(network: nn.Module, example: Example) -> tuple[PruningGroups, nn.Module]:
    """Prune half of each group and compare with the masked network; values are compared."""
    randomize(network)
    groups = prunable_groups(network, example)
    kept = halves(groups)
    pruned = remove(network, groups.graph, kept)
    comparison = check_masked(network, pruned, groups.graph, kept, example)
    assert comparison.reason == "" and comparison.difference < 1e-4
    assert groups.graph.macs(torch.ones(len(kept), dtype=torch.bool)) <= count_macs(
        network, example
    )
    shapes = [tensor.shape for _, tensor in tensors_of(call(network, example))]
    assert [tensor.shape for _, tensor in tensors_of(call(pruned, example))] == shapes
    return groups, pruned


def prunable(groups: PruningGroups) -> dict[str, int]:
    """Number of prunable units of each group."""
    return dict(zip(groups.names, groups.sizes().tolist(), strict=True))


def around(layer: nn.Module, dims: int = 2, width: int = 16, out: int | None = None) -> nn.Module:
    """A convolution before a layer and one behind it, of 1 to 3 dimensions."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    last = kind(width if out is None else out, 5, 1)
    mean = Apply(lambda x: x.flatten(2).mean(2))
    return nn.Sequential(kind(3, width, 3, padding=1), layer, last, mean)


class Scaled(nn.Module):
    """A scale of each channel, brought to a shape that its module keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(16))
        self.shape = (16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled channels."""
        return F.relu(x) * self.scale.view(self.shape)


LAYERS: dict[str, tuple[nn.Module, int]] = {
    "PReLU of each channel": (around(nn.PReLU(16)), 2),
    "instance norm": (around(nn.InstanceNorm2d(16, affine=True)), 2),
    "instance norm 3D": (around(nn.InstanceNorm3d(16), 3), 3),
    "group norm without weights": (around(nn.GroupNorm(4, 16, affine=False)), 2),
    "batch norm without weights": (around(nn.BatchNorm2d(16, affine=False)), 2),
    "transposed 1D": (around(nn.ConvTranspose1d(16, 16, 2, 2), 1), 1),
    "transposed 3D": (around(nn.ConvTranspose3d(16, 16, 2, 2), 3), 3),
    "pooling 3D": (around(nn.MaxPool3d(2), 3), 3),
    "adaptive max pooling": (around(nn.AdaptiveMaxPool2d(2)), 2),
    "trilinear": (around(nn.Upsample(scale_factor=2, mode="trilinear"), 3), 3),
    "GLU": (around(nn.GLU(1), out=8), 2),
    "maximum of halves": (around(Apply(lambda x: torch.maximum(*x.chunk(2, 1))), out=8), 2),
    "where": (around(Apply(lambda x: torch.where(x > 0, x, 0.1 * x))), 2),
    "threshold": (around(nn.Threshold(0.1, 0)), 2),
    "largest places": (around(Apply(lambda x: x.flatten(2).topk(4, 2)[0][..., None])), 2),
    "running sum": (around(Apply(lambda x: x.cumsum(2))), 2),
    "sampled at a grid": (
        around(
            Apply(lambda x: F.grid_sample(x, x.new_zeros(len(x), 4, 4, 2), align_corners=False))
        ),
        2,
    ),
    "pixel shuffle": (around(nn.PixelShuffle(2), width=16, out=4), 2),
    "pixel unshuffle": (around(nn.PixelUnshuffle(2), out=64), 2),
    "einsum of one": (around(Apply(lambda x: torch.einsum("bchw->bcwh", x))), 2),
    "lengths of places": (around(Apply(lambda x: F.normalize(x.flatten(2), dim=2)[..., None])), 2),
    "unpooled": (
        around(Apply(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2))),
        2,
    ),
    "every second channel": (
        around(Apply(lambda x: torch.cat([x[:, ::2], -x[:, 1::2]], 1))),
        2,
    ),
    "scale of a shape": (around(Scaled()), 2),
    "stacked maximum": (around(Apply(lambda x: torch.stack([x, -x]).amax(0))), 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    network, dims = LAYERS[name]
    groups, _ = assert_exact(network, torch.zeros(1, 3, *[8] * dims))
    assert groups.graph.unfollowed == ()
    assert prunable(groups)["0"] > 0


def of_dimensions(dims: int) -> nn.Module:
    """A network on signals, maps or volumes."""
    return around(nn.ReLU(), dims)


@pytest.mark.parametrize("dims", [1, 3])
def test_networks_of_other_dimensions_are_stored_and_loaded(dims: int, tmp_path: Path) -> None:
    network, image = of_dimensions(dims).eval(), torch.randn(1, 3, *[6] * dims)
    (pruned,) = prune(network, image, speed_ups=[1.5])
    settings = NetworkSettings(builder=f"{__name__}:of_dimensions", arguments={"dims": dims})
    save_network(
        tmp_path / "network", pruned, NetworkCard(settings=settings, input_shape=(3, *[6] * dims))
    )
    assert torch.equal(call(load_network(tmp_path / "network"), image), call(pruned, image))


WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax over channels": lambda x: x * x.softmax(1),
    "local response norm": lambda x: F.local_response_norm(x, 3),
    "every third channel": lambda x: torch.cat([x[:, ::3], x[:, 1::3], x[:, 2::3]], 1),
    "sorted channels": lambda x: x.sort(1)[0],
    "channels chosen by index": lambda x: x[:, list(range(15, -1, -1))],
    "an operator that nobody knows": lambda x: torch.renorm(x, 2, 1, 1.0),
    "the first eight": lambda x: torch.cat([x[:, :8] * 2, x[:, 8:]], 1),
}
"""What needs all of its channels."""


@pytest.mark.parametrize("name", WHOLE)
def test_channels_that_something_needs_stay_and_the_rest_is_pruned(name: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        Apply(WHOLE[name]),
        nn.Conv2d(16, 12, 3),
        nn.ReLU(),
        nn.Conv2d(12, 5, 1),
        Apply(lambda x: x.mean((2, 3))),
    )
    groups, _ = assert_exact(network, IMAGE)
    assert prunable(groups)["0"] == 0 < prunable(groups)["2"]


class TwoMeanings(nn.Module):
    """One parameter takes part in the weights of two layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3)
        self.third, self.fourth = nn.Conv2d(16, 16, 3), nn.Conv2d(16, 12, 1)
        self.last = nn.Conv2d(12, 4, 1)
        self.gain = nn.Parameter(torch.rand(16) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        outputs = self.gain[:, None, None, None]
        before = self.second.weight if self.kind == "a weight" else self.second.weight * outputs
        beside = {
            "gains of outputs": outputs,
            "gains of outputs and inputs": self.gain[None, :, None, None],
            "a weight": self.second.weight,
        }[self.kind]
        x = F.relu(F.conv2d(F.relu(self.first(x)), before))
        x = F.relu(F.conv2d(x, self.third.weight * beside))
        return self.last(F.relu(self.fourth(x))).mean((2, 3))


@pytest.mark.parametrize("kind", ["gains of outputs", "gains of outputs and inputs", "a weight"])
def test_neurons_of_a_parameter_with_two_meanings_stay(kind: str) -> None:
    groups, _ = assert_exact(TwoMeanings(kind), IMAGE)
    assert prunable(groups)["fourth"] == 12 and prunable(groups)["second"] == 0


def test_a_part_in_another_precision_is_masked_in_it() -> None:
    class Lower(nn.Sequential):
        """Layers in bfloat16."""

        def forward(self, x: Tensor) -> Tensor:
            """Return scores."""
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x).mean((2, 3)).float()

    network = randomize(Lower(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 5, 1)))
    graph, image = trace(network, IMAGE), torch.randn(1, 3, 8, 8)
    every = torch.ones(graph.num_nodes, dtype=torch.bool)
    masked = masked_outputs(network, graph, every, image)
    assert not isinstance(masked, str)
    assert torch.equal(masked[0], network(image))


@dataclass
class Detections:
    """What a detector gives."""

    scores: Tensor
    boxes: list[Tensor]


class TwoHeads(nn.Module):
    """A layer norm, and outputs in any structure."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.pack = pack
        self.embed, self.norm, self.body = (
            nn.Conv2d(3, 32, 4, 4),
            nn.LayerNorm(32),
            nn.Linear(32, 64),
        )
        self.coarse, self.fine = nn.Linear(64, 5), nn.Linear(64, 40)

    def forward(self, x: Tensor) -> Any:
        x = F.gelu(self.body(self.norm(self.embed(x).flatten(2).transpose(1, 2)))).mean(1)
        return self.pack(self.coarse(x), self.fine(x))


PACKS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda a, b: (a, b),
    "dictionary": lambda a, b: {"coarse": a, "fine": b},
    "nested": lambda a, b: {"heads": [a, (b, None)], "count": 2},
    "dataclass": lambda a, b: Detections(a, [b]),
    "with an index": lambda a, b: (a, b, b.argmax(1)),
}


@pytest.mark.parametrize("pack", PACKS)
def test_all_outputs_stay_whole_whatever_holds_them(pack: str) -> None:
    groups, _ = assert_exact(TwoHeads(PACKS[pack]), IMAGE)
    assert prunable(groups)["body"] == 64
    assert len(groups.graph.output) == 45


def test_an_attribute_that_equals_a_width_by_chance_stays() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.channels = self.temperature = self.epochs = 16
            self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.LayerNorm(16)
            self.body, self.out = nn.Linear(16, 24), nn.Linear(24, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(F.relu(self.first(x)).flatten(2).transpose(1, 2))
            batch, places, _ = x.shape
            x = self.body(x.reshape(batch * places, self.channels)) / self.temperature
            return self.out(torch.tanh(x).view(batch, places, -1).mean(1))

    groups, pruned = assert_exact(Net(), IMAGE)
    assert isinstance(pruned, Net)
    assert (pruned.channels, pruned.temperature, pruned.epochs) == (8, 16, 16)
    assert {n for extent in groups.graph.constraints.extents for n in extent.names} >= {"channels"}


class Attention(nn.Module):
    """Attention in each of its ways, over maps."""

    def __init__(self, way: str, keys: int = 4) -> None:
        super().__init__()
        self.way, self.keys, self.scale = way, keys, 8**-0.5
        self.embed, self.q = nn.Conv2d(3, 32, 2, 2), nn.Linear(32, 32)
        self.k, self.v = nn.Linear(32, 8 * keys), nn.Linear(32, 8 * keys)
        self.norm, self.proj, self.out = nn.LayerNorm(8), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = (
            layer(x).view(*x.shape[:2], heads, -1).transpose(1, 2)
            for layer, heads in ((self.q, 4), (self.k, self.keys), (self.v, self.keys))
        )
        if self.way == "repeated keys":
            k, v = (part.repeat_interleave(4 // self.keys, 1) for part in (k, v))
        if self.way == "normed":
            q, k = self.norm(q), self.norm(k)
        if self.way == "root of the width":
            x = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        elif self.way == "scale of its own":
            x = (q * self.scale @ k.transpose(-1, -2)).softmax(-1) @ v
        else:
            grouped = self.way == "grouped queries"
            x = F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
        return self.out(self.proj(x.transpose(1, 2).flatten(2)).mean(1))


@pytest.mark.parametrize(
    ("way", "keys"),
    [
        ("fused", 4),
        ("normed", 4),
        ("root of the width", 4),
        ("scale of its own", 4),
        ("grouped queries", 2),
        ("grouped queries", 1),
        ("repeated keys", 2),
        ("repeated keys", 1),
    ],
)
def test_attention_of_narrower_heads_equals_the_masked_one(way: str, keys: int) -> None:
    network = Attention(way, keys)
    for layer in (network.q, network.k):
        layer.weight.data *= 4  # so that the scale matters
    groups, pruned = assert_exact(network, IMAGE)
    assert prunable(groups)["q"] == 8
    assert isinstance(pruned, Attention) and pruned.q.out_features == 16


class Rotary(nn.Module):
    """Attention with a rotary embedding of neighbours, whose table is a buffer.

    As in Su et al., RoFormer, 2021, equation 34.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv = nn.Conv2d(3, 16, 2, 2), nn.Linear(16, 48)
        self.proj, self.head = nn.Linear(16, 12), nn.Linear(12, 5)
        angles = torch.outer(torch.arange(16.0), 0.3 ** torch.arange(4.0)).repeat_interleave(2, 1)
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], 1), persistent=False)

    def turn(self, x: Tensor) -> Tensor:
        sin, cos = self.table.tensor_split(2, -1)
        return x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape) * sin

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(len(x), 16, 3, 2, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        return self.head(torch.relu(self.proj(x.transpose(1, 2).flatten(2))).mean(1))


def test_rotary_attention_loses_neighbours_in_pairs() -> None:
    groups, pruned = assert_exact(Rotary(), IMAGE)
    assert prunable(groups)["qkv"] == 4 and groups.graph.unfollowed == ()
    assert pruned.qkv.out_features == 24 and pruned.table.shape == (16, 8)


class Recurrent(nn.Module):
    """A recurrent classifier from its outputs or its last state."""

    def __init__(self, kind: str, last: bool, **arguments: Any) -> None:
        super().__init__()
        self.last, both = last, 2 if arguments.get("bidirectional") else 1
        self.first = nn.Conv1d(4, 16, 3, padding=1)
        self.body = getattr(nn, kind)(16, 12, batch_first=True, **arguments)
        self.out = nn.Linear(12 if last else 12 * both, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, states = self.body(torch.relu(self.first(x)).transpose(1, 2))
        state = states[0] if isinstance(states, tuple) else states
        return self.out(state[-1] if self.last else y[:, -1])


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"num_layers": 2, "bidirectional": True}])
def test_recurrent_layers_are_pruned_inside(
    kind: str, last: bool, arguments: dict[str, Any]
) -> None:
    groups, pruned = assert_exact(Recurrent(kind, last, **arguments), torch.zeros(1, 4, 10))
    assert isinstance(pruned, Recurrent) and pruned.body.hidden_size == 6
    assert {"first.weight", "out.weight"} & set(groups.graph.outside) == set()


def test_recurrent_cells() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = 12
            self.cell, self.out = nn.GRUCell(4, 12), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            state = x.new_zeros(len(x), self.hidden)
            for step in x.unbind(1):
                state = self.cell(step, state)
            return self.out(state)

    _, pruned = assert_exact(Steps(), torch.zeros(1, 3, 4))
    assert isinstance(pruned, Steps) and pruned.hidden == pruned.cell.hidden_size == 6


class Tokens(nn.Module):
    """A classifier of token ids with a mask, and one real input beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(6, 16)
        self.norm = nn.LayerNorm(16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.beside, self.out = nn.Linear(3, 16), nn.Linear(16, 5)

    def forward(self, ids: Tensor, mask: Tensor, extra: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.words(ids) + self.places(torch.arange(ids.shape[1])))
        x = self.layer(x, src_key_padding_mask=~mask)
        x = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"scores": self.out(x + torch.relu(self.beside(extra)))}


@pytest.mark.parametrize("by_name", [False, True])
def test_ids_masks_and_several_inputs(by_name: bool) -> None:
    ids, mask = torch.tensor([[3, 1, 4, 1, 5, 9]]), torch.tensor([[True] * 4 + [False] * 2])
    extra = torch.zeros(1, 3)
    example: Example = (ids, mask, extra)
    if by_name:
        example = {"ids": ids, "mask": mask, "extra": extra}
    groups, _ = assert_exact(Tokens(), example)
    assert prunable(groups)["layer.linear1"] == 24
    assert len(groups.graph.inputs) == 20 + 3


def test_tokens_that_come_as_vectors_have_their_channels_last() -> None:
    network = nn.Sequential(
        nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Flatten(), nn.Linear(160, 5)
    )
    groups, _ = assert_exact(network, torch.zeros(1, 10, 12))
    assert groups.graph.outside == () and prunable(groups)["0"] == 32


class Generator(nn.Module):
    """A linear layer whose outputs become a map."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 8 * 4 * 4), nn.BatchNorm2d(8)
        self.up, self.last = nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(6, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.linear(z).view(len(z), -1, 4, 4)))
        return torch.tanh(self.last(torch.relu(self.up(x))))


def test_a_map_from_a_linear_layer_is_pruned_by_channels() -> None:
    groups, pruned = assert_exact(Generator(), torch.zeros(1, 6))
    assert prunable(groups)["linear"] == 8
    assert isinstance(pruned, Generator) and pruned.linear.out_features == 4 * 16


class ConvGRU(nn.Module):
    """Two steps over maps, from a state of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.gates = nn.Conv2d(17, 16, 3, padding=1)
        self.new, self.out = nn.Conv2d(16, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        state = torch.zeros_like(x)
        place = torch.linspace(-1, 1, x.shape[-1]).expand(len(x), 1, *x.shape[2:])
        for _ in range(2):
            both = torch.cat([x, state, place], 1)
            read, write = torch.sigmoid(self.gates(both)).chunk(2, 1)
            new = torch.tanh(self.new(torch.cat([x, read * state], 1)))
            state = (1 - write) * state + write * new
        return self.out(state.mean((2, 3)))


def test_channels_beside_constant_ones_are_pruned() -> None:
    groups, _ = assert_exact(ConvGRU(), IMAGE)
    assert prunable(groups)["first"] == 8


class Products(nn.Module):
    """A layer written as a product, and an output that is a length."""

    def __init__(self, *, length: bool) -> None:
        super().__init__()
        self.first, self.length = nn.Conv2d(3, 12, 3), length
        self.weight, self.bias = nn.Parameter(torch.randn(5, 12)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = x.flatten(2).norm(dim=2) if self.length else x.mean((2, 3))
        return torch.addmm(self.bias, x, self.weight.t()) if self.length else x @ self.weight.t()


@pytest.mark.parametrize("length", [False, True])
def test_layers_written_as_products_lie_in_the_graph(length: bool) -> None:
    groups, _ = assert_exact(Products(length=length), IMAGE)
    outside = {"bias"} if not length else set()
    assert set(groups.graph.outside) == outside and prunable(groups)["first"] == 12


@pytest.mark.parametrize(
    "make",
    [nn.utils.parametrizations.orthogonal, nn.utils.parametrizations.spectral_norm],
)
def test_layers_that_compute_their_weights_stay_whole(make: Callable[..., nn.Module]) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        make(nn.Conv2d(8, 12, 1)),
        nn.ReLU(),
        nn.Conv2d(12, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 5, 1),
        Apply(lambda x: x.mean((2, 3))),
    )
    groups = prunable_groups(network.eval(), IMAGE)
    assert prunable(groups)["3"] == 8
    (pruned,) = prune(network, IMAGE, speed_ups=[1.1])
    assert call(pruned, IMAGE).shape == (1, 5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("normed", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
def test_weight_normed_layers_are_pruned_to_parts_of_their_weights(
    normed: Callable[..., Any],
) -> None:
    mean = Apply(lambda x: x.mean((2, 3)))
    layers = [normed(nn.Conv2d(3, 8, 3)), nn.ReLU(), normed(nn.Conv2d(8, 12, 3)), nn.ReLU(), mean]
    network = nn.Sequential(*layers, normed(nn.Linear(12, 5)))
    groups, pruned = assert_exact(network, IMAGE)
    assert groups.graph.unfollowed == groups.graph.outside == ()
    assert prunable(groups) == {"input": 0, "0": 8, "2": 12, "5": 0}
    kept = halves(groups)
    first, second = (kept[g.start : g.stop] for g in groups.graph.groups[1:3])
    assert first.sum() == 4 and second.sum() == 6
    for image in torch.randn(2, 1, 3, 8, 8):
        call(network, image), call(pruned, image)  # the old form computes its weights then
    assert torch.allclose(pruned[2].weight, network[2].weight[second][:, first], atol=1e-6)
    assert torch.allclose(pruned[5].weight, network[5].weight[:, second], atol=1e-6)


def test_conv_groups_of_weight_normed_layers_are_removed_whole() -> None:
    middle = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 12, 3, groups=4))
    network = around(middle, width=8, out=12)
    groups, pruned = assert_exact(network, IMAGE)
    assert prunable(groups)["0"] == 4 and pruned[1].groups == 2


class Accumulated(nn.Module):
    """Branches that are added up in place, one of them a norm of what they read."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1)
        self.branches = nn.ModuleList(nn.Conv2d(8, 8, k, padding=k // 2) for k in (1, 3))
        self.norm, self.drop, self.read = nn.BatchNorm2d(8), nn.Dropout(), read

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        out = before = self.branches[0](x)
        view = before.flatten(2) if self.read == "view" else None
        out += self.branches[1](x)
        out = self.drop(out)
        out += self.norm(x)
        if view is not None:
            return self.last(out).mean((2, 3)) + view.mean((1, 2))[:, None]
        return self.last(out + before if self.read == "before" else out).mean((2, 3))


@pytest.mark.parametrize("read", ["result", "before"])
def test_sums_in_place_are_sums(read: str) -> None:
    groups, _ = assert_exact(Accumulated(read), IMAGE)
    assert prunable(groups)["first"] == 8


def test_sums_in_place_of_what_is_viewed_stay_whole() -> None:
    groups = prunable_groups(randomize(Accumulated("view")), IMAGE)
    assert prunable(groups)["first"] == 0


class Radix(nn.Module):
    """Split attention of ResNeSt: both conv groups are weighted, and added up."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, width, 1)
        self.conv = nn.Conv2d(width, 2 * width, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(2 * width)
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, 2 * width, 1)
        self.after = nn.Conv2d(width, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(torch.relu(self.before(x)))))
        x = x.reshape(len(x), 2, -1, *x.shape[2:])
        gate = self.up(torch.relu(self.down(x.sum(1).mean((2, 3), keepdim=True))))
        gate = (
            gate.reshape(len(x), 1, 2, -1).transpose(1, 2).softmax(1).reshape(len(x), 2, -1, 1, 1)
        )
        return self.after((x * gate).sum(1)).mean((2, 3))


def test_conv_groups_that_go_together_are_pruned_within(tmp_path: Path) -> None:
    groups, pruned = assert_exact(Radix(), IMAGE)
    assert prunable(groups)["conv"] == 8 and prunable(groups)["before"] == 4
    conv = pruned.get_submodule("conv")
    assert (conv.in_channels, conv.out_channels, conv.groups) == (4, 8, 2)
    assert conv.weight.shape == (8, 2, 3, 3)
    settings = NetworkSettings(builder=f"{__name__}:Radix")
    save_network(
        tmp_path / "network", pruned, NetworkCard(settings=settings, input_shape=(3, 8, 8))
    )
    again = load_network(tmp_path / "network")
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(call(again, image), call(pruned, image))
    (fast,) = prune(Radix(), IMAGE, speed_ups=[4.0])
    assert count_macs(Radix(), IMAGE) >= 4 * count_macs(fast, IMAGE)


class Features(nn.Module):
    """A residual stream that is the output itself, where there is no head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, classes) if classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.norm((x + self.block(x)).mean(1)))


class Positions(Features):
    """A table of places is brought to the size of the image, in float whatever its type."""

    def __init__(self) -> None:
        super().__init__(classes=5)
        self.places = nn.Parameter(torch.randn(1, 9, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        table = self.places.reshape(1, 3, 3, -1).permute(0, 3, 1, 2).to(torch.float32)
        table = F.interpolate(table, (4, 4), mode="bicubic", antialias=True)
        x = x + table.to(self.places.dtype).flatten(2).transpose(1, 2)
        return self.head(self.norm((x + self.block(x)).mean(1)))


def test_a_table_of_places_that_is_resized_follows_the_stream() -> None:
    groups, pruned = assert_exact(Positions(), IMAGE)
    assert prunable(groups) == {"input": 0, "stem": 8, "block.1": 16, "head": 0}
    assert pruned.places.shape == (1, 9, 4)


def test_a_stream_that_is_the_output_stays_and_the_reason_says_so() -> None:
    groups, _ = assert_exact(Features(classes=0), IMAGE)
    assert prunable(groups) == {"input": 0, "stem": 0, "block.1": 16}
    assert reasons_to_stay(groups)["stem"] == "8 of 8 channels: the network's output, or tied to it"
    groups, _ = assert_exact(Features(classes=5), IMAGE)
    assert prunable(groups)["stem"] == 8
    assert set(reasons_to_stay(groups)) == {"input", "head"}


def test_named_layers_lose_nothing_and_others_no_more_than_they_may() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU()),
        nn.Conv2d(16, 16, 3),
        Apply(lambda x: x.mean((2, 3))),
        nn.Linear(16, 5),
    ).eval()
    settings = PruningSettings(keep=("2",), max_ratios={"0": 0.25})
    (pruned,) = prune(network, IMAGE, speed_ups=[1.5], settings=settings)
    widths = [m.out_channels for m in pruned.modules() if isinstance(m, nn.Conv2d)]
    assert widths[0] >= 12 and widths[1] == 16 and widths[2] < 16
    with pytest.raises(ConfigError, match="no layer 'layer4'"):
        next(
            iter(prune(network, IMAGE, speed_ups=[1.5], settings=PruningSettings(keep=("layer4",))))
        )


def test_decisions_by_value_are_refused_with_the_line_that_makes_them() -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum() > 0 else x

    with pytest.raises(Exception, match=r"decides by the values.*test_any_network\.py:\d+"):
        trace(Decides(), torch.zeros(1, 4))


def test_the_line_is_named_in_a_clone_of_ours_too(tmp_path: Path) -> None:
    file = tmp_path / "metaprune_pl" / "mine.py"
    file.parent.mkdir()
    file.write_text(
        "import torch\n\n\n"
        "class Decides(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) if x.sum() > 0 else x\n"
    )
    network = runpy.run_path(str(file))["Decides"](4, 4)
    with pytest.raises(TraceError, match=re.escape(f"({file}:6)")):
        trace(network, torch.zeros(1, 4))


def test_dropout_that_is_always_on_cannot_be_compared_and_says_so() -> None:
    network = nn.Sequential(
        nn.Linear(4, 16), Apply(lambda x: F.dropout(x, 0.5, True)), nn.Linear(16, 3)
    )
    with pytest.raises(PruningError, match="random in evaluation mode"):
        next(iter(prune(network, torch.zeros(1, 4), speed_ups=[1.5])))


def test_hooks_that_a_network_hangs_up_in_its_first_pass_are_hung_up_once() -> None:
    seen: list[Tensor] = []

    class Collects(nn.Module):
        """Reads what its layers gave from hooks, as models of transformers do."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(6, 16), nn.Linear(16, 12)])
            self.head = nn.Linear(28, 4)
            self.hooked = False

        def forward(self, x: Tensor) -> Tensor:
            if not self.hooked:
                for layer in self.layers:
                    layer.register_forward_hook(lambda _, __, output: seen.append(output))
                self.hooked = True
            seen.clear()
            for layer in self.layers:
                x = layer(x).relu()
            return self.head(torch.cat(seen, 1))

    groups, _ = assert_exact(Collects().eval(), torch.zeros(1, 6))
    assert int(groups.prunable.sum()) == 28
