import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from helpers import random_kept, random_resnet, randomize, relative_error
from metaprune_pl.errors import ConfigError, StorageError, TraceError
from metaprune_pl.graphs import SCHEMAS, Features, WeightGraph, read, trace
from metaprune_pl.metanetworks import (
    Metanetwork,
    PNAMetanetwork,
    load_metanetwork,
    save_metanetwork,
)
from metaprune_pl.metanetworks.coding import Coding
from metaprune_pl.metanetworks.pna_pyg import PyGMetanetwork
from metaprune_pl.pruning import find_groups, remove

IMAGE = torch.zeros(1, 3, 8, 8)
KERNELS: list[tuple[str, list[int]]] = [("pad", [9]), ("per_size", [1, 9])]


def random_metanetwork(seed: int = 0, **arguments: Any) -> PNAMetanetwork:
    """Return a small metanetwork that changes a network visibly."""
    settings = {"layers": 3, "hidden": 8, "node_ratio": 0.1, "edge_ratio": 0.1, **arguments}
    metanetwork = PNAMetanetwork(**settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in metanetwork.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return metanetwork


# The untrained metanetwork


@pytest.mark.parametrize(("kernels", "taps"), KERNELS)
def test_an_untrained_metanetwork_changes_no_weight_and_no_logit(
    kernels: str, taps: list[int]
) -> None:
    network = random_resnet(8, 16)
    graph, state = trace(network, IMAGE), network.state_dict()
    new = PNAMetanetwork(kernels=kernels, taps=taps).rewrite(graph, state)
    assert new.keys() == state.keys()
    assert all(torch.equal(new[name], value) for name, value in state.items())
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(functional_call(network, new, (images,)), network(images))


def test_a_metanetwork_with_other_parameters_changes_every_weight() -> None:
    network = random_resnet()
    graph, state = trace(network, IMAGE), network.state_dict()
    new = random_metanetwork().rewrite(graph, state)
    for name, parameter in network.named_parameters():
        assert relative_error(new[name], parameter) > 1e-3, name


# Permutations


def permute(
    state: dict[str, Tensor], rows: list[str], inputs: list[str], order: Tensor
) -> dict[str, Tensor]:
    """Reorder channels: dimension 0 of all tensors of some layers, and the inputs of others."""
    new = dict(state)
    for name, value in state.items():
        layer, leaf = name.rpartition(".")[::2]
        if layer in rows and leaf != "num_batches_tracked":
            new[name] = value[order]
        if layer in inputs and leaf == "weight":
            new[name] = value[:, order]
    return new


PERMUTATIONS = {
    "inside a block": (["layer2.1.conv1", "layer2.1.bn1"], ["layer2.1.conv2"], 8),
    "the stream of stage 1": (
        ["conv1", "bn1", "layer1.0.conv2", "layer1.0.bn2", "layer1.1.conv2", "layer1.1.bn2"],
        ["layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.0.shortcut.0"],
        4,
    ),
    "the stream of stage 2": (
        [
            "layer2.0.conv2",
            "layer2.0.bn2",
            "layer2.0.shortcut.0",
            "layer2.0.shortcut.1",
            "layer2.1.conv2",
            "layer2.1.bn2",
        ],
        ["layer2.1.conv1", "layer3.0.conv1", "layer3.0.shortcut.0"],
        8,
    ),
    "the stream of stage 3": (
        [
            "layer3.0.conv2",
            "layer3.0.bn2",
            "layer3.0.shortcut.0",
            "layer3.0.shortcut.1",
            "layer3.1.conv2",
            "layer3.1.bn2",
        ],
        ["layer3.1.conv1", "fc"],
        16,
    ),
}


@pytest.mark.parametrize(
    ("rows", "inputs", "channels"), PERMUTATIONS.values(), ids=PERMUTATIONS.keys()
)
def test_permuting_hidden_channels_permutes_the_new_weights_the_same_way(
    rows: list[str], inputs: list[str], channels: int
) -> None:
    network = random_resnet(14, 4)
    state = network.state_dict()
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(3))
    assert not torch.equal(order, torch.arange(channels))
    permuted = permute(state, rows, inputs, order)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        functional_call(network, permuted, (images,)), network(images)
    )  # the same function

    graph, metanetwork = trace(network, IMAGE), random_metanetwork()
    with torch.no_grad():
        first = permute(metanetwork.rewrite(graph, state), rows, inputs, order)
        second = metanetwork.rewrite(graph, permuted)
    for name, _ in network.named_parameters():
        assert relative_error(second[name], first[name]) < 1e-5, name
        assert relative_error(second[name], permuted[name]) > 1e-3, name  # not the identity


