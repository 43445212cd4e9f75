"""The best of several plans, all of them within the budget."""

import pytest
import torch
from torch import Tensor, nn

from helpers import random_kept, random_resnet
from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import trace
from metaprune_pl.pruning import (
    Lamp,
    Magnitude,
    PruningGroups,
    PruningSettings,
    find_groups,
    remove,
)
from metaprune_pl.pruning.choice import Candidate, ChoiceSettings, candidate_plans, choose


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, PruningGroups]:
    network = random_resnet(14, 8)
    return network, find_groups(trace(network, torch.zeros(1, 3, 16, 16)))


def plans(
    network: nn.Module, groups: PruningGroups, speed_up: float, **settings: int
) -> list[Candidate]:
    graph, state = groups.graph, network.state_dict()
    budget = graph.macs(torch.ones(graph.num_nodes, dtype=torch.bool)) / speed_up
    measured = [(Magnitude(), state), (Lamp(), state)]
    pruning = PruningSettings(step=1.0)
    own = ChoiceSettings(**settings)
    return list(candidate_plans(groups, measured, budget, graph.macs, pruning, own))


def test_plans_differ_and_keep_within_the_budget(resnet: tuple[nn.Module, PruningGroups]) -> None:
    network, groups = resnet
    graph = groups.graph
    whole = graph.macs(torch.ones(graph.num_nodes, dtype=torch.bool))
    found = plans(network, groups, 3.0, random=6)
    assert len(found) > 12
    assert len({candidate.kept.numpy().tobytes() for candidate in found}) == len(found)
    assert len({candidate.name for candidate in found}) == len(found)
    assert all(graph.macs(candidate.kept) <= whole / 3 for candidate in found)
    again = plans(network, groups, 3.0, random=6)
    assert all(torch.equal(a.kept, b.kept) for a, b in zip(found, again, strict=True))
    other = plans(network, groups, 3.0, random=6, seed=7)
    assert any(not torch.equal(a.kept, b.kept) for a, b in zip(found[-6:], other[-6:], strict=True))


def test_random_shares_keep_the_order_within_a_group(
    resnet: tuple[nn.Module, PruningGroups],
) -> None:
    network, groups = resnet
    scores = Magnitude().scores(groups, network.state_dict())
    for candidate in plans(network, groups, 2.0, random=4)[-4:]:
        units = torch.zeros_like(groups.prunable)
        units[groups.unit[candidate.kept]] = True
        shares = []
        for number in (groups.sizes() > 0).nonzero().flatten().tolist():
            own = (groups.group == number) & groups.prunable
            shares.append(float(units[own].float().mean()))
            if bool((own & ~units).any()):
                assert scores[own & units].min() >= scores[own & ~units].max()
        assert max(shares) - min(shares) > 0.1


def test_the_best_is_chosen_after_it_is_finished(resnet: tuple[nn.Module, PruningGroups]) -> None:
    network, groups = resnet
    candidates = [Candidate(name=f"{s}", kept=random_kept(groups, seed=s)) for s in range(4)]
    finished: list[nn.Module] = []

    def finish(pruned: nn.Module, kept: Tensor) -> None:
        expected = remove(network, groups.graph, kept)
        names = pruned.state_dict().keys()
        assert all(pruned.state_dict()[n].shape == expected.state_dict()[n].shape for n in names)
        finished.append(pruned)

    def evaluate(pruned: nn.Module) -> float:
        assert pruned is finished[-1]
        return [0.3, 0.7, 0.7, 0.2][len(finished) - 1]

    choice = choose(network, groups.graph, candidates, finish, evaluate)
    assert choice.candidate is candidates[1] and choice.network is finished[1]
    assert choice.scores == {"0": 0.3, "1": 0.7, "2": 0.7, "3": 0.2}
    with pytest.raises(ConfigError, match="no plan"):
        choose(network, groups.graph, [], finish, evaluate)
    with pytest.raises(ConfigError, match="ceilings"):
        ChoiceSettings(ceilings=[0.0])


def test_a_choice_costs_a_tenth_of_the_finetuning() -> None:
    settings = ChoiceSettings(images=1000)
    for finetuning, repaired in ((32768, 1024), (100_000, 512), (450_000, 0)):
        limit = settings.limit(finetuning, repaired)
        assert limit is not None
        forward = limit * (2 * repaired + 1000)
        assert limit == 1 or forward <= 0.1 * 3 * finetuning < forward + 2 * repaired + 1000
    assert settings.limit(10, 1024) == 1
    assert settings.limit(0, 1024) is None
    assert ChoiceSettings(plans=7).limit(10, 1024) == 7
    with pytest.raises(ConfigError, match="plans"):
        ChoiceSettings(plans=0)
