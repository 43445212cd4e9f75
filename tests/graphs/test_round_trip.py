import pytest
import torch
from torch import Tensor, nn

from helpers import ConcatNet, PlainNet, masked_logits, random_kept, random_resnet, randomize
from metaprune_pl.errors import TraceError
from metaprune_pl.graphs import SCHEMAS, Connection, Features, WeightGraph, read, trace, write
from metaprune_pl.graphs.features import READ_ONLY
from metaprune_pl.pruning import find_groups, prunable_groups, remove

IMAGE = torch.zeros(1, 3, 8, 8)


def assert_round_trip(network: nn.Module, graph: WeightGraph, schema: str) -> None:
    state = network.state_dict()
    new = write(graph, read(graph, state, SCHEMAS[schema]), state, SCHEMAS[schema])
    assert new.keys() == state.keys()
    for name, value in state.items():
        assert new[name].shape == value.shape, name
        assert torch.equal(new[name], value), name


def assert_features_are_written(network: nn.Module, graph: WeightGraph, schema: str) -> None:
    """Write random features and read them back: what `write` gives depends on nothing else."""
    state, slots = network.state_dict(), SCHEMAS[schema]
    old = read(graph, state, slots)
    generator = torch.Generator().manual_seed(1)
    drawn = Features(
        nodes=torch.rand(old.nodes.shape, generator=generator),
        edges=tuple(torch.rand(edges.shape, generator=generator) for edges in old.edges),
    )
    back = read(graph, write(graph, drawn, state, slots), slots)
    for group in graph.groups:
        written = {
            slots.column(slot, group) for slot in group.slots if not slot.endswith(READ_ONLY)
        }
        for column in range(len(slots.slots)):
            source = drawn if column in written else old
            rows = slice(group.start, group.stop)
            assert torch.equal(back.nodes[rows, column], source.nodes[rows, column]), (
                group.name,
                column,
            )
    for number, connection in enumerate(graph.connections):
        source = old if connection.parameter is None else drawn
        assert torch.equal(back.edges[number], source.edges[number]), connection.name


def connection_of(graph: WeightGraph, name: str) -> Connection:
    (found,) = (connection for connection in graph.connections if connection.name == name)
    return found


def nodes_of(graph: WeightGraph, name: str) -> Tensor:
    (group,) = (group for group in graph.groups if group.name == name)
    return torch.arange(group.start, group.stop)


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_writing_what_was_read_gives_every_tensor_of_a_full_width_resnet_bit_for_bit(
    depth: int,
) -> None:
    network = random_resnet(depth, 16)
    graph = trace(network, torch.zeros(1, 3, 32, 32))
    assert_round_trip(network, graph, "resnet")
    assert_features_are_written(network, graph, "resnet")
    assert graph.outside == ()


@pytest.mark.parametrize(("depth", "seed"), [(8, 0), (8, 1), (8, 2), (20, 0), (20, 1), (56, 0)])
def test_a_resnet_cut_to_random_widths_traces_and_round_trips(depth: int, seed: int) -> None:
    network = random_resnet(depth, 8, seed=seed)
    graph = trace(network, IMAGE)
    kept = random_kept(find_groups(graph), seed)
    pruned = remove(network, graph, kept)
    cut = trace(pruned, IMAGE)
    assert cut.num_nodes == int(kept.sum()) < graph.num_nodes
    assert [group.name for group in cut.groups] == [group.name for group in graph.groups]
    assert [c.parameter for c in cut.connections] == [c.parameter for c in graph.connections]
    assert_round_trip(pruned, cut, "resnet")
    assert_features_are_written(pruned, cut, "resnet")


def test_resnet56_on_32x32_images_has_2045_nodes_and_98368_edges() -> None:
    # nodes: 3 + 16 + 18 x 16 + 18 x 32 + 18 x 64 + 10; shortcut layers share the main branch's
    # nodes
    # edges: 3 x 16; stage 1: 18 x 16^2; stages 2, 3: c^2 / 2 + 17 c^2, c^2 / 2 of the shortcut, c
    # of 8 identities each
    stages = sum(18 * c * c + 8 * c for c in (32, 64))
    assert 48 + 18 * 16 * 16 + 9 * 16 + stages + 640 == 98_368
    graph = trace(random_resnet(56, 16), torch.zeros(1, 3, 32, 32))
    assert (graph.num_nodes, graph.num_edges) == (2045, 98_368)


