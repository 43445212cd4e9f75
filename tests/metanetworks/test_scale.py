import itertools
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch_geometric.nn import MessagePassing

from helpers import random_resnet, randomize, relative_error
from metaprune_pl.errors import ConfigError, TraceError
from metaprune_pl.graphs import Features, WeightGraph, read, trace, unite, unite_states, write
from metaprune_pl.graphs.pyg import edge_index
from metaprune_pl.metanetworks import (
    Metanetwork,
    ScaleMetanetwork,
    ScalePredictor,
    load_metanetwork,
    save_metanetwork,
)
from metaprune_pl.metanetworks.scale import wiring
from metaprune_pl.metanetworks.scale.folding import fold, unfold
from metaprune_pl.metanetworks.scale.layers import Message, canonical, inverse
from metaprune_pl.metanetworks.scale.trunk import Layer, Trunk
from metaprune_pl.metanetworks.scale.wiring import HIDDEN, wire
from metaprune_pl.networks import create_network

GRAY = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
RGB = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
SIZES: dict[str, Any] = {"layers": 2, "hidden": 6}
VARIANTS = list(itertools.product(["scale", "sign", "permutation"], ["forward", "both"]))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_parameters(metanetwork: Metanetwork) -> Any:
    """Draw all parameters, so that heads change something, in float64."""
    metanetwork.double()
    with torch.no_grad():
        for parameter in metanetwork.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(parameter.numel())))
    return metanetwork


def small_cnn(activation: str = "relu", **arguments: Any) -> nn.Module:
    """Return a small CNN with a dead channel, a silent one and a kernel of zeros, in float64."""
    settings = {"width": 5, "activation": activation, **arguments}
    network = create_network("small_cnn", seed=0, **settings)
    network = randomize(network).double()
    with torch.no_grad():
        dead = network.get_submodule("features.0")
        dead.weight[1], dead.bias[1] = 0, 0
        network.get_submodule("features.6").weight[:, 2] = 0
        network.get_submodule("features.3").weight[0, 0] = 0
    return network


@cache
def networks(symmetry: str) -> list[tuple[nn.Module, WeightGraph, Tensor, str]]:
    """Networks that have a symmetry: graph, an image, and the schema of their parameters."""
    if symmetry == "sign":
        cases = [(small_cnn("tanh"), GRAY, "bias")]
    else:
        cases = [
            (small_cnn(), GRAY, "bias"),
            (random_resnet(14, 4).double(), RGB, "resnet"),
            (random_resnet(8, 4, shortcut="pad").double(), RGB, "universal"),
        ]
    return [(network, trace(network, image), image, schema) for network, image, schema in cases]


def random_scales(graph: WeightGraph, symmetry: str, width: int) -> Tensor:
    """Draw the factor of each hidden channel; channels that are added have the same, [N]."""
    wired = wire(graph, width=width, symmetric=True, device=torch.device("cpu"))
    normal = torch.randn(graph.num_nodes, generator=seeded(5), dtype=torch.float64)
    scales = normal.sign() if symmetry == "sign" else normal.exp()
    scales[wired.kinds != HIDDEN] = 1
    for _ in graph.groups:
        for connection in graph.connections:
            if connection.parameter is None:
                scales[connection.target[:, 0]] = scales[connection.source[:, 0]]
    return scales


def rescaled(graph: WeightGraph, features: Features, scales: Tensor, schema: str) -> Features:
    """Multiply what leads to each channel, and divide what leaves it."""
    wired = wire(graph, width=1, symmetric=True, device=torch.device("cpu"))
    slots = list(read_slots(schema))
    nodes = features.nodes.clone()
    for norm, has in zip(("norm", "shortcut_norm"), wired.normed, strict=True):
        for slot in (f"{norm}.weight", f"{norm}.bias"):
            if slot in slots:
                nodes[:, slots.index(slot)] *= torch.where(has, scales, 1)
    plain = slots.index("bias" if "bias" in slots else "norm.bias")
    nodes[:, plain] *= torch.where(wired.normed[0], 1, scales)
    edges = list(features.edges)
    for piece in wired.pieces:
        if graph.connections[piece.member].parameter is not None:
            factor = 1 / scales[piece.source][:, None, :, None]
            if not wired.normed[:, piece.target[0, 0]][piece.norm - 1] or piece.norm == 0:
                factor = factor * scales[piece.target][:, :, None, None]
            edges[piece.member] = edges[piece.member] * factor
    return Features(nodes=nodes, edges=tuple(edges))


