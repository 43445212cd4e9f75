import pytest
import torch

from metaprune_pl.errors import NetworkError
from metaprune_pl.graphs import trace
from metaprune_pl.networks import create_network


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_small_cnn_has_the_size_of_the_public_zoo(activation: str) -> None:
    network = create_network("small_cnn", activation=activation).eval()
    shapes = [tuple(p.shape) for p in network.parameters()]
    assert shapes[::2] == [(16, 1, 3, 3), (16, 16, 3, 3), (16, 16, 3, 3), (10, 16)]
    assert sum(p.numel() for p in network.parameters()) == 4970
    graph = trace(network, torch.zeros(1, 1, 32, 32))
    assert (graph.num_nodes, graph.num_edges) == (59, 688)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_vgg_without_norms_has_the_authors_nodes_and_edges() -> None:
    with torch.device("meta"):
        full = create_network("plain_vgg")
    assert sum(p.numel() for p in full.parameters()) == 20_554_826
    assert next(iter(full.state_dict())) == "features.0.weight"
    assert list(full.state_dict())[-1] == "classifier.6.bias"
    quarter = create_network("plain_vgg", width=2)
    graph = trace(quarter, torch.zeros(1, 3, 32, 32))
    widths = [group.size for group in graph.groups]
    assert widths == [3, 2, 2, 4, 4, *[8] * 4, *[16] * 10, 10]
    assert quarter.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("small_cnn", {"width": 0}),
        ("small_cnn", {"activation": "gelu"}),
        ("small_cnn", {"dropout": 1.0}),
        ("plain_vgg", {"depth": 12}),
        ("plain_vgg", {"width": 0}),
    ],
)
def test_sizes_and_names_that_there_are_not_are_refused(name: str, arguments: object) -> None:
    with pytest.raises(NetworkError, match=name):
        create_network(name, **arguments)  # type: ignore[arg-type]