# The reference


def resnet_graph(
    pruned: bool, dtype: torch.dtype, in_channels: int = 3
) -> tuple[WeightGraph, Features]:
    example = torch.zeros(1, in_channels, 8, 8)
    network = random_resnet(8, 4, in_channels=in_channels)
    graph = trace(network, example)
    if pruned:
        network = remove(network, graph, random_kept(find_groups(graph), 1))
        graph = trace(network, example)
    return graph, read(graph, network.to(dtype).state_dict(), SCHEMAS["resnet"])


def run(metanetwork: Metanetwork, graph: WeightGraph, features: Features) -> dict[str, Tensor]:
    """Return outputs and all gradients of a random projection of them.

    The projection is the same in every precision and on every device.
    """
    metanetwork.zero_grad()
    leaves = [
        value.detach().clone().requires_grad_() for value in (features.nodes, *features.edges)
    ]
    out = metanetwork(graph, Features(nodes=leaves[0], edges=tuple(leaves[1:])))
    found = {
        "nodes": out.nodes,
        **{f"edges {number}": edges for number, edges in enumerate(out.edges)},
    }
    generator = torch.Generator().manual_seed(7)
    projected = [
        (v * torch.randn(v.shape, generator=generator).to(v)).sum() for v in found.values()
    ]
    torch.stack(projected).sum().backward()
    result = {name: value.detach() for name, value in found.items()}
    for name, parameter in metanetwork.named_parameters():
        assert parameter.grad is not None, name
        result[f"gradient of {name}"] = parameter.grad.clone()
    for number, leaf in enumerate(leaves):
        assert leaf.grad is not None
        result[f"gradient of input {number}"] = leaf.grad
    return result


