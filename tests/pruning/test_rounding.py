"""Widths that are multiples: nearest, never zero, and the speed-up is reached all the same."""

import pytest
import torch
from torch import nn
from torchvision import models

from helpers import PlainNet, masked_logits, random_resnet, randomize
from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.graphs import trace
from metaprune_pl.pruning import Magnitude, PruningSettings, count_macs, find_groups, plan, prune
from metaprune_pl.pruning.rounding import rounding

IMAGE = torch.zeros(1, 3, 8, 8)


def pruned(
    network: nn.Module, *speed_ups: float, image: torch.Tensor = IMAGE, **settings: float
) -> list[nn.Module]:
    return list(
        prune(
            network,
            image,
            speed_ups=speed_ups,
            criterion=Magnitude(),
            settings=PruningSettings(**settings),  # type: ignore[arg-type]
        )
    )


def widths(network: nn.Module) -> dict[str, int]:
    return {path: m.out_channels for path, m in network.named_modules() if isinstance(m, nn.Conv2d)}


@pytest.mark.parametrize("step", [0.005, 0.2])
@pytest.mark.parametrize("multiple", [2, 8])
def test_widths_are_multiples_and_targets_are_reached(multiple: int, step: float) -> None:
    network = random_resnet(20, 16)
    base = count_macs(network, IMAGE)
    found = pruned(network, 1.5, 2.0, 3.0, round_to=multiple, step=step)
    for target, small in zip((1.5, 2.0, 3.0), found, strict=True):
        assert all(width % multiple == 0 and width for width in widths(small).values())
        assert (
            target <= base / count_macs(small, IMAGE) < target * (1.1 if multiple == 2 else 1.3)
        )  # 2 of 16 channels of a stage


def test_rounding_is_to_the_nearest_of_what_the_ranking_alone_gives() -> None:
    network = random_resnet(20, 16)
    groups = find_groups(trace(network, IMAGE))
    state, macs = network.state_dict(), count_macs(network, IMAGE)

    def sizes(kept: torch.Tensor) -> dict[str, int]:
        return {
            group.name: int(kept[group.start : group.stop].sum()) for group in groups.graph.groups
        }

    (kept,) = plan(groups, state, Magnitude(), PruningSettings(step=0.01, round_to=4), [macs / 2])
    rounded = sizes(kept)
    targets = [macs / target for target in torch.linspace(1.5, 2.5, 400).tolist()]
    unrounded = [
        sizes(kept)
        for kept in plan(groups, state, Magnitude(), PruningSettings(step=0.01), targets)
    ]
    near = [
        exact
        for exact in unrounded
        if all(abs(rounded[path] - width) <= 2 for path, width in exact.items())
    ]
    assert near  # each width is within half a multiple of the same unrounded network's


def test_no_layer_is_rounded_away_and_odd_widths_may_stay() -> None:
    network = random_resnet(8, 6)  # 6, 12 and 24 channels
    groups = find_groups(trace(network, IMAGE))
    table = rounding(groups, torch.ones_like(groups.sizes()), 8).nearest
    by_size = {
        size: table[number, : size + 1].tolist()
        for number, size in enumerate(groups.sizes().tolist())
        if size
    }
    assert by_size[6] == [6] * 7  # no multiple of 8 below: it stays
    assert by_size[12] == [8] * 10 + [12] * 3  # 10 is as near to both, and the wider is taken
    assert by_size[24][1:] == [8] * 11 + [16] * 8 + [24] * 5


def test_a_unit_of_several_channels_counts_as_many() -> None:
    network = randomize(PlainNet())  # 4 conv groups of 2 inputs and 3 outputs
    groups = find_groups(trace(network, IMAGE))
    number = groups.names.index("biased")
    table = rounding(groups, torch.ones_like(groups.sizes()), 4).nearest
    assert table[number, :5].tolist() == [2, 2, 2, 4, 4]


@pytest.mark.parametrize("multiple", [1, 4])
def test_a_rounded_network_computes_what_the_masked_one_does(multiple: int) -> None:
    network = random_resnet(20, 8)
    graph, base = trace(network, IMAGE), count_macs(network, IMAGE)
    (kept,) = plan(
        find_groups(graph),
        network.state_dict(),
        Magnitude(),
        PruningSettings(round_to=multiple),
        [base / 2],
    )
    (small,) = pruned(network, 2.0, round_to=multiple)
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        small(images), masked_logits(network, graph, kept, images), rtol=1e-4, atol=1e-5
    )


def test_depthwise_layers_follow() -> None:
    network, image = models.mobilenet_v2(num_classes=10).eval(), torch.zeros(1, 3, 32, 32)
    (small,) = pruned(network, 2.0, image=image, round_to=8, step=0.02)
    assert all(width % 8 == 0 for width in widths(small).values())


def test_what_rounding_leaves_out_of_reach_is_an_error_that_says_so() -> None:
    with pytest.raises(
        PruningError, match=r"at most .*x with min_channels=1 and max_ratio=1, round_to=8"
    ):
        pruned(random_resnet(8, 8), 100.0, round_to=8)
    with pytest.raises(ConfigError, match="round_to >= 1"):
        PruningSettings(round_to=0)
