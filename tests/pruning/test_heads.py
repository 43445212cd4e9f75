"""Attention pruned by width (the default) and by whole heads, in the forms of libraries."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision import models

from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import trace
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    create_network,
    load_network,
    save_network,
)
from metaprune_pl.pruning import (
    AttentionUnits,
    Magnitude,
    PruningGroups,
    PruningSettings,
    count_macs,
    prunable_groups,
    prune,
    remove,
)

SMALL = {"num_classes": 5, "img_size": 32}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "timm ViT": lambda: VisionTransformer(
        **SMALL, patch_size=8, embed_dim=24, depth=2, num_heads=4
    ),
    "timm ViT, as many heads as channels": lambda: VisionTransformer(
        **SMALL, patch_size=8, embed_dim=16, depth=2, num_heads=4
    ),
    "torchvision ViT": lambda: models.VisionTransformer(32, 8, 2, 4, 24, 48, num_classes=5),
    "timm Swin": lambda: SwinTransformer(
        **SMALL, patch_size=4, embed_dim=24, depths=(2, 2), num_heads=(4, 6), window_size=4
    ),
    "torchvision Swin": lambda: models.SwinTransformer(
        [4, 4], 24, [2, 2], [4, 6], [4, 4], num_classes=5
    ),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def attention_modules(network: nn.Module) -> list[nn.Module]:
    return [
        module
        for module in network.modules()
        if hasattr(module, "num_heads")
        and hasattr(module, "forward")
        and any(word in type(module).__name__ for word in ("Attention",))
    ]


def without(groups: PruningGroups, *nodes: Tensor) -> Tensor:
    """Which nodes stay when the units of some nodes go."""
    units = groups.prunable.clone()
    for some in nodes:
        units[groups.unit[some]] = False
    return (units | ~groups.prunable)[groups.unit]


def pruned(network: nn.Module, target: float, attention: AttentionUnits) -> nn.Module:
    settings = PruningSettings(step=0.02, attention=attention)
    (small,) = prune(
        network,
        IMAGES[:1],
        speed_ups=[target],
        criterion=Magnitude(normalize="mean"),
        settings=settings,
    )
    return small


@pytest.mark.parametrize("name", NETWORKS)
def test_attention_is_found_with_its_heads(name: str) -> None:
    graph = trace(build(name), IMAGES[:1])
    heads = [module.num_heads for module in attention_modules(build(name))]
    assert [len(attention.parts[0]) for attention in graph.constraints.attentions] == heads
    for attention in graph.constraints.attentions:
        assert len({part.shape for part in attention.parts}) == 1 and len(attention.parts) == 3


@pytest.mark.parametrize("name", ["timm ViT", "timm ViT, as many heads as channels", "timm Swin"])
def test_a_network_without_a_head_computes_what_it_does_with_the_head_set_to_zero(
    name: str,
) -> None:
    network = build(name)
    groups = prunable_groups(network, IMAGES[:1], "heads")
    first, last = groups.graph.constraints.attentions[0], groups.graph.constraints.attentions[-1]
    kept = without(groups, first.parts[0][1], last.parts[0][0], last.parts[0][3])
    small = remove(network, groups.graph, kept)
    before = [module.num_heads for module in attention_modules(network)]
    after = [module.num_heads for module in attention_modules(small)]
    assert after == [before[0] - 1, *before[1:-1], before[-1] - 2]
    masked = build(name)
    with torch.no_grad():
        for module, heads in (
            (attention_modules(masked)[0], [1]),
            (attention_modules(masked)[-1], [0, 3]),
        ):
            width = width_of(module)
            for head in heads:
                columns = slice(width * head, width * (head + 1))
                module.proj.weight[:, columns] = 0  # type: ignore[union-attr, index, operator]
        torch.testing.assert_close(small(IMAGES), masked(IMAGES), rtol=1e-4, atol=1e-5)
        assert float((network(IMAGES) - small(IMAGES)).abs().max()) > 1e-3
    assert count_macs(small, IMAGES[:1]) == groups.graph.macs(kept)


@pytest.mark.parametrize("name", ["torchvision ViT", "torchvision Swin"])
def test_where_the_forward_counts_on_it_the_stream_goes_with_the_heads(name: str) -> None:
    network = build(name)
    groups = prunable_groups(network, IMAGES[:1], "heads")
    first = groups.graph.constraints.attentions[0]
    heads, width = first.parts[0].shape
    kept = without(groups, first.parts[0][2])
    small = remove(network, groups.graph, kept)
    for module in attention_modules(small)[:2]:
        assert module.num_heads == heads - 1
    proj = next(m for m in small.modules() if isinstance(m, nn.Conv2d))
    assert proj.out_channels == (heads - 1) * width == 18
    table = dict(network.named_parameters()).get("features.1.0.attn.relative_position_bias_table")
    if table is not None:
        new = small.get_parameter("features.1.0.attn.relative_position_bias_table")
        assert torch.equal(new, table[:, [0, 1, 3]])
    small.train()(IMAGES).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("attention", ["width", "heads"])
@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_to_2x_it_runs_and_is_trained(name: str, attention: AttentionUnits) -> None:
    network = build(name)
    small = pruned(network, 2.0, attention)
    reached = count_macs(network, IMAGES[:1]) / count_macs(small, IMAGES[:1])
    assert 2.0 <= reached < 3.0  # a head is a third of the stream of a small Swin
    before, after = (
        [(module.num_heads, width_of(module)) for module in attention_modules(n)]
        for n in (network, small)
    )
    place = 1 if attention == "heads" else 0
    assert [pair[place] for pair in before] == [
        pair[place] for pair in after
    ]  # only the other number changes
    small.train()(IMAGES).sum().backward()


def width_of(module: nn.Module) -> int:
    """Channels of a head, from the output projection."""
    projection = next(
        m
        for m in (getattr(module, "proj", None), getattr(module, "out_proj", None))
        if m is not None
    )
    return int(projection.in_features / module.num_heads)  # type: ignore[operator]


def test_a_network_with_fewer_heads_comes_back_from_disk(workdir: Path) -> None:
    arguments = {"img_size": 32, "num_classes": 4, "depth": 2, "embed_dim": 48}
    network = create_network("timm/vit_tiny_patch16_224", seed=0, **arguments).eval()
    groups = prunable_groups(network, IMAGES[:1], "heads")
    small = remove(
        network, groups.graph, without(groups, groups.graph.constraints.attentions[1].parts[0][0])
    )
    settings = NetworkSettings(builder="timm/vit_tiny_patch16_224", arguments=arguments)
    save_network("net", small, NetworkCard(settings=settings, input_shape=(3, 32, 32)))
    again = load_network("net")
    assert [module.num_heads for module in attention_modules(again)] == [3, 2]
    assert torch.equal(again(IMAGES), small(IMAGES))


def test_heads_that_talk_to_each_other_are_refused() -> None:
    arguments = {"img_size": 32, "num_classes": 4, "depth": 1}
    network = create_network("timm/cait_xxs24_224", seed=0, **arguments)
    with pytest.raises(
        PruningError,
        match=r"whole heads cannot be pruned in this network \(.*Take attention: width",
    ):
        prunable_groups(network, IMAGES[:1], "heads")