def assert_same(
    fast: Metanetwork, graph: WeightGraph, features: Features, tolerance: float
) -> None:
    reference = PyGMetanetwork(**fast.arguments).to(features.nodes.dtype)
    reference.load_state_dict(fast.state_dict())
    found, expected = run(fast, graph, features), run(reference, graph, features)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.isfinite(value).all(), name
        assert found[name].shape == value.shape, name
        assert relative_error(found[name], value) < tolerance, name
    assert any(
        float(value.norm()) > 0
        for name, value in expected.items()
        if name.startswith("gradient of coding")
    )


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize(("kernels", "taps"), KERNELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_dense_blocks_give_the_outputs_and_gradients_of_message_passing_edge_by_edge(
    pruned: bool, kernels: str, taps: list[int], dtype: torch.dtype, tolerance: float
) -> None:
    graph, features = resnet_graph(pruned, dtype)
    assert_same(
        random_metanetwork(kernels=kernels, taps=taps).to(dtype), graph, features, tolerance
    )


class _Depthwise(nn.Module):
    """One input channel and a depthwise layer: nodes that have a single neighbour on a side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4, bias=False)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.depthwise(torch.relu(self.conv(x)))).mean((2, 3)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_nodes_with_one_neighbour_agree_with_the_reference(
    dtype: torch.dtype, tolerance: float
) -> None:
    network = randomize(_Depthwise()).to(dtype)
    graph = trace(network, torch.zeros(1, 1, 8, 8, dtype=dtype))
    neighbours = torch.bincount(
        torch.cat([c.target[:, :, None].expand(c.shape[:3]).flatten() for c in graph.connections]),
        minlength=graph.num_nodes,
    )
    # the input has none, `conv` and the depthwise layer read one channel each, the classes read 4
    assert neighbours.tolist() == [0, *[1] * 4, *[1] * 4, *[4] * 5]
    features = read(graph, network.state_dict(), SCHEMAS["resnet"])
    assert_same(random_metanetwork().to(dtype), graph, features, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_constant_node_features_agree_with_the_reference(
    dtype: torch.dtype, tolerance: float
) -> None:
    graph, features = resnet_graph(False, dtype)
    constant = Features(nodes=torch.full_like(features.nodes, 0.5), edges=features.edges)
    assert_same(random_metanetwork().to(dtype), graph, constant, tolerance)


def test_equal_messages_give_equal_outputs_and_finite_gradients() -> None:
    # all messages to a node are equal: deviation 0, below the floor, and every message is the
    # maximum
    graph, features = resnet_graph(False, torch.float64)
    constant = Features(
        nodes=torch.full_like(features.nodes, 0.5),
        edges=tuple(torch.full_like(e, 0.1) for e in features.edges),
    )
    fast = random_metanetwork().double()
    reference = PyGMetanetwork(**fast.arguments).double()
    reference.load_state_dict(fast.state_dict())
    found, expected = run(fast, graph, constant), run(reference, graph, constant)
    for name, value in expected.items():
        assert torch.isfinite(found[name]).all(), name
        if not name.startswith(
            "gradient"
        ):  # the gradient of a maximum of equal numbers may be shared out in many ways
            assert relative_error(found[name], value) < 1e-9, name


# Kernels


def test_pad_puts_small_kernels_in_the_centre_of_the_largest() -> None:
    coding = Coding(
        node_features=8,
        hidden=4,
        kernels="pad",
        taps=[9],
        node_ratio=1.0,
        edge_ratio=1.0,
        edge_scale=1.0,
    )
    edges = torch.randn(2, 3, 1, generator=torch.Generator().manual_seed(0))
    centred = torch.zeros(2, 3, 9)
    centred[..., 4] = edges[..., 0]  # the middle of nine
    torch.testing.assert_close(
        coding.encode_edges(edges, (1, 1)), coding.encode_edges(centred, (3, 3))
    )
    nn.init.normal_(coding.edge_decoders["9"].last.weight)
    hidden = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    whole = coding.decode_edges(hidden, centred, (3, 3))
    torch.testing.assert_close(coding.decode_edges(hidden, edges, (1, 1)), whole[..., 4:5])


def test_edge_scale_multiplies_what_the_encoder_sees() -> None:
    graph, features = resnet_graph(False, torch.float64)
    scaled = random_metanetwork(edge_scale=5.0).double()
    plain = random_metanetwork().double()
    with torch.no_grad():
        plain.coding.edge_encoders["9"].weight *= 5
    torch.testing.assert_close(scaled(graph, features).nodes, plain(graph, features).nodes)


@pytest.mark.parametrize(
    ("kernels", "taps", "message"),
    [
        ("pad", [8], "one square number, such as"),
        ("pad", [-4], "one square number, such as"),
        ("pad", [1, 9], "one square number, such as"),
        ("pad", [], "one square number, such as"),
        ("pad", [0], "at least one number of kernel positions"),
        ("per_size", [], "at least one number of kernel positions"),
        ("per_size", [0, 9], "at least one number of kernel positions"),
    ],
)
def test_taps_that_make_no_sense_are_refused(kernels: str, taps: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PNAMetanetwork(kernels=kernels, taps=taps)


@pytest.mark.parametrize(
    ("kernels", "taps", "message"),
    [
        (
            "per_size",
            [9],
            r"knows kernels of 9 positions, and '\S+' has one of 1x1\. .* 'per_size' and taps "
            r"\[1, 9\]",
        ),
        (
            "per_size",
            [1, 25],
            r"knows kernels of 1, 25 positions, and '\S+' has one of 3x3\. .* 'pad' and taps \[9\]",
        ),
        ("pad", [1], r"pads kernels to 1x1, and '\S+' has one of 3x3\. .* 'pad' and taps \[9\]"),
    ],
)
def test_kernels_that_the_metanetwork_was_not_made_for_are_refused(
    kernels: str, taps: list[int], message: str
) -> None:
    graph, features = resnet_graph(False, torch.float32)
    with pytest.raises(TraceError, match=message):
        random_metanetwork(kernels=kernels, taps=taps)(graph, features)


@pytest.mark.parametrize(("name", "value"), [("layers", 0), ("hidden", 1)])
def test_sizes_below_the_smallest_are_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match="layers must be at least 1 and hidden at least 2"):
        PNAMetanetwork(**{name: value})


def test_an_unknown_schema_is_refused_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match=r"no schema 'resnt'\. Did you mean 'resnet'"):
        PNAMetanetwork(schema="resnt")


# Storage


@pytest.mark.parametrize(("kernels", "taps"), KERNELS)
def test_a_stored_metanetwork_gives_the_same_outputs(
    tmp_path: Path, kernels: str, taps: list[int]
) -> None:
    metanetwork = random_metanetwork(kernels=kernels, taps=taps, edge_scale=2.0)
    save_metanetwork(tmp_path / "epoch_001", metanetwork, {"epoch": 1})
    loaded = load_metanetwork(tmp_path / "epoch_001")
    assert type(loaded) is PNAMetanetwork
    assert loaded.arguments == metanetwork.arguments
    graph, features = resnet_graph(True, torch.float32)
    before, after = metanetwork(graph, features), loaded(graph, features)
    assert torch.equal(before.nodes, after.nodes)
    assert all(torch.equal(a, b) for a, b in zip(before.edges, after.edges, strict=True))
    assert not torch.equal(before.nodes, features.nodes)


def test_a_folder_of_epochs_gives_the_last(tmp_path: Path) -> None:
    for epoch in (2, 10, 1):
        save_metanetwork(
            tmp_path / f"epoch_{epoch:03d}", random_metanetwork(seed=epoch), {"epoch": epoch}
        )
    loaded = load_metanetwork(tmp_path)
    expected = random_metanetwork(seed=10).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def stored(folder: Path, **changes: Any) -> Path:
    """Store a metanetwork and change its card."""
    save_metanetwork(folder, random_metanetwork(), {})
    card = json.loads((folder / "metanetwork.json").read_text())
    (folder / "metanetwork.json").write_text(json.dumps({**card, **changes}))
    return folder


def test_a_card_that_names_a_function_is_refused_and_the_function_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(os, "system", lambda *args, **kwargs: calls.append((args, kwargs)))
    folder = stored(
        tmp_path / "m", **{"class": "os.system", "arguments": {"command": "touch here"}}
    )
    with pytest.raises(StorageError, match=r"no metanetwork is known as 'os\.system'"):
        load_metanetwork(folder)
    assert calls == []


@pytest.mark.parametrize(
    "name", ["subprocess.Popen", "torch.nn.Linear", "metaprune_pl.errors.ConfigError"]
)
def test_a_card_that_names_another_class_is_refused(tmp_path: Path, name: str) -> None:
    folder = stored(
        tmp_path / "m", **{"class": name, "arguments": {"args": ["touch", str(tmp_path / "made")]}}
    )
    with pytest.raises(StorageError, match="no metanetwork is known as"):
        load_metanetwork(folder)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"class": "metaprune_pl.nowhere.Net"},
        {"class": "metaprune_pl.metanetworks.pna.Nothing"},
        {"class": "PNAMetanetwork"},
        {"arguments": {"layers": 3, "hidden": 16}},
        {"arguments": {"width": 3}},
    ],
    ids=["no module", "no class", "no dot", "other sizes", "other arguments"],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(StorageError, match=r"cannot read the metanetwork in"):
        load_metanetwork(stored(tmp_path / "m", **changes))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"{}"])
def test_a_damaged_card_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = stored(tmp_path / "m")
    (folder / "metanetwork.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"metanetwork\.json"):
        load_metanetwork(folder)


def test_damaged_or_missing_weights_are_refused(tmp_path: Path) -> None:
    folder = stored(tmp_path / "m")
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"cannot read .*weights\.safetensors"):
        load_metanetwork(folder)
    weights.unlink()
    with pytest.raises(StorageError, match=r"cannot read .*weights\.safetensors"):
        load_metanetwork(folder)


def test_a_folder_without_a_metanetwork_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no metanetwork in"):
        load_metanetwork(tmp_path)