def read_slots(schema: str) -> dict[str, float]:
    return ScaleMetanetwork(schema=schema, **SIZES).schema.slots


def error(a: Features, b: Features) -> float:
    """Largest relative error of any tensor."""
    pairs = [(a.nodes, b.nodes), *zip(a.edges, b.edges, strict=True)]
    return max(relative_error(x, y) for x, y in pairs)


def permuted(graph: WeightGraph, features: Features, order: Tensor) -> Features:
    """Put nodes in another order, and their edges with them."""
    edges = []
    for connection, old in zip(graph.connections, features.edges, strict=True):
        rows = order[connection.target[0]] - connection.target[0, 0]
        columns = order[connection.source[0]] - connection.source[0, 0]
        edges.append(old[:, rows][:, :, columns])
    return Features(nodes=features.nodes[order], edges=tuple(edges))


def random_order(graph: WeightGraph) -> Tensor:
    """Permute the channels of each hidden group, [N]."""
    order = torch.arange(graph.num_nodes)
    for group in graph.groups[1:-1]:
        order[group.start : group.stop] = group.start + torch.randperm(
            group.size, generator=seeded(1)
        )
    return order


# Symmetries


@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("symmetry", ["scale", "sign"])
def test_rescaling_first_or_afterwards_is_all_the_same(symmetry: Any, direction: Any) -> None:
    for network, graph, image, schema in networks(symmetry):
        state = network.state_dict()
        operator = random_parameters(
            ScaleMetanetwork(
                symmetry=symmetry,
                direction=direction,
                schema=schema,
                positions=(20, 3, 10),
                **SIZES,
            )
        )
        features = read(graph, state, operator.schema)
        scales = random_scales(graph, symmetry, 6)
        other = rescaled(graph, features, scales, schema)
        images = torch.randn(3, *image.shape[1:], generator=seeded(), dtype=torch.float64)
        new_state = write(graph, other, state, operator.schema)
        logits = network(images)
        assert relative_error(functional_call(network, new_state, (images,)), logits) < 1e-12
        with torch.no_grad():
            one = rescaled(graph, operator(graph, features), scales, schema)
            two = operator(graph, other)
        assert error(two, one) < 1e-12
        assert error(two, other) > 1e-3  # it changes something


@pytest.mark.parametrize("readout", ["last_layer", "full_graph"])
@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("symmetry", ["scale", "sign"])
def test_a_prediction_is_the_same_for_every_scale_and_order(
    symmetry: Any, direction: Any, readout: Any
) -> None:
    network, graph, *_ = networks(symmetry)[0]
    predictor = random_parameters(
        ScalePredictor(symmetry=symmetry, direction=direction, readout=readout, **SIZES)
    )
    features = read(graph, network.state_dict(), predictor.schema)
    other = rescaled(graph, features, random_scales(graph, symmetry, 6), "bias")
    expected = predictor(graph, features)
    assert relative_error(predictor(graph, other), expected) < 1e-12
    moved = permuted(graph, other, random_order(graph))
    assert relative_error(predictor(graph, moved), expected) < 1e-12
    half = Features(nodes=features.nodes, edges=tuple(0.5 * e for e in features.edges))
    assert relative_error(predictor(graph, half), expected) > 1e-6  # another function


@pytest.mark.parametrize(("symmetry", "direction"), VARIANTS)
def test_permuted_channels_are_rewritten_the_same_way(symmetry: Any, direction: Any) -> None:
    network, graph, *_ = networks(symmetry.replace("permutation", "scale"))[0]
    operator = random_parameters(ScaleMetanetwork(symmetry=symmetry, direction=direction, **SIZES))
    features = read(graph, network.state_dict(), operator.schema)
    order = random_order(graph)
    with torch.no_grad():
        one = permuted(graph, operator(graph, features), order)
        two = operator(graph, permuted(graph, features, order))
    assert error(two, one) < 1e-12


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_the_permutation_variant_is_not_invariant_to_scales(direction: Any) -> None:
    network, graph, *_ = networks("scale")[0]
    predictor = random_parameters(
        ScalePredictor(symmetry="permutation", direction=direction, **SIZES)
    )
    features = read(graph, network.state_dict(), predictor.schema)
    other = rescaled(graph, features, random_scales(graph, "scale", 6), "bias")
    assert relative_error(predictor(graph, other), predictor(graph, features)) > 1e-4


