import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from helpers import random_resnet, randomize
from metaprune_pl.graphs import SCHEMAS, WeightGraph, read, trace, unite, unite_states, write
from metaprune_pl.metanetworks import PNAMetanetwork
from metaprune_pl.metanetworks.blocks import batch_blocks


def networks() -> list[tuple[WeightGraph, dict[str, Tensor]]]:
    """Two of the same architecture, and two of others."""
    image, found = torch.zeros(1, 3, 16, 16), []
    transformer = VisionTransformer(16, 8, 1, 3, 12, 20, num_classes=5)
    for network in (
        random_resnet(8),
        random_resnet(8, seed=1),
        random_resnet(8, 3),
        randomize(transformer),
    ):
        network = network.double().eval()
        found.append(
            (
                trace(network, image.double()),
                {n: v.detach() for n, v in network.state_dict().items()},
            )
        )
    return found


@pytest.mark.parametrize("engine", ["plain", "auto"])
def test_a_metanetwork_gives_each_network_of_a_union_what_it_gives_it_alone(engine: str) -> None:
    torch.manual_seed(0)
    metanetwork = PNAMetanetwork(
        layers=2,
        hidden=8,
        schema="universal",
        kernels="per_size",
        taps=[1, 3, 9, 64],
        node_ratio=0.1,
        edge_ratio=0.1,
        engine=engine,  # type: ignore[arg-type]
    ).double()
    nn.init.normal_(metanetwork.coding.node_decoder.last.weight)
    graphs, states = zip(*networks(), strict=True)
    with torch.no_grad():
        together = metanetwork.rewrite(unite(graphs), unite_states(states))
        for number, (graph, state) in enumerate(zip(graphs, states, strict=True)):
            alone = metanetwork.rewrite(graph, state)
            assert any(not torch.equal(alone[name], value) for name, value in state.items())
            for name, value in alone.items():
                torch.testing.assert_close(
                    together[f"{number}.{name}"], value, rtol=1e-11, atol=1e-11
                )


def test_equal_architectures_share_their_blocks_and_other_nodes_are_apart() -> None:
    graphs, states = zip(*networks()[:2], strict=True)
    union = unite(graphs)
    assert (union.num_nodes, union.num_edges) == tuple(
        2 * n for n in (graphs[0].num_nodes, graphs[0].num_edges)
    )
    blocks = [batch_blocks(graph, torch.device("cpu")) for graph in (graphs[0], union)]
    assert len(blocks[0]) == len(blocks[1])
    for connection in union.connections:
        halves = {
            int(nodes) // graphs[0].num_nodes
            for nodes in (*connection.target.flatten(), *connection.source[0])
        }
        assert len(halves) == 1
    features = read(union, unite_states(states), SCHEMAS["resnet"])
    assert all(
        torch.equal(
            value,
            write(union, features, unite_states(states), SCHEMAS["resnet"])[f"{number}.{name}"],
        )
        for number, state in enumerate(states)
        for name, value in state.items()
    )
