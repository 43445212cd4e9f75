"""Every way to compute the metanetwork gives the function of `pna_pyg`, and keeps little."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
import torchvision
from test_pna import random_metanetwork, run
from torch import Tensor, nn

from helpers import random_kept, random_resnet, randomize, relative_error
from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import SCHEMAS, Features, WeightGraph, read, trace
from metaprune_pl.metanetworks import PNAMetanetwork, library
from metaprune_pl.metanetworks.blocks import Block, batch_blocks
from metaprune_pl.metanetworks.kernels import A, EdgeBlock, Kernels
from metaprune_pl.metanetworks.native import NativeKernels
from metaprune_pl.metanetworks.plain import PIECES, PlainKernels
from metaprune_pl.metanetworks.pna_pyg import PyGMetanetwork
from metaprune_pl.pruning import find_groups, remove

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a compiler")
ENGINES = ["plain", pytest.param("native", marks=NEEDS_COMPILER)]
Case = tuple[WeightGraph, Features, dict[str, Any]]


def resnet(pruned: bool) -> Case:
    network, image = random_resnet(8, 4), torch.zeros(1, 3, 8, 8)
    graph = trace(network, image)
    if pruned:
        network = remove(network, graph, random_kept(find_groups(graph), 1))
        graph = trace(network, image)
    return graph, read(graph, network.state_dict(), SCHEMAS["resnet"]), {}


def bottleneck(pruned: bool) -> Case:
    """Two stages of ResNet-50's blocks at a sixteenth of its width."""
    torch.manual_seed(0)
    network = torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 1, 0, 0], num_classes=7, width_per_group=16
    )
    network.layer3, network.layer4, network.fc = nn.Identity(), nn.Identity(), nn.Linear(512, 7)
    image = torch.zeros(1, 3, 32, 32)
    randomize(network)
    graph = trace(network, image)
    if pruned:
        network = remove(network, graph, random_kept(find_groups(graph), 1, 0.2))
        graph = trace(network, image)
    features = read(graph, network.state_dict(), SCHEMAS["resnet"])
    return graph, features, {"kernels": "per_size", "taps": [1, 9, 49], "hidden": 16}


def transformer() -> Case:
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(16, 8, 2, 3, 12, 20, num_classes=5)
    randomize(network)
    graph = trace(network, torch.zeros(1, 3, 16, 16))
    features = read(graph, network.state_dict(), SCHEMAS["vit"])
    return (
        graph,
        features,
        {"kernels": "per_size", "taps": [1, 3, 64], "schema": "vit", "hidden": 4},
    )


def single_edges() -> Case:
    """A depthwise layer and one input channel.

    Nodes with one neighbour, and input nodes with none on one side.
    """
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.Conv2d(5, 5, 3, groups=5), nn.Flatten(), nn.Linear(5 * 16, 3)
    )
    graph = trace(randomize(network), torch.zeros(1, 1, 8, 8))
    features = read(graph, network.state_dict(), SCHEMAS["resnet"])
    return graph, features, {"kernels": "per_size", "taps": [9, 16]}


CASES = {
    "resnet": resnet(False),
    "pruned resnet": resnet(True),
    "bottleneck": bottleneck(False),
    "pruned bottleneck": bottleneck(True),
    "transformer": transformer(),
    "single edges": single_edges(),
}


def cast(features: Features, dtype: torch.dtype) -> Features:
    return Features(
        nodes=features.nodes.to(dtype), edges=tuple(edges.to(dtype) for edges in features.edges)
    )


def result(
    kind: type[PNAMetanetwork], engine: Any, case: Case, dtype: torch.dtype, **arguments: Any
) -> dict[str, Tensor]:
    """Outputs and all gradients, those of the inputs included."""
    graph, features, settings = case
    source = random_metanetwork(**{"layers": 4, **settings, **arguments})
    metanetwork = kind(**source.arguments)
    metanetwork.load_state_dict(source.state_dict())
    metanetwork.engine = engine
    return run(metanetwork.to(dtype), graph, cast(features, dtype))