def test_canonical_features_and_inverses_of_nothing_are_nothing() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    for result in (canonical(x, "scale"), inverse(x, "scale")):
        assert torch.equal(result, torch.zeros(2, 3))
        (gradient,) = torch.autograd.grad(result.sum(), x, retain_graph=True)
        assert gradient.isfinite().all()
    y = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(canonical(y, "scale"), torch.tensor([[0.6, 0.8]]))
    assert torch.allclose(inverse(y, "scale"), torch.tensor([[0.12, 0.16]]))


# The untrained operator


@pytest.mark.parametrize(("symmetry", "direction"), VARIANTS)
def test_an_untrained_operator_changes_no_weight_and_no_logit(
    symmetry: Any, direction: Any
) -> None:
    for network, graph, image, schema in networks(symmetry.replace("permutation", "scale")):
        state = network.state_dict()
        operator = ScaleMetanetwork(
            symmetry=symmetry, direction=direction, schema=schema, positions=(20, 3, 10), **SIZES
        ).double()
        new = operator.rewrite(graph, state)
        assert all(torch.equal(new[name], value) for name, value in state.items())
        images = torch.randn(3, *image.shape[1:], generator=seeded(), dtype=torch.float64)
        assert torch.equal(functional_call(network, new, (images,)), network(images))


def test_training_reaches_every_parameter_within_two_steps() -> None:
    network = random_resnet(8, 4).double()
    graph, state = trace(network, RGB), network.state_dict()
    operator = ScaleMetanetwork(schema="resnet", direction="both", **SIZES).double()
    optimizer = torch.optim.SGD(operator.parameters(), lr=0.1)
    for _ in range(2):
        new = operator.rewrite(graph, state)
        optimizer.zero_grad()
        loss = sum(new[name].square().sum() for name, _ in network.named_parameters())
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in operator.parameters())
    gradients = {name: parameter.grad for name, parameter in operator.named_parameters()}
    still = [name for name, grad in gradients.items() if not grad.any()]  # type: ignore[union-attr]
    assert not still


def test_sizes_are_near_the_authors() -> None:
    network = create_network("small_cnn", seed=0)
    graph = trace(network, GRAY.float())
    assert (graph.num_nodes, graph.num_edges) == (59, 688)
    assert sum(p.numel() for p in network.parameters()) == 4970
    predictor = ScalePredictor()
    edges_in_updates = 3 * 128 * 128  # ours also sees the edge itself
    assert sum(p.numel() for p in predictor.parameters()) - edges_in_updates == 1_356_801
    operator = ScaleMetanetwork(positions=(3, 1, 10))
    assert 0.8 < sum(p.numel() for p in operator.parameters()) / 17_814 < 1


# Edge by edge


class Sums(MessagePassing):
    """Sums of messages, each computed for its own edge."""

    def __init__(self) -> None:
        super().__init__(aggr="sum")

    def forward(self, index: Tensor, senders: Tensor, edges: Tensor, layer: Any, kinds: Any) -> Any:
        size = (len(senders), len(senders))
        return self.propagate(
            index, senders=senders, edges=edges, layer=layer, kinds=kinds, size=size
        )

    def message(self, senders_j: Tensor, edges: Tensor, layer: Message, kinds_i: Tensor) -> Tensor:
        return layer.function.at(senders_j * layer.edge(edges), kinds_i[:, 0])


def scattered(graph: WeightGraph, parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten(0, 2) for part in parts])


