"""Each baseline criterion equals torch-pruning's, or a few lines that compute it another way."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch_pruning
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, prune

from helpers import PlainNet, random_resnet, randomize
from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.graphs import trace
from metaprune_pl.pruning import (
    Importance,
    Lamp,
    Magnitude,
    PruningGroups,
    PruningSettings,
    Random,
    Scales,
    Taylor,
    ZeroShare,
    find_groups,
    find_masks,
    plan,
)
from metaprune_pl.pruning import prune as prune_network

IMAGE = torch.zeros(1, 3, 16, 16)
tp = torch_pruning.importance


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for size in (5, 3):  # the last is smaller
        yield (
            torch.randn(size, 3, 16, 16, generator=generator),
            torch.randint(10, (size,), generator=generator),
        )


def with_gradients(network: nn.Module) -> nn.Module:
    """Return a copy with the gradients of the mean cross-entropy over all images at once."""
    model = copy.deepcopy(network).eval()
    images, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    F.cross_entropy(model(images), labels).backward()
    return model


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, PruningGroups]:
    network = random_resnet(14, 8)
    return network, find_groups(trace(network, IMAGE))


def theirs(network: nn.Module, groups: PruningGroups, importance: Any) -> dict[str, Tensor]:
    """torch-pruning's scores of each pruning group, by the name of its first layer."""
    model = with_gradients(network)
    dependencies = torch_pruning.DependencyGraph().build_dependency(model, (IMAGE,))
    found = {}
    for name, size in zip(groups.names, groups.sizes().tolist(), strict=True):
        if size:
            layer = model.get_submodule(name)
            group = dependencies.get_pruning_group(
                layer, torch_pruning.prune_conv_out_channels, list(range(size))
            )
            found[name] = importance(group)
    return found


@pytest.mark.parametrize(
    ("criterion", "importance"),
    [
        (Magnitude(p=1.0, normalize="none"), tp.GroupMagnitudeImportance(p=1, normalizer=None)),
        (Magnitude(p=2.0, normalize="mean"), tp.GroupMagnitudeImportance(p=2, normalizer="mean")),
        (Scales(p=1.0, normalize="mean"), tp.BNScaleImportance()),
        (Scales(p=1.0, normalize="max"), tp.BNScaleImportance(normalizer="max")),
        (Taylor(p=1.0, normalize="mean"), tp.GroupTaylorImportance()),
        (
            Taylor(p=1.0, normalize="max"),
            tp.GroupTaylorImportance(normalizer="max"),
        ),
        (Lamp(), tp.LAMPImportance()),
    ],
    ids=lambda value: (
        f"{type(value).__name__}-{getattr(value, 'normalize', '')}"
        if isinstance(value, Importance)
        else ""
    ),
)
def test_scores_are_those_of_torch_pruning(
    resnet: tuple[nn.Module, PruningGroups], criterion: Importance, importance: Any
) -> None:
    network, groups = resnet
    measured = criterion.measure(network, groups.graph, batches)
    if isinstance(
        criterion, Taylor
    ):  # torch-pruning 1.6.1 takes batch norms for group norms here, and leaves them out
        norms = {
            path for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)
        }
        measured |= {
            f"{path}.weight": torch.zeros_like(measured[f"{path}.weight"]) for path in norms
        }
    found = criterion.importance(groups, measured)
    expected = theirs(network, groups, importance)
    assert len(expected) == 9  # the three stages, and one in each of six blocks
    for name, scores in expected.items():
        ours = found[(groups.group == groups.names.index(name)) & groups.prunable]
        torch.testing.assert_close(ours, scores, rtol=1e-4, atol=1e-7)


def test_taylor_is_the_loss_that_each_weight_carries_summed_over_a_channel(
    resnet: tuple[nn.Module, PruningGroups],
) -> None:
    network, groups = resnet
    criterion = Taylor(p=1.0, normalize="none")
    found = criterion.scores(groups, criterion.measure(network, groups.graph, batches))
    model = with_gradients(network)
    block = model.layer2[
        1
    ]  # what its first convolution gives is in its norm and its second convolution
    parts = [taylor(model, f"layer2.1.{name}.weight") for name in ("conv1", "bn1", "conv2")]
    expected = (parts[0].sum((1, 2, 3)) + parts[1] + parts[2].sum((0, 2, 3))) / 3
    assert len(expected) == block.conv1.out_channels
    torch.testing.assert_close(
        found[groups.unit[_nodes(groups, "layer2.1.conv1")]], expected.detach()
    )


def test_random_scores_are_torchs_of_the_seed(resnet: tuple[nn.Module, PruningGroups]) -> None:
    network, groups = resnet
    criterion = Random(normalize="none", seed=7)
    torch.manual_seed(7)
    assert torch.equal(
        criterion.importance(groups, network.state_dict()), torch.rand(len(groups.group))
    )
    other = Random(normalize="none", seed=8).importance(groups, network.state_dict())
    assert not torch.equal(other, criterion.importance(groups, network.state_dict()))


def test_units_without_a_scale_stay() -> None:
    torch.manual_seed(0)
    network = randomize(PlainNet())
    groups = find_groups(trace(network, torch.zeros(1, 3, 8, 8)))
    criterion, graph = Scales(p=1.0), groups.graph
    scores = criterion.scores(groups, network.state_dict())
    told = scores.isfinite()
    units = groups.unit[_nodes(groups, "grouped")]
    assert torch.equal(told.nonzero().flatten(), units.unique())  # the one layer with a norm
    whole = graph.macs(torch.ones(graph.num_nodes, dtype=torch.bool))
    settings = PruningSettings(step=0.1)
    (kept,) = plan(groups, network.state_dict(), criterion, settings, [0.8 * whole])
    assert bool(kept[_nodes(groups, "hidden")].all()) and not bool(
        kept[_nodes(groups, "grouped")].all()
    )
    with pytest.raises(PruningError, match="out of reach"):
        plan(groups, network.state_dict(), criterion, settings, [0.01 * whole])