@pytest.mark.parametrize("depth", [8, 20])
def test_shortcuts_stay_right_where_stage_widths_coincide(depth: int) -> None:
    network = random_resnet(depth, 16)
    graph = trace(network, IMAGE)
    kept = torch.ones(graph.num_nodes, dtype=torch.bool)
    groups = find_groups(graph)
    stream = groups.unit[
        nodes_of(graph, "layer2.0.conv2")
    ]  # stage 2's residual stream, 32 channels
    kept[torch.isin(groups.unit, stream[::2])] = False
    cut_network = remove(network, graph, kept)
    cut = trace(cut_network, IMAGE)
    assert cut_network.get_submodule("layer2.0.conv2").weight.shape[0] == 16  # as wide as stage 1
    assert_round_trip(cut_network, cut, "resnet")

    identities = [c for c in cut.connections if c.parameter is None]
    ends = [(c.source.flatten().tolist(), c.target.flatten().tolist()) for c in identities]
    blocks = (depth - 2) // 6
    expected = []
    for stage in (1, 2, 3):
        for block in range(blocks):
            before = (
                f"layer{stage}.{block - 1}.conv2"
                if block
                else f"layer{stage - 1}.{blocks - 1}.conv2"
            )
            before = "conv1" if before.startswith("layer0") else before
            source, target = nodes_of(cut, before), nodes_of(cut, f"layer{stage}.{block}.conv2")
            if stage > 1 and block == 0:  # a layer: absorbed by the main branch's nodes
                shortcut = connection_of(cut, f"layer{stage}.0.shortcut.0")
                assert torch.equal(shortcut.source.flatten(), source)
                assert torch.equal(shortcut.target.flatten(), target)
            else:
                expected.append((source.tolist(), target.tolist()))
    assert ends == expected
    main = next(group for group in cut.groups if group.name == "layer2.0.conv2")
    assert main.slots["norm.weight"] == "layer2.0.bn2.weight"
    assert main.slots["shortcut_norm.weight"] == "layer2.0.shortcut.1.weight"


def test_biases_groups_depthwise_flatten_and_a_classifier_that_is_not_square_round_trip() -> None:
    network = randomize(PlainNet())
    graph = trace(network, IMAGE)
    # 4 groups of 3 x 2, 12 of 1 x 1, 12 channels of 2 x 2 places, 7 classes of 20 features
    shapes = {c.name: c.shape for c in graph.connections}
    assert shapes == {
        "biased": (1, 8, 3, 9),
        "grouped": (4, 3, 2, 9),
        "depthwise": (12, 1, 1, 9),
        "hidden": (1, 20, 12, 4),
        "classifier": (1, 7, 20, 1),
    }
    assert_round_trip(network, graph, "universal")
    assert_features_are_written(network, graph, "universal")