def edge_by_edge(operator: ScaleMetanetwork, graph: WeightGraph, features: Features) -> Features:
    """The operator of networks without norms, computed along an edge list."""
    trunk, symmetry = operator.trunk, operator.trunk.symmetry
    symmetric = symmetry != "permutation"
    wired = wire(graph, width=1, symmetric=symmetric, device=torch.device("cpu"))
    index = edge_index(graph, torch.device("cpu"))
    assert isinstance(trunk, Trunk)
    nodes = trunk._add_positions(trunk.node_encoder(features.nodes), wired)
    kernels = [connection.kernel for connection in graph.connections]
    pairs = list(zip(features.edges, kernels, strict=True))
    forward, *backward = trunk.edge_encoders
    states = [scattered(graph, [forward(e, k) for e, k in pairs])]
    for encoder in backward:
        states.append(scattered(graph, [encoder(inverse(e, symmetry), k) for e, k in pairs]))

    def updated(update: Any, edges: Tensor) -> Tensor:
        at_source, at_target = update.ends(nodes)
        return update(edges, edges, at_source[index[0]] + at_target[index[1]])

    for layer in trunk.layers:
        assert isinstance(layer, Layer)
        summed = [nodes]
        for number, (way, state) in enumerate(zip(layer.ways, states, strict=True)):
            senders = way.message.sender(nodes)  # type: ignore[union-attr, operator]
            ends = index.flip(0) if number else index
            total = Sums()(ends, senders, state, way.message, wired.symmetric[:, None])
            counts = torch.zeros(graph.num_nodes).index_add(0, ends[1], torch.ones(len(ends[1])))
            summed.append(total / counts.clamp(min=1)[:, None].double().sqrt())
        if layer.ways[0].update is not None:
            states = [
                updated(way.update, state) for way, state in zip(layer.ways, states, strict=True)
            ]
        nodes = nodes + layer.update.at(torch.cat(summed, 1), wired.symmetric)
    (head,) = operator.edge_heads.values()
    parts = updated(head, states[0]).split([c.num_edges for c in graph.connections])
    new = []
    for part, old, kernel in zip(parts, features.edges, kernels, strict=True):
        taps = part if kernel == (3, 3) else part[:, 4:5]
        new.append(old + taps.reshape(old.shape))
    bias = operator.bias_head.at(nodes, wired.symmetric)
    return Features(nodes=features.nodes + bias, edges=tuple(new))


