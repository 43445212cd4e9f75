"""Networks with attention: the paper's graph of ViT-B/16, exact round trips, pruned to 2x."""

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from metaprune_pl.graphs import SCHEMAS, read, trace, write
from metaprune_pl.graphs.pyg import from_pyg, to_pyg
from metaprune_pl.metanetworks import PNAMetanetwork
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    create_network,
    load_network,
    save_network,
)
from metaprune_pl.pruning import Magnitude, PruningSettings, count_macs, prune


def round_trip(network: nn.Module, image: Tensor, schema: str = "universal") -> bool:
    graph, state = trace(network, image), network.state_dict()
    again = write(graph, read(graph, state, SCHEMAS[schema]), state, SCHEMAS[schema])
    return all(torch.equal(state[name], again[name]) for name in state)


def tiny_vit() -> models.VisionTransformer:
    network = models.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=3,
        hidden_dim=24,
        mlp_dim=40,
        num_classes=10,
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
            )
    return network.eval()


IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_vit_b_16_has_the_graph_of_the_paper() -> None:
    network = models.vit_b_16()
    graph = trace(network, torch.zeros(1, 3, 224, 224))
    # 3 | 768 | 12 x (768 attention + 768 + 3072 + 768) | 1000
    assert graph.num_nodes == 66_283 == 3 + 768 + 12 * (768 + 768 + 3072 + 768) + 1000
    # 2,304 with 256 taps, 12 x 768 x 768 with 3, the others with 1, two identities of 768 in each
    # block among them
    assert graph.num_edges == 2_304 + 7_077_888 + 64_487_424
    taps = {
        size: sum(c.num_edges for c in graph.connections if c.shape[3] == size)
        for size in (256, 3, 1)
    }
    assert taps == {256: 2_304, 3: 7_077_888, 1: 64_487_424}
    assert graph.outside == ("class_token", "encoder.pos_embedding")


def test_query_key_and_value_are_the_taps_of_attention_neurons() -> None:
    network = tiny_vit()
    graph, state = trace(network, IMAGE), network.state_dict()
    name = "encoder.layers.encoder_layer_1.self_attention.in_proj"
    connection = next(c for c in graph.connections if c.parameter == f"{name}_weight")
    weight = state[f"{name}_weight"]
    assert connection.shape == (1, 24, 24, 3)
    assert torch.equal(connection.block(weight)[0], weight.reshape(3, 24, 24).permute(1, 2, 0))
    features = read(graph, state, SCHEMAS["vit"])
    columns = [list(SCHEMAS["vit"].slots).index(f"{part}_bias") for part in "qkv"]
    assert torch.equal(
        features.nodes[connection.target[0]][:, columns].t().flatten(), state[f"{name}_bias"]
    )


def test_round_trip_dense_pruned_and_by_way_of_pyg() -> None:
    network = tiny_vit()
    assert round_trip(network, IMAGE, "vit") and round_trip(network, IMAGE)
    graph, state = trace(network, IMAGE), network.state_dict()
    features = read(graph, state, SCHEMAS["vit"])
    data = to_pyg(graph, features)
    again = write(graph, from_pyg(graph, data.x, data.edge_attr), state, SCHEMAS["vit"])
    assert all(torch.equal(state[name], again[name]) for name in state)
    (small,) = prune(
        network,
        IMAGE,
        speed_ups=[2.0],
        criterion=Magnitude(),
        settings=PruningSettings(step=0.02),
    )
    assert round_trip(small, IMAGE, "vit")


def test_a_pruned_vit_follows_its_new_width_and_comes_back_from_disk(tmp_path: object) -> None:
    settings = NetworkSettings(
        builder="torchvision/vit_b_32", arguments={"num_classes": 4, "image_size": 32}
    )  # the smallest of torchvision's
    network = create_network(settings.builder, seed=0, **settings.arguments)
    macs = count_macs(network, IMAGE)
    (small,) = prune(
        network,
        IMAGE,
        speed_ups=[8.0],
        criterion=Magnitude(),
        settings=PruningSettings(step=0.05),
    )
    assert isinstance(small, models.VisionTransformer)
    assert small.hidden_dim == small.conv_proj.out_channels < 768 and small.hidden_dim % 12 == 0
    assert 8.0 <= macs / count_macs(small, IMAGE) < 12
    small.train()(IMAGE.expand(2, -1, -1, -1)).sum().backward()
    save_network(f"{tmp_path}/net", small, NetworkCard(settings=settings, input_shape=(3, 32, 32)))
    again = load_network(f"{tmp_path}/net")
    with torch.no_grad():
        assert torch.allclose(again(IMAGE), small.eval()(IMAGE), atol=1e-6)


def test_an_untrained_metanetwork_leaves_a_transformer_as_it_is() -> None:
    network = tiny_vit()
    graph, state = trace(network, IMAGE), network.state_dict()
    metanetwork = PNAMetanetwork(
        layers=2, hidden=4, schema="vit", kernels="per_size", taps=[1, 3, 64]
    )
    new = metanetwork.rewrite(graph, state)
    assert all(torch.equal(state[name], new[name]) for name in state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t", "maxvit_t"])
def test_windowed_attention(name: str) -> None:
    network = models.get_model(name, num_classes=10).eval()
    image = torch.zeros(1, 3, 224, 224)
    assert round_trip(network, image)
    macs = count_macs(network, image)
    (small,) = prune(
        network,
        image,
        speed_ups=[2.0],
        criterion=Magnitude(),
        settings=PruningSettings(step=0.05),
    )
    assert 2.0 <= macs / count_macs(small, image) < 2.5
    assert round_trip(small, image)


TIMM = (
    "vit_tiny_patch16_224 mixer_s32_224 convnextv2_atto hrnet_w18_small mobilevit_xxs "
    "res2net50_26w_4s pit_ti_224"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM.split())
def test_timm(name: str) -> None:
    network = create_network(f"timm/{name}", num_classes=10).eval()
    image = torch.zeros(1, 3, *network.default_cfg["input_size"][1:])
    assert round_trip(network, image)
    macs = count_macs(network, image)
    (small,) = prune(
        network,
        image,
        speed_ups=[2.0],
        criterion=Magnitude(),
        settings=PruningSettings(step=0.05),
    )
    assert 2.0 <= macs / count_macs(small, image) < 2.5
    small.train()(torch.randn(2, *image.shape[1:])).sum().backward()
