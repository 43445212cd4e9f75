"""Switches from the authors' metanetwork to the letter of the paper, against torch_geometric."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import random_resnet
from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import SCHEMAS, Features, WeightGraph, read, trace
from metaprune_pl.metanetworks import PNAMetanetwork, load_metanetwork, save_metanetwork
from metaprune_pl.metanetworks.dense_identities import with_dense_identities
from metaprune_pl.metanetworks.library import available
from metaprune_pl.metanetworks.pna_pyg import PyGMetanetwork

SMALL: dict[str, Any] = {"layers": 2, "hidden": 6, "node_ratio": 0.1, "edge_ratio": 0.1}
SWITCHES: dict[str, dict[str, Any]] = {
    "mean": {"aggregators": ["mean"]},
    "std and min": {"aggregators": ["min", "std"]},
    "dense": {"identity": "dense"},
    "after": {"edge_update": "after"},
    "deep, padded": {"encoder_layers": 2},
    "deep, by size": {"encoder_layers": 2, "kernels": "per_size", "taps": [1, 9]},
    "deep and wide": {"encoder_layers": 2, "hidden": 12},
    "the paper's letter": {"encoder_layers": 2, "edge_update": "after", "identity": "dense"},
}


@pytest.fixture(scope="module")
def network() -> tuple[WeightGraph, Features]:
    found = random_resnet(8, 4)
    graph = trace(found, torch.zeros(1, 3, 8, 8))
    state = {name: value.double() for name, value in found.state_dict().items()}
    return graph, read(graph, state, SCHEMAS["resnet"])


def both(**settings: Any) -> tuple[PNAMetanetwork, PyGMetanetwork]:
    """A metanetwork and its reference with the same random weights."""
    fast = PNAMetanetwork(**{**SMALL, "engine": "plain", **settings}).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in fast.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * noise)
    reference = PyGMetanetwork(**fast.arguments).double()
    reference.load_state_dict(fast.state_dict())
    return fast, reference


def gradients(metanetwork: PNAMetanetwork, graph: WeightGraph, features: Features) -> list[Tensor]:
    """New features, and gradients of a number that follows from all of them."""
    new = metanetwork(graph, features)
    values = [new.nodes, *new.edges]
    total = sum((value.sin().sum() for value in values), torch.zeros((), dtype=torch.float64))
    return [*values, *torch.autograd.grad(total, list(metanetwork.parameters()), allow_unused=True)]


@pytest.mark.parametrize("engine", ["plain", "native"])
@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_what_torch_geometric_computes(
    name: str, engine: str, network: tuple[WeightGraph, Features]
) -> None:
    if engine == "native" and not available():
        pytest.skip("no compiler")
    fast, reference = both(**SWITCHES[name], engine=engine)
    own, expected = gradients(fast, *network), gradients(reference, *network)
    for value, wanted in zip(own, expected, strict=True):
        if value is None or wanted is None:
            zero = value if wanted is None else wanted
            assert zero is None or not zero.any()
            continue
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-11)
    usual = both(**{key: SWITCHES[name][key] for key in ("hidden",) if key in SWITCHES[name]})[0]
    if usual.state_dict().keys() == fast.state_dict().keys():
        usual.load_state_dict(fast.state_dict())
        assert not torch.equal(usual(*network).nodes, own[0])  # it does something


@pytest.mark.parametrize("name", SWITCHES)
def test_an_untrained_metanetwork_is_the_identity(
    name: str, network: tuple[WeightGraph, Features]
) -> None:
    graph, features = network
    new = PNAMetanetwork(**{**SMALL, **SWITCHES[name]}).double()(graph, features)
    assert torch.equal(new.nodes, features.nodes)
    for edges, old in zip(new.edges, features.edges, strict=True):
        torch.testing.assert_close(edges, old, rtol=0, atol=1e-14)


def test_nodes_do_not_see_the_other_aggregators(network: tuple[WeightGraph, Features]) -> None:
    fast, _ = both(aggregators=["max"])
    before = fast(*network).nodes
    with torch.no_grad():
        for layer in fast.layers:
            layer.aggregate.weight.view(6, 4, 6)[:, [0, 1, 3]] += 1.0
    assert torch.equal(fast(*network).nodes, before)


def test_a_dense_identity_has_all_edges_and_gives_back_the_diagonal(
    network: tuple[WeightGraph, Features],
) -> None:
    graph, features = network
    dense, more = with_dense_identities(graph, features)
    widths = [len(c.target) for c in graph.connections if c.parameter is None]
    assert widths and dense.num_edges - graph.num_edges == sum(w * (w - 1) for w in widths)
    for connection, edges in zip(dense.connections, more.edges, strict=True):
        assert edges.shape[:3] == connection.shape[:3]
        if connection.parameter is None:
            assert torch.equal(edges[0, :, :, 0], torch.eye(edges.shape[1], dtype=edges.dtype))
    new = both(identity="dense")[0](graph, features)
    for connection, own, old in zip(graph.connections, new.edges, features.edges, strict=True):
        assert own.shape == old.shape
        assert connection.parameter is not None or torch.equal(own, old)


def test_switches_are_stored_and_nonsense_is_refused(
    network: tuple[WeightGraph, Features], workdir: object
) -> None:
    fast, _ = both(**SWITCHES["the paper's letter"], aggregators=["mean", "max"])
    save_metanetwork("m", fast.float(), {})
    loaded = load_metanetwork("m").double()
    torch.testing.assert_close(loaded(*network).nodes, fast.double()(*network).nodes)
    for wrong in ({"aggregators": []}, {"aggregators": ["max", "max"]}, {"encoder_layers": 3}):
        with pytest.raises(ConfigError):
            PNAMetanetwork(**wrong)  # type: ignore[arg-type]