@pytest.mark.parametrize(("symmetry", "direction"), VARIANTS)
def test_pieces_of_dense_blocks_equal_messages_edge_by_edge(
    symmetry: Any, direction: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, graph, *_ = networks(symmetry.replace("permutation", "scale"))[0]
    operator = random_parameters(ScaleMetanetwork(symmetry=symmetry, direction=direction, **SIZES))
    features = read(graph, network.state_dict(), operator.schema)
    leaves = [features.nodes.clone(), *(edges.clone() for edges in features.edges)]

    def outcome(function: Callable[[Features], Features]) -> list[Tensor]:
        nodes, *edges = (leaf.requires_grad_() for leaf in leaves)
        new = function(Features(nodes=nodes, edges=tuple(edges)))
        results = [new.nodes, *new.edges]
        weights = [torch.randn(r.shape, generator=seeded(2), dtype=r.dtype) for r in results]
        total = torch.stack([(r * w).sum() for r, w in zip(results, weights, strict=True)]).sum()
        wanted = [*leaves, *operator.parameters()]
        gradients = torch.autograd.grad(total, wanted, allow_unused=True)
        return [*results, *(g for g in gradients if g is not None)]

    expected = outcome(lambda given: edge_by_edge(operator, graph, given))
    whole = outcome(lambda given: operator(graph, given))
    monkeypatch.setitem(wiring.PIECES, "cpu", 70)  # some rows of a connection, or even one
    pieces = outcome(lambda given: operator(graph, given))
    assert len(expected) == len(whole) == len(pieces)
    for a, b, c in zip(expected, whole, pieces, strict=True):
        assert relative_error(b, a) < 1e-10
        assert relative_error(c, a) < 1e-10


# Many networks


def test_a_batch_of_networks_equals_one_by_one() -> None:
    nets = [create_network("small_cnn", seed=seed, width=4).double() for seed in range(3)]
    graph, predictor = trace(nets[0], GRAY), ScalePredictor(**SIZES).double()
    states = [network.state_dict() for network in nets]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    together = torch.vmap(lambda state: predictor.predict(graph, state))(stacked)
    alone = torch.stack([predictor.predict(graph, state) for state in states])
    torch.testing.assert_close(together, alone)
    parameters = list(predictor.parameters())
    first, second = (
        torch.autograd.grad(result.square().sum(), parameters, allow_unused=True)
        for result in (together, alone)
    )
    for a, b in zip(first, second, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def test_a_united_graph_is_rewritten_as_its_networks_are() -> None:
    nets = [random_resnet(8, 4).double(), random_resnet(14, 4, seed=1).double()]
    graphs, states = [trace(n, RGB) for n in nets], [n.state_dict() for n in nets]
    operator = random_parameters(ScaleMetanetwork(schema="resnet", **SIZES))
    together = operator.rewrite(unite(graphs), unite_states(states))
    for number, (graph, state) in enumerate(zip(graphs, states, strict=True)):
        for name, value in operator.rewrite(graph, state).items():
            torch.testing.assert_close(together[f"{number}.{name}"], value)


# Norms, storage, refusals


def test_folded_norms_give_the_same_logits() -> None:
    network = random_resnet(8, 4).double()
    graph, state = trace(network, RGB), network.state_dict()
    operator = ScaleMetanetwork(schema="resnet", **SIZES)
    features = read(graph, state, operator.schema)
    wired = wire(graph, width=1, symmetric=True, device=torch.device("cpu"))
    folded = fold(features.nodes, wired.normed, operator.schema)
    edges = list(features.edges)
    for piece in wired.pieces:
        if graph.connections[piece.member].parameter is not None:
            edges[piece.member] = edges[piece.member] * folded.at(piece)
    slots = list(operator.schema.slots)
    nodes = torch.zeros_like(features.nodes)
    for norm in ("norm", "shortcut_norm"):
        nodes[:, slots.index(f"{norm}.weight")] = (1 + 1e-5) ** 0.5
    nodes[:, slots.index("norm.bias")] = folded.bias
    new = write(graph, Features(nodes=nodes, edges=tuple(edges)), state, operator.schema)
    for name in new:
        if name.endswith(("running_mean", "running_var")):
            new[name] = torch.full_like(new[name], float(name.endswith("var")))
    images = torch.randn(2, 3, 8, 8, generator=seeded(), dtype=torch.float64)
    assert relative_error(functional_call(network, new, (images,)), network(images)) < 1e-12
    zero = torch.zeros(graph.num_nodes, dtype=torch.float64)
    same = unfold(features.nodes, wired.normed, operator.schema, zero, (zero, zero))
    assert torch.equal(same, features.nodes)


def test_both_heads_are_stored_and_loaded(tmp_path: Path) -> None:
    for head in (ScaleMetanetwork(**SIZES), ScalePredictor(**SIZES)):
        folder = tmp_path / type(head).__name__
        save_metanetwork(folder, head, {})
        loaded = load_metanetwork(folder, type(head))
        assert type(loaded) is type(head) and loaded.arguments == head.arguments
        for a, b in zip(loaded.parameters(), head.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    "arguments",
    [
        {"layers": 0},
        {"hidden": 1},
        {"kernel_sizes": ()},
        {"positions": (3, 10)},
        {"symmetry": "none"},
        {"direction": "back"},
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ScaleMetanetwork(**arguments)


@pytest.mark.parametrize(
    ("network", "symmetry", "layer"),
    [
        ("small_cnn", "sign", "'features.0' is followed by relu in 'features.1'"),
        ("tanh", "scale", "'features.0' is followed by tanh in 'features.1'"),
        ("gelu", "scale", "'0' is followed by gelu in '1'"),
        ("gelu", "sign", "'0' is followed by gelu in '1'"),
    ],
)
def test_networks_without_the_symmetry_are_refused_with_the_layer(
    network: str, symmetry: Any, layer: str
) -> None:
    gelu = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(10))
    net = {
        "small_cnn": small_cnn(),
        "tanh": small_cnn("tanh"),
        "gelu": gelu.double(),
    }[network]
    net(GRAY)
    graph, state = trace(net, GRAY), net.state_dict()
    for head in (ScaleMetanetwork, ScalePredictor):
        metanetwork = head(symmetry=symmetry, kernel_sizes=(3, 30), **SIZES).double()
        with pytest.raises(TraceError, match=f"{layer}.*Take symmetry 'permutation'"):
            metanetwork(graph, read(graph, state, metanetwork.schema))
    plain = ScaleMetanetwork(symmetry="permutation", kernel_sizes=(3, 30), **SIZES).double()
    new = plain.rewrite(graph, state)
    assert all(torch.equal(new[name], value) for name, value in state.items())


def test_networks_that_do_not_fit_are_refused_with_the_way_out() -> None:
    network, graph, *_ = networks("scale")[0]
    state = network.state_dict()
    for arguments, words in (
        ({"kernel_sizes": (1,)}, r"'features.0' has one of 3x3.*kernel_sizes"),
        ({"positions": (2, 3, 10)}, "2 hidden layers, and the network has 3.*positions"),
        ({"positions": (3, 3, 9)}, "9 outputs, and the network has 10"),
    ):
        with pytest.raises(TraceError, match=words):
            ScaleMetanetwork(**arguments).double().rewrite(graph, state)  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="2 inputs, and the network has 1"):
        ScalePredictor(positions=(3, 2, 10), **SIZES, readout="full_graph").double().predict(
            graph, state
        )
