"""A masked network is the removed one, in training too; its mask has the gradient of a soft one."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models import VisionTransformer

from helpers import ConcatNet, PlainNet, random_kept, random_resnet, randomize
from metaprune_pl.graphs import trace
from metaprune_pl.pruning import find_groups, remove
from metaprune_pl.pruning.masking import maskable, masked_parameters, straight_through, unit_costs
from metaprune_pl.pruning.rankings import RANKINGS, Ranking, competition

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: random_resnet(14, 8),
    "plain": lambda: randomize(PlainNet()),
    "concat": lambda: randomize(ConcatNet()),
}


def images(count: int = 12) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_masked_network_is_the_one_without_the_channels(name: str, training: bool) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().double()
    graph = trace(network, images(1))
    kept = random_kept(find_groups(graph))
    pruned = remove(network, graph, kept).train(training)
    state = copy.deepcopy(network.train(training).state_dict())
    masked = functional_call(network, masked_parameters(graph, state, kept.double()), images())
    assert int(kept.sum()) < len(kept)
    assert float((masked - pruned(images())).detach().abs().max()) < 1e-6


def test_the_gradient_of_a_masked_network_is_that_of_the_removed_one() -> None:
    network = random_resnet(8, 4).double().train()
    graph = trace(network, images(1))
    kept = random_kept(find_groups(graph))
    pruned = remove(network, graph, kept).train()
    own = dict(network.named_parameters())
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    logits = functional_call(
        network, masked_parameters(graph, own | buffers, kept.double()), images()
    )
    logits.square().sum().backward()
    pruned(images()).square().sum().backward()
    gradients = copy.deepcopy(network)
    for name, parameter in gradients.named_parameters():
        parameter.data = own[name].grad
    expected = dict(pruned.named_parameters())
    for name, value in remove(gradients, graph, kept).named_parameters():
        torch.testing.assert_close(value.data, expected[name].grad, rtol=1e-6, atol=1e-9)
    assert (
        all(torch.equal(value, buffers[name]) for name, value in network.named_buffers()) is False
    )


def test_channels_of_a_layer_norm_are_not_masked() -> None:
    network = VisionTransformer(32, 16, 2, 2, hidden_dim=24, mlp_dim=36, num_classes=4)
    groups = find_groups(trace(network, torch.zeros(1, 3, 32, 32)), equal="attention")
    names = {groups.names[number] for number in groups.group[maskable(groups)].tolist()}
    assert names and all("mlp" in name for name in names)


def soft(scores: Tensor, costs: Tensor, budget: Tensor, temperature: float) -> Tensor:
    """The soft mask of a budget, its threshold found by bisection."""
    low, high = scores.log().min() - 50, scores.log().max() + 50
    for _ in range(200):
        middle = (low + high) / 2
        over = (costs * torch.sigmoid((scores.log() - middle) / temperature)).sum() > budget
        low, high = (middle, high) if over else (low, middle)
    return torch.sigmoid((scores.log() - low) / temperature)


def test_the_gradient_of_a_mask_is_that_of_a_soft_one_within_the_budget() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, costs, effects = (torch.rand(9, generator=generator).double() + 0.1 for _ in range(3))
    kept = scores > scores.sort().values[4]
    scores.requires_grad_()
    mask = straight_through(scores, kept, costs, torch.zeros(9, dtype=torch.long), 0.5)
    assert torch.equal(mask.detach(), kept.double())
    (mask * effects).sum().backward()
    values = scores.detach()
    bounds = values.sort().values.log()[4:6]
    budget = (costs * torch.sigmoid((values.log() - bounds.mean()) / 0.5)).sum()
    for index in range(9):
        step = torch.zeros(9).double().index_fill(0, torch.tensor([index]), 1e-5)
        ends = [
            float((effects * soft(values + sign * step, costs, budget, 0.5)).sum())
            for sign in (1, -1)
        ]
        assert float(scores.grad[index]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


def test_competitions_do_not_share_a_threshold() -> None:
    scores = torch.tensor([0.1, 0.2, 5.0, 6.0], dtype=torch.float64, requires_grad=True)
    kept = torch.tensor([False, True, False, True])
    mask = straight_through(scores, kept, torch.ones(4), torch.tensor([0, 0, 1, 1]), 1.0)
    mask[0].backward()
    assert float(scores.grad[0]) > 0 > float(scores.grad[1])  # one in, the other out
    assert torch.equal(scores.grad[2:], torch.zeros(2).double())


def test_costs_are_what_a_unit_alone_saves() -> None:
    network = random_resnet(8, 4)
    groups = find_groups(trace(network, torch.zeros(1, 3, 8, 8)))
    costs, every = unit_costs(groups), torch.ones(groups.graph.num_nodes, dtype=torch.bool)
    inside = groups.prunable & (groups.group == groups.names.index("layer1.0.conv1"))
    for unit in inside.nonzero().flatten().tolist():
        saved = groups.graph.macs(every) - groups.graph.macs(groups.unit != unit)
        assert float(costs[unit]) == saved


@pytest.mark.parametrize("ranking", RANKINGS)
def test_each_competition_loses_the_same_share(ranking: Ranking) -> None:
    network = random_resnet(14, 8)
    groups = find_groups(trace(network, torch.zeros(1, 3, 16, 16)))
    sets = competition(groups, ranking)[groups.prunable]
    blocks = [groups.names.index(f"layer{i}.0.conv1") for i in (1, 2, 3)]
    numbers = {int(competition(groups, ranking)[groups.group == n][0]) for n in blocks}
    assert len(numbers) == (3 if ranking == "uniform" else 1)
    assert len(sets.unique()) == {"global": 1, "uniform": 9, "isomorphic": 4}[ranking]