@cache
def reference(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    return result(PyGMetanetwork, "auto", CASES[name], dtype)


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    assert all(torch.isfinite(value).all() for value in found.values())
    return max(
        relative_error(found[name].double(), value.double()) for name, value in expected.items()
    )


def typical(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the median of the tensors' errors.

    The worst says little in single precision: of two messages that are nearly the largest, rounding
    chooses which gets the gradient, in the reference too.
    """
    assert found.keys() == expected.keys()
    errors = [relative_error(found[name].double(), value) for name, value in expected.items()]
    return median(errors)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_message_passing_edge_by_edge(
    name: str, engine: str
) -> None:
    assert (
        worst(
            result(PNAMetanetwork, engine, CASES[name], torch.float64),
            reference(name, torch.float64),
        )
        < 1e-12
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("hidden", [3, 5, 8, 24, 32])
def test_every_hidden_width_gives_the_same_function(hidden: int, engine: str) -> None:
    expected = result(PyGMetanetwork, "auto", CASES["pruned resnet"], torch.float64, hidden=hidden)
    assert (
        worst(
            result(PNAMetanetwork, engine, CASES["pruned resnet"], torch.float64, hidden=hidden),
            expected,
        )
        < 1e-12
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_kernels_in_the_middle_of_larger_ones_give_the_same_function(engine: str) -> None:
    expected = result(PyGMetanetwork, "auto", CASES["resnet"], torch.float64, taps=[25])
    assert (
        worst(result(PNAMetanetwork, engine, CASES["resnet"], torch.float64, taps=[25]), expected)
        < 1e-12
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["pruned bottleneck", "transformer"])
def test_single_precision_is_as_near_to_double_as_the_reference_is(name: str, engine: str) -> None:
    exact = reference(name, torch.float64)
    found = result(PNAMetanetwork, engine, CASES[name], torch.float32)
    assert typical(found, exact) < 4 * typical(reference(name, torch.float32), exact)


@pytest.mark.parametrize("engine", ENGINES)
def test_constant_features_have_the_reference_s_gradient_below_the_floor_of_the_deviation(
    engine: str,
) -> None:
    graph, features, settings = CASES["bottleneck"]
    constant = Features(
        nodes=torch.full_like(features.nodes, 0.5), edges=tuple(1e-6 * e for e in features.edges)
    )
    case = graph, constant, settings
    expected = result(PyGMetanetwork, "auto", case, torch.float64)
    assert (
        worst(result(PNAMetanetwork, engine, case, torch.float64), expected) < 1e-8
    )  # far from 1: e-6 of e-6


@pytest.mark.parametrize(
    ("kernels", "piece"),
    [
        (PlainKernels, 10**9),
        (PlainKernels, 9),
        pytest.param(NativeKernels, 0, marks=NEEDS_COMPILER),
    ],
)
def test_equal_messages_share_the_gradient_of_their_extremes(
    kernels: type[Kernels], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PIECES, "cpu", piece)
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(
        -1, 2, (1, 7, 9, 1), generator=generator
    ).double()  # exact, and full of equal numbers
    block = Block((0,), (1,), torch.arange(7)[None], torch.arange(7, 16)[None], (1, 1))
    encoder, hidden = (torch.ones(4, 1).double(), torch.zeros(4).double()), 4
    factors = torch.zeros(16, 4, hidden).double()
    factors[:, A] = torch.randint(1, 3, (16, hidden), generator=generator)
    inverter = torch.tensor([1, 1, -1, -1]).double()
    decoder = tuple(torch.zeros(size).double() for size in ((4, 4), (4,), (1, 4), (1,)))
    own = kernels([EdgeBlock(block, (raw,), encoder, decoder)], 16, inverter)
    received = own.statistics([factors])
    weights = torch.randn(2, 16, 4, hidden, generator=generator).double()
    to = torch.cat([weights, received[:, :, 2:4]], 2)
    to[:, :, 1] *= 2
    to[:, :, 2:4] /= received[:, :, 4:].clamp(min=1)
    gradient = torch.zeros(raw.numel() * hidden).double()
    found = torch.zeros_like(factors)
    own.layer_backward([factors], to, gradient, found)

    leaf = factors.clone().requires_grad_()  # autograd's amax shares the gradient out, too
    edges = raw[0].expand(7, 9, hidden)
    to_rows, to_columns = (
        inverter * leaf[7:, None, A] * edges.transpose(0, 1),
        leaf[:7, None, A] * edges,
    )
    total = torch.zeros(()).double()
    for y, statistics, weight in (
        (to_rows, received[0, :7], weights[0, :7]),
        (to_columns, received[1, 7:], weights[1, 7:]),
    ):
        reduced = torch.stack([y.sum(0), y.square().sum(0), y.amax(0), (-y).amax(0)], 1)
        counts = torch.stack([(y == y.amax(0)).sum(0), (y == y.amin(0)).sum(0)], 1)
        assert torch.equal(statistics, torch.cat([reduced.detach(), counts], 1))
        total = total + (reduced * weight).sum()
    total.backward()
    torch.testing.assert_close(found, leaf.grad)


@pytest.mark.parametrize("name", ["pruned bottleneck", "transformer"])
def test_the_size_of_a_piece_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for piece in (1, 300, 5000, 10**9):
        monkeypatch.setitem(PIECES, "cpu", piece)
        results.append(result(PNAMetanetwork, "plain", CASES[name], torch.float64))
    assert all(worst(other, results[-1]) < 1e-12 for other in results[:-1])


def test_pieces_cover_a_block_once_and_are_bounded() -> None:
    (block, *_) = sorted(
        batch_blocks(CASES["bottleneck"][0], torch.device("cpu")), key=lambda b: -b.num_edges
    )
    for numbers in (1, 100, 1000, 10**9):
        seen = torch.zeros(*block.target.shape, dtype=torch.long)
        for piece in block.pieces(4, numbers):
            seen[piece] += 1
            size = seen[piece].numel() * block.source.shape[1] * 4
            assert size <= max(numbers, block.source.shape[1] * 4)
        assert bool((seen == 1).all())


@pytest.mark.parametrize("engine", ENGINES)
def test_the_number_of_threads_changes_rounding_only(engine: str) -> None:
    one = result(PNAMetanetwork, engine, CASES["bottleneck"], torch.float64)
    torch.set_num_threads(3)
    assert worst(result(PNAMetanetwork, engine, CASES["bottleneck"], torch.float64), one) < 1e-12


def test_bfloat16_stays_near_single_precision() -> None:
    exact = result(PNAMetanetwork, "plain", CASES["bottleneck"], torch.float32)
    found = result(PNAMetanetwork, "plain", CASES["bottleneck"], torch.bfloat16)
    for name, most in (
        ("nodes", 0.02),
        ("edges 0", 0.02),
        ("gradient of coding.node_encoder.weight", 0.25),
    ):
        assert relative_error(found[name].float(), exact[name]) < most, name


@pytest.mark.parametrize("engine", ENGINES)
def test_the_graph_may_be_gone_through_twice(engine: str) -> None:
    graph, features, settings = CASES["transformer"]
    metanetwork = random_metanetwork(**settings)
    metanetwork.engine = engine  # type: ignore[assignment]
    out = metanetwork(graph, features)
    loss = out.nodes.square().sum() + sum(edges.square().sum() for edges in out.edges)
    parameters = list(metanetwork.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    second = torch.autograd.grad(loss, parameters)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    nodes = metanetwork(graph, features).nodes.sum()  # without the decoder
    weight = metanetwork.layers[0].sender[0].weight  # type: ignore[index,union-attr]
    found = torch.autograd.grad(nodes, weight)[0]
    assert float(found.norm()) > 0


def test_weights_that_change_before_the_backward_pass_are_an_error() -> None:
    graph, features, settings = CASES["transformer"]
    metanetwork = random_metanetwork(**settings)
    out = metanetwork(graph, features)
    with torch.no_grad():
        metanetwork.coding.edge_decoders["1"].first.weight += 1  # type: ignore[operator]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.edges[0].sum().backward()


# Choice of the engine


def test_without_a_compiler_one_line_says_so_and_the_plain_version_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    for cached in (library.load, library.available):
        cached.cache_clear()
    monkeypatch.setattr("metaprune_pl.metanetworks.pna.WORTH", 0)
    graph, features, settings = CASES["transformer"]
    metanetwork = random_metanetwork(**settings)
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler .* plain PyTorch, which is slower"):
        metanetwork(graph, features)
    metanetwork.engine = "native"
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler"):
        metanetwork(graph, features)
    for cached in (library.load, library.available):
        cached.cache_clear()


def test_small_networks_do_not_start_the_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", None)
    graph, features, settings = CASES["transformer"]
    random_metanetwork(**settings)(graph, features)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give an empty cache, in which a compiler that takes no time puts a library."""
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\nfor out; do :; done\necho compiled > $out\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for cached in (library.load, library.available):
        cached.cache_clear()
    yield tmp_path / "cache/metaprune_pl/native"
    for cached in (library.load, library.available):
        cached.cache_clear()


def test_a_damaged_or_exchanged_library_is_not_loaded(own_cache: Path) -> None:
    path = library.build()
    assert (path.parent, own_cache.stat().st_mode & 0o777) == (own_cache, 0o700)
    for other in (b"", b"compi", b"somebody else's"):
        path.write_bytes(other)
        assert library.build() == path
        assert path.read_text() == "compiled\n"
    assert list(own_cache.iterdir()) == [path]


@pytest.mark.parametrize("above", [False, True])
def test_no_library_is_loaded_from_where_others_may_write(above: bool, own_cache: Path) -> None:
    library.build()
    folder = own_cache.parent if above else own_cache
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match=f"others may write '{folder}'.* set XDG_CACHE_HOME"):
        library.build()
    with pytest.warns(UserWarning, match="the metanetwork runs in plain PyTorch"):
        assert not library.available()


@pytest.mark.parametrize("cache", ["/proc/none", "/dev/null/cache", "no/home"])
def test_without_a_cache_the_plain_version_runs(
    cache: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    with pytest.warns(UserWarning, match="the metanetwork runs in plain PyTorch"):
        assert not library.available()


def test_the_choice_does_not_depend_on_what_was_compiled_before(own_cache: Path) -> None:
    graph, features, settings = CASES["transformer"]
    metanetwork = random_metanetwork(**settings)
    kernels = metanetwork._kernels(graph.num_edges, features.nodes)
    library.build()
    assert metanetwork._kernels(graph.num_edges, features.nodes) is kernels


def test_native_refuses_types_that_it_does_not_know() -> None:
    graph, features, settings = CASES["transformer"]
    metanetwork = random_metanetwork(**settings).bfloat16()
    metanetwork.engine = "native"
    with pytest.raises(ConfigError, match="for the CPU and float32 or float64"):
        metanetwork(graph, cast(features, torch.bfloat16))


def test_the_engine_is_not_stored() -> None:
    assert "engine" not in PNAMetanetwork(engine="plain").arguments


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_gives_the_same(name: str) -> None:
    graph, features, settings = CASES[name]
    metanetwork = random_metanetwork(**settings).double()
    expected = run(metanetwork, graph, cast(features, torch.float64))
    on_gpu = Features(
        nodes=features.nodes.double().cuda(), edges=tuple(e.double().cuda() for e in features.edges)
    )
    found = run(metanetwork.cuda(), graph, on_gpu)
    assert worst({key: value.cpu() for key, value in found.items()}, expected) < 1e-11
