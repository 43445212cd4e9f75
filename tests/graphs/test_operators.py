import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import masked_logits, random_kept, random_resnet, randomize
from metaprune_pl.graphs import SCHEMAS, Connection, NeuronGroup, WeightGraph, read, trace, write
from metaprune_pl.pruning import (
    Magnitude,
    PruningSettings,
    count_macs,
    find_groups,
    prunable_groups,
    prune,
    remove,
)

IMAGE = torch.zeros(1, 3, 8, 8)
UNIVERSAL = SCHEMAS["universal"]


def group_of(graph: WeightGraph, name: str) -> NeuronGroup:
    (found,) = (group for group in graph.groups if group.name == name)
    return found


def nodes_of(graph: WeightGraph, name: str) -> list[int]:
    group = group_of(graph, name)
    return list(range(group.start, group.stop))


def connections_to(graph: WeightGraph, name: str) -> list[Connection]:
    nodes = set(nodes_of(graph, name))
    return [c for c in graph.connections if set(c.target.flatten().tolist()) <= nodes]


def assert_round_trip(network: nn.Module, graph: WeightGraph) -> None:
    state = network.state_dict()
    new = write(graph, read(graph, state, UNIVERSAL), state, UNIVERSAL)
    assert all(torch.equal(new[name], value) for name, value in state.items())


def assert_prunes_exactly(network: nn.Module, example: Tensor = IMAGE) -> None:
    graph = trace(network, example)
    images = torch.randn(4, *example.shape[1:], generator=torch.Generator().manual_seed(5))
    for seed in range(3):
        kept = random_kept(find_groups(graph), seed)
        pruned = remove(network, graph, kept)
        before, after = masked_logits(network, graph, kept, images), pruned(images)
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
        assert_round_trip(pruned, trace(pruned, example))