def test_each_edge_holds_the_weight_between_its_two_neurons() -> None:
    network = randomize(PlainNet())
    graph = trace(network, IMAGE)
    state = network.state_dict()
    features = read(graph, state, SCHEMAS["universal"])
    edges = {c.name: e for c, e in zip(graph.connections, features.edges, strict=True)}
    for o in range(12):
        for i in range(2):  # output o of the grouped convolution is number o % 3 of group o // 3
            assert torch.equal(
                edges["grouped"][o // 3, o % 3, i], state["grouped.weight"][o, i].flatten()
            )
        assert torch.equal(edges["depthwise"][o, 0, 0], state["depthwise.weight"][o, 0].flatten())
    for k in range(7):
        for i in range(20):
            assert edges["classifier"][0, k, i, 0] == state["classifier.weight"][k, i]
    for o in range(20):
        for c in range(12):  # a flattened map counts channels first, then its 4 places
            assert torch.equal(
                edges["hidden"][0, o, c], state["hidden.weight"][o, 4 * c : 4 * c + 4]
            )
    grouped = connection_of(graph, "grouped")
    assert torch.equal(grouped.source.flatten(), nodes_of(graph, "biased"))
    assert torch.equal(grouped.target.flatten(), nodes_of(graph, "grouped"))
    columns = list(SCHEMAS["universal"].slots)
    rows = nodes_of(graph, "grouped")
    for slot, name in (
        ("weight", "weight"),
        ("bias", "bias"),
        ("mean", "running_mean"),
        ("var", "running_var"),
    ):
        assert torch.equal(
            features.nodes[rows, columns.index(f"norm.{slot}")], state[f"norm.{name}"]
        )
    assert torch.equal(
        features.nodes[nodes_of(graph, "hidden"), columns.index("bias")], state["hidden.bias"]
    )
    assert (
        features.nodes[nodes_of(graph, "input")].tolist()
        == [list(SCHEMAS["universal"].slots.values())] * 3
    )


def test_concatenated_branches_round_trip_and_connect_to_the_layer_that_reads_both() -> None:
    network = randomize(ConcatNet())
    graph = trace(network, IMAGE)
    assert_round_trip(network, graph, "universal")
    assert_features_are_written(network, graph, "universal")
    norm, right = nodes_of(graph, "norm"), nodes_of(graph, "right")
    assert connection_of(graph, "merge").source.flatten().tolist() == [
        *norm.tolist(),
        *right.tolist(),
    ]
    diagonal = connection_of(graph, "norm")
    assert diagonal.parameter is None
    assert diagonal.source.flatten().tolist() == [
        *nodes_of(graph, "left").tolist(),
        *right.tolist(),
    ]


def test_a_schema_without_a_place_for_a_slot_is_refused_and_names_the_way_out() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))
    graph = trace(network, torch.zeros(1, 3, 3, 3))
    with pytest.raises(
        TraceError, match=r"no place for 'bias' of '0' \(0\.bias\)\. Take the schema 'universal'"
    ):
        read(graph, network.state_dict(), SCHEMAS["resnet"])  # its norm's bias has the only place


class _SameWidths(nn.Module):
    """Five channels, five features, five classes, and the classifier defined first."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(5, 5)
        self.conv = nn.Conv2d(3, 5, 3)
        self.hidden = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.relu(self.hidden(torch.relu(self.conv(x)).mean((2, 3)))))


def test_the_classifier_is_found_by_position_where_hidden_layers_are_as_wide_as_the_classes() -> (
    None
):
    graph = trace(randomize(_SameWidths()), IMAGE)
    assert torch.equal(graph.output, nodes_of(graph, "classifier"))
    # 3 input nodes, 5 of `conv`, 5 of `hidden`, 5 classes
    assert graph.output.tolist() == [13, 14, 15, 16, 17]
    resnet = trace(random_resnet(8, 10), IMAGE)  # stage 1 has as many channels as classes
    assert torch.equal(resnet.output, nodes_of(resnet, "fc"))


class _Outside(nn.Module):
    """A parameter added to a map, as position embeddings are, and a layer that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.position = nn.Parameter(torch.randn(1, 1, 8, 8))
        self.unused = nn.Linear(2, 2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x) + self.position).mean((2, 3)))


def test_parameters_outside_the_graph_are_listed_and_kept() -> None:
    network = randomize(_Outside())
    graph = trace(network, IMAGE)
    assert graph.outside == ("position", "unused.weight", "unused.bias")
    state, schema = network.state_dict(), SCHEMAS["universal"]
    old = read(graph, state, schema)
    new = write(
        graph, Features(nodes=2 * old.nodes, edges=tuple(2 * e for e in old.edges)), state, schema
    )
    for name in graph.outside:
        assert torch.equal(new[name], state[name])
    assert torch.equal(new["conv.weight"], 2 * state["conv.weight"])


def test_running_statistics_are_read_and_not_written() -> None:
    network = random_resnet()
    graph, state, schema = trace(network, IMAGE), network.state_dict(), SCHEMAS["resnet"]
    old = read(graph, state, schema)
    new = write(graph, Features(nodes=old.nodes + 1, edges=old.edges), state, schema)
    for name in (
        "bn1.running_mean",
        "bn1.running_var",
        "layer2.0.shortcut.1.running_var",
        "bn1.num_batches_tracked",
    ):
        assert torch.equal(new[name], state[name])
    assert torch.equal(new["bn1.weight"], state["bn1.weight"] + 1)