def _nodes(groups: PruningGroups, layer: str) -> Tensor:
    (found,) = (c for c in groups.graph.connections if c.name == layer)
    return found.target.flatten()


def test_measuring_leaves_the_network_alone(resnet: tuple[nn.Module, PruningGroups]) -> None:
    network, groups = resnet
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measured = Taylor().measure(network, groups.graph, batches)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(value.requires_grad for value in measured.values())
    with pytest.raises(ConfigError, match="there are none"):
        Taylor().measure(network, groups.graph)


@pytest.mark.parametrize("criterion", [Magnitude(), Lamp(), Random()])
def test_uniform_ranking_takes_the_same_share_of_each_group(
    resnet: tuple[nn.Module, PruningGroups], criterion: Importance
) -> None:
    network, groups = resnet
    whole = groups.graph.macs(torch.ones(groups.graph.num_nodes, dtype=torch.bool))
    settings = PruningSettings(step=1.0, ranking="uniform")  # one ranking
    (kept,) = plan(groups, network.state_dict(), criterion, settings, [whole / 3])
    units = torch.zeros(len(groups.group), dtype=torch.bool).index_fill(0, groups.unit[kept], True)
    there, left = groups.sizes(), groups.sizes(units)
    lost = (there - left)[there > 0] / there[there > 0]
    assert (
        float((lost.max() - lost.min()) * there[there > 0].max()) <= 4
    )  # widths 8 to 32 lose whole channels
    assert 0.3 < float(lost.min()) < 0.6
    importance = criterion.importance(groups, network.state_dict())
    for number in (there > 0).nonzero().flatten().tolist():
        mine = (groups.group == number) & groups.prunable
        assert importance[mine & units].min() >= importance[mine & ~units].max()


def test_pruning_by_a_loss_runs_to_the_end(resnet: tuple[nn.Module, PruningGroups]) -> None:
    network, groups = resnet
    macs = groups.graph.macs(torch.ones(groups.graph.num_nodes, dtype=torch.bool))
    criterion = Taylor(p=1.0, normalize="mean")
    (pruned,) = prune_network(
        network,
        IMAGE,
        speed_ups=[2.0],
        criterion=criterion,
        settings=PruningSettings(step=0.05),
        images=batches,
    )
    assert (
        find_groups(trace(pruned, IMAGE)).graph.macs(
            torch.ones(trace(pruned, IMAGE).num_nodes, dtype=torch.bool)
        )
        <= macs / 2
    )


# Single weights


def taylor(model: nn.Module, name: str) -> Tensor:
    parameter = model.get_parameter(name)
    return (parameter * parameter.grad).abs()


def lamp(model: nn.Module, name: str) -> Tensor:
    """Lee et al. 2021, equation (1), by its sum over all pairs."""
    squares = model.get_parameter(name).detach().double().square().flatten()
    sums = (squares[None] * (squares[None] >= squares[:, None])).sum(1)
    return (squares / sums).view_as(model.get_parameter(name)).float()


@pytest.mark.parametrize(
    ("criterion", "score"),
    [
        (Taylor(p=1.0, normalize="none"), taylor),
        (Lamp(), lamp),
        (
            Magnitude(p=2.0, normalize="none"),
            lambda model, name: model.get_parameter(name).detach().abs(),
        ),
    ],
    ids=["snip", "lamp", "l2"],
)
def test_masks_are_those_of_torch_with_scores_computed_another_way(
    criterion: Importance, score: Callable[[nn.Module, str], Tensor]
) -> None:
    network = random_resnet(8, 4)
    model = with_gradients(network)
    paths = [
        path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    layers = [(model.get_submodule(path), "weight") for path in paths]
    scores = {
        pair: score(model, f"{path}.weight") for path, pair in zip(paths, layers, strict=True)
    }
    prune.global_unstructured(layers, prune.L1Unstructured, importance_scores=scores, amount=0.7)
    graph = trace(network, IMAGE)
    masks = find_masks(
        graph, criterion.measure(network, graph, batches), criterion, ZeroShare(share=0.7)
    )
    same = total = 0
    for path in paths:
        theirs = model.get_submodule(path).weight_mask.bool()
        same += int((masks.kept[f"{path}.weight"] == theirs).sum())
        total += theirs.numel()
    assert total > 1000 and total - same <= 2  # rounding may swap two neighbours
    assert sum(int(kept.sum()) for kept in masks.kept.values()) == total - round(0.7 * total)


def test_random_masks_keep_the_share_in_every_layer() -> None:
    network = random_resnet(14, 16)
    graph = trace(network, IMAGE)
    first, second = (
        find_masks(
            graph, network.state_dict(), Random(normalize="none", seed=seed), ZeroShare(share=0.7)
        ).kept
        for seed in (0, 1)
    )
    for name, kept in first.items():
        spread = (0.3 * 0.7 / kept.numel()) ** 0.5
        assert float(kept.float().mean()) == pytest.approx(0.3, abs=5 * spread), name
    assert (
        float(
            (parameters_to_vector(first.values()) == parameters_to_vector(second.values()))
            .float()
            .mean()
        )
        < 0.7
    )


def test_scales_say_nothing_of_single_weights() -> None:
    network = random_resnet(8, 4)
    with pytest.raises(ConfigError, match="not single weights"):
        find_masks(trace(network, IMAGE), network.state_dict(), Scales(), ZeroShare(share=0.5))