class _PreActivation(nn.Module):
    """Norm and ReLU before each convolution; the shortcut takes the stream as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv1 = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv1(torch.relu(self.bn1(x)))
        x = x + self.conv2(torch.relu(self.bn2(y)))
        return self.fc(torch.relu(self.bn3(x)).mean((2, 3)))


def test_a_norm_on_a_shared_stream_is_a_neuron_group_with_a_diagonal_connection() -> None:
    network = randomize(_PreActivation())
    graph = trace(network, IMAGE)
    for norm, stream in (("bn1", "stem"), ("bn3", "conv2")):
        (diagonal,) = connections_to(graph, norm)
        assert diagonal.parameter is None
        assert diagonal.shape == (6, 1, 1, 1)
        assert diagonal.source.flatten().tolist() == nodes_of(graph, stream)
        assert diagonal.target.flatten().tolist() == nodes_of(graph, norm)
        assert group_of(graph, norm).slots["norm.weight"] == f"{norm}.weight"
    # bn2 alone reads conv1's output, so it is conv1's norm
    assert group_of(graph, "conv1").slots["norm.var"] == "bn2.running_var"
    assert group_of(graph, "stem").slots == {}
    assert [group.name for group in graph.groups] == [
        "input",
        "stem",
        "bn1",
        "conv1",
        "conv2",
        "bn3",
        "fc",
    ]
    assert_round_trip(network, graph)
    assert_prunes_exactly(network)


class _Block(nn.Module):
    """A stem and one residual block, whose shortcut may have a layer and may come first."""

    def __init__(self, *, shortcut: bool, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6))
            if shortcut
            else nn.Identity()
        )
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        side = self.shortcut(x) if self.first else None
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        y = y + self.shortcut(x) if side is None else side + y
        return self.fc(torch.relu(y).mean((2, 3)))


@pytest.mark.parametrize("first", [False, True])
def test_an_identity_shortcut_is_a_diagonal_of_ones(first: bool) -> None:
    network = randomize(_Block(shortcut=False, first=first))
    graph = trace(network, IMAGE)
    main, identity = sorted(connections_to(graph, "conv2"), key=lambda c: c.parameter is None)
    assert main.parameter == "conv2.weight"
    assert identity.shape == (6, 1, 1, 1)  # 6 edges, not 36
    assert identity.source.flatten().tolist() == nodes_of(graph, "stem")
    assert identity.target.flatten().tolist() == nodes_of(graph, "conv2")
    values = read(graph, network.state_dict(), UNIVERSAL).edges[graph.connections.index(identity)]
    assert torch.equal(values, torch.ones(6, 1, 1, 1))
    assert_prunes_exactly(network)


@pytest.mark.parametrize("first", [False, True])
def test_a_shortcut_layer_is_absorbed_by_the_main_branch(first: bool) -> None:
    network = randomize(_Block(shortcut=True, first=first))
    graph = trace(network, IMAGE)
    assert {group.name for group in graph.groups} == {"input", "stem", "conv1", "conv2", "fc"}
    ends = {c.parameter: c for c in connections_to(graph, "conv2")}
    assert ends.keys() == {"conv2.weight", "shortcut.0.weight"}
    assert ends["shortcut.0.weight"].source.flatten().tolist() == nodes_of(graph, "stem")
    assert ends["shortcut.0.weight"].target.flatten().tolist() == nodes_of(graph, "conv2")
    slots = group_of(graph, "conv2").slots
    assert slots == {
        "norm.weight": "bn2.weight",
        "norm.bias": "bn2.bias",
        "norm.mean": "bn2.running_mean",
        "norm.var": "bn2.running_var",
        "shortcut_norm.weight": "shortcut.1.weight",
        "shortcut_norm.bias": "shortcut.1.bias",
        "shortcut_norm.mean": "shortcut.1.running_mean",
        "shortcut_norm.var": "shortcut.1.running_var",
    }
    assert_round_trip(network, graph)
    assert_prunes_exactly(network)


class _OptionA(nn.Module):
    """A block whose shortcut drops every second row and pads `pad` zero channels either side."""

    def __init__(self, channels: int = 6, pad: int = 2, *, fixed: bool = False) -> None:
        super().__init__()
        self.pad = (lambda: pad) if fixed else pad
        wide = channels + 2 * pad
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, wide, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.fc = nn.Linear(wide, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        pad = self.pad if isinstance(self.pad, int) else self.pad()
        x = torch.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad)))
        return self.fc(x.mean((2, 3)))


def test_channels_added_to_zero_padding_that_code_fixes_stay_and_others_go_with_the_stream() -> (
    None
):
    network = randomize(_OptionA(fixed=True))
    graph = trace(network, IMAGE)
    wide = nodes_of(graph, "conv2")  # 10 channels: 2 padded, 6 of the stream, 2 padded
    assert sorted(graph.constraints.fixed.tolist()) == wide[:2] + wide[-2:]
    identity = next(c for c in graph.connections if c.parameter is None)
    assert identity.source.flatten().tolist() == nodes_of(graph, "stem")
    assert identity.target.flatten().tolist() == wide[2:-2]
    groups = find_groups(graph)
    assert not groups.prunable[groups.unit[graph.constraints.fixed]].any()
    assert torch.equal(
        groups.unit[torch.tensor(wide[2:-2])], groups.unit[torch.tensor(nodes_of(graph, "stem"))]
    )
    assert_round_trip(network, graph)


def test_zero_padding_that_an_attribute_counts_is_pruned_on_both_sides_alike() -> None:
    network = randomize(_OptionA())
    groups = prunable_groups(network, IMAGE)
    wide = nodes_of(groups.graph, "conv2")
    assert groups.graph.constraints.fixed.tolist() == []
    assert groups.unit[wide[:2]].tolist() == groups.unit[wide[-2:]].tolist()
    assert bool(groups.prunable[groups.unit[wide]].all())


@pytest.mark.parametrize("fixed", [False, True])
def test_a_network_with_zero_padded_shortcuts_prunes_exactly(fixed: bool) -> None:
    network = randomize(_OptionA(fixed=fixed))
    assert_prunes_exactly(network)
    base = count_macs(network, IMAGE)
    pruned = prune(
        network,
        IMAGE,
        speed_ups=[1.5, 2.5],
        criterion=Magnitude(),
        settings=PruningSettings(),
    )
    for target, result in zip((1.5, 2.5), pruned, strict=True):
        assert base / count_macs(result, IMAGE) >= target
        stem, wide = (
            result.get_submodule("stem").out_channels,
            result.get_submodule("conv2").out_channels,
        )
        padded = 2 if fixed else result.pad
        assert wide == stem + 2 * padded and stem <= 6


def test_zero_padding_of_a_stream_of_one_channel_is_read_as_that_of_wider_ones() -> None:
    network = randomize(_OptionA(channels=1, pad=1, fixed=True))
    graph = trace(network, IMAGE)
    wide = nodes_of(graph, "conv2")
    assert sorted(graph.constraints.fixed.tolist()) == [wide[0], wide[2]]
    assert_round_trip(network, graph)


class _Flattened(nn.Module):
    """A map of 4 x 2 x 3 that is flattened into a linear layer, channels first or last."""

    def __init__(self, *, last: bool, channels: int = 4) -> None:
        super().__init__()
        self.last = last
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.hidden = nn.Linear(channels * 6, 7)
        self.fc = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(torch.relu(self.conv(x)), (2, 3))
        x = x.permute(0, 2, 3, 1) if self.last else x
        return self.fc(torch.relu(self.hidden(x.flatten(1))))


@pytest.mark.parametrize("last", [False, True])
def test_a_linear_layer_after_flattening_has_one_tap_for_each_place(last: bool) -> None:
    network = randomize(_Flattened(last=last))
    graph = trace(network, IMAGE)
    (connection,) = connections_to(graph, "hidden")
    assert connection.shape == (1, 7, 4, 6)  # 2 x 3 places
    assert connection.taps_first == last
    assert connection.source.flatten().tolist() == nodes_of(graph, "conv")
    weight = network.state_dict()["hidden.weight"]
    edges = read(graph, network.state_dict(), UNIVERSAL).edges[graph.connections.index(connection)]
    for o in range(7):
        for c in range(4):
            for place in range(
                6
            ):  # feature number: channel-major 6 c + place, or place-major 4 place + c
                assert edges[0, o, c, place] == weight[o, 4 * place + c if last else 6 * c + place]
    assert_round_trip(network, graph)
    assert_prunes_exactly(network)


@pytest.mark.parametrize("last", [False, True])
def test_a_map_of_one_channel_flattens_as_wider_ones_do(last: bool) -> None:
    network = randomize(_Flattened(last=last, channels=1))
    graph = trace(network, IMAGE)
    (connection,) = connections_to(graph, "hidden")
    assert connection.shape == (1, 7, 1, 6)
    assert_round_trip(network, graph)


class _NormAfterFlatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(F.adaptive_avg_pool2d(self.conv(x), 2).flatten(1)))


def test_a_norm_over_a_flattened_map_has_a_neuron_for_each_place_tied_to_its_channel() -> None:
    network = randomize(_NormAfterFlatten())
    graph = trace(network, IMAGE)
    assert group_of(graph, "norm").size == 16  # 4 channels x 4 places
    groups = find_groups(graph)
    by_place = groups.unit[torch.tensor(nodes_of(graph, "norm"))].reshape(4, 4)
    assert torch.equal(
        by_place, groups.unit[torch.tensor(nodes_of(graph, "conv"))][:, None].expand(4, 4)
    )
    assert_prunes_exactly(network)


def test_multiply_accumulates_of_the_graph_are_those_of_the_layers() -> None:
    graph = trace(random_resnet(8, 4), IMAGE)
    # 8x8 images, 3x3 kernels: places x taps x inputs x outputs
    stem, stage_1 = 64 * 9 * 3 * 4, 64 * 9 * 2 * 4 * 4
    stage_2 = 16 * (9 * 4 * 8 + 9 * 8 * 8 + 4 * 8)
    stage_3 = 4 * (9 * 8 * 16 + 9 * 16 * 16 + 8 * 16)
    assert (
        graph.macs(torch.ones(graph.num_nodes, dtype=torch.bool))
        == stem + stage_1 + stage_2 + stage_3 + 160
    )