def test_writing_is_differentiable() -> None:
    network = random_resnet()
    graph, state, schema = trace(network, IMAGE), network.state_dict(), SCHEMAS["resnet"]
    old = read(graph, state, schema)
    nodes, edges = old.nodes.clone().requires_grad_(), old.edges[0].clone().requires_grad_()
    new = write(graph, Features(nodes=nodes, edges=(edges, *old.edges[1:])), state, schema)
    (3 * new["conv1.weight"].sum() + 2 * new["bn1.bias"].sum()).backward()
    assert torch.equal(edges.grad, torch.full_like(edges, 3))
    expected = torch.zeros_like(nodes)
    expected[nodes_of(graph, "conv1"), list(schema.slots).index("norm.bias")] = 2
    assert torch.equal(nodes.grad, expected)


class _Renormalized(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.renorm(x, 2, 2, 1.0)


class _WithBlock(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.ReLU(), block)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.conv(x)).mean((2, 3)))


def test_neurons_around_an_unknown_operator_stay_and_the_graph_names_it() -> None:
    graph = trace(_WithBlock(_Renormalized()), IMAGE)
    (message,) = graph.unfollowed
    assert "operator 'aten.renorm.default' is not supported" in message
    assert "module 'block.1'" in message
    assert "tensor 'renorm' of shape 1x4x8x8" in message
    assert set(nodes_of(graph, "conv").tolist()) <= set(graph.constraints.fixed.tolist())
    assert graph.outside == ()


def test_a_layer_that_is_used_twice_has_one_set_of_neurons() -> None:
    network, shared = _WithBlock(nn.Identity()), nn.Conv2d(4, 4, 1)
    network.block = nn.Sequential(shared, nn.ReLU(), shared)
    graph, state = trace(network, IMAGE), network.state_dict()
    assert [c.parameter for c in graph.connections] == [
        "conv.weight",
        "block.0.weight",
        "fc.weight",
    ]
    new = write(
        graph,
        Features(
            nodes=read(graph, state, SCHEMAS["universal"]).nodes, edges=_doubled(graph, state)
        ),
        state,
        SCHEMAS["universal"],
    )
    assert torch.equal(new["block.2.weight"], 2 * state["block.0.weight"])  # its other name
    groups = prunable_groups(network, IMAGE)
    kept = torch.ones(graph.num_nodes, dtype=torch.bool)
    kept[groups.unit == groups.unit[3]] = (
        False  # the first channel of conv, and of the layer that reads itself
    )
    small = remove(network, graph, kept)
    assert small.block[0] is small.block[2] and small.block[0].weight.shape == (3, 3, 1, 1)
    images = torch.randn(2, *IMAGE.shape[1:])
    assert torch.allclose(small(images), masked_logits(network, graph, kept, images), atol=1e-6)


def _doubled(graph: WeightGraph, state: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(2 * edges for edges in read(graph, state, SCHEMAS["universal"]).edges)


def test_an_input_that_the_network_cannot_take_is_an_error_that_names_its_shape() -> None:
    with pytest.raises(TraceError, match="cannot be exported with an input of 2x8x8"):
        trace(random_resnet(), torch.zeros(1, 2, 8, 8))


def test_tracing_leaves_a_frozen_network_in_training_mode_as_it_is() -> None:
    network = random_resnet().train().requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    graph = trace(network, IMAGE)
    assert graph.outside == ()
    assert network.training and not any(
        parameter.requires_grad for parameter in network.parameters()
    )
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "shape",
    [(4, 4), (2, 2), (1, 1)],
    ids=["4 channels, 4 classes", "2 channels, 2 classes", "1 channel, 1 class"],
)
def test_narrow_networks_round_trip(shape: tuple[int, int]) -> None:
    channels, classes = shape
    network = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, classes),
    )
    assert_round_trip(network, trace(randomize(network), IMAGE), "universal")
