import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from helpers import ConcatNet, random_resnet, randomize, relative_error
from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import WeightGraph, trace
from metaprune_pl.graphs.symmetry import hidden_nodes, rescale
from metaprune_pl.networks import create_network
from metaprune_pl.pruning.balancing import balance


def l1(network: nn.Module, state: dict[str, Tensor]) -> float:
    return sum(float(state[name].abs().sum()) for name, _ in network.named_parameters())


def small_cnn() -> tuple[nn.Module, WeightGraph, dict[str, Tensor]]:
    network = randomize(create_network("small_cnn", width=6, seed=0)).double()
    with torch.no_grad():
        dead = network.get_submodule("features.0")
        dead.weight[1], dead.bias[1] = 0, 0  # type: ignore[index, operator]
        network.get_submodule("features.6").weight[:, 2] = 0  # type: ignore[index, operator]
    graph = trace(network, torch.zeros(1, 1, 32, 32, dtype=torch.float64))
    return network, graph, network.state_dict()


def logits(network: nn.Module, state: dict[str, Tensor], channels: int) -> Tensor:
    images = torch.randn(3, channels, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    return functional_call(network, state, (images,))


def test_balanced_networks_give_the_same_logits_with_a_smaller_norm() -> None:
    cases = [(*small_cnn()[:2], 1)]
    for network in (random_resnet(14, 4).double(), randomize(ConcatNet()).double()):
        cases.append((network, trace(network, torch.zeros(1, 3, 32, 32).double()), 3))
    for network, graph, channels in cases:
        state = network.state_dict()
        new = balance(graph, state)
        given = logits(network, state, channels)
        assert relative_error(logits(network, new, channels), given) < 1e-12
        assert l1(network, new) < 0.97 * l1(network, state)


def test_what_leads_to_a_live_channel_and_what_leaves_it_weighs_the_same() -> None:
    _, graph, state = small_cnn()
    new = balance(graph, state)
    first, second = new["features.0.weight"], new["features.3.weight"]
    before = first.abs().flatten(1).sum(1) + new["features.0.bias"].abs()
    after = second.abs().sum((0, 2, 3))
    live = torch.arange(6) != 1
    torch.testing.assert_close(before[live], after[live], rtol=1e-2, atol=0)
    assert before[1] == 0


def test_balancing_undoes_any_scales() -> None:
    network, graph, state = small_cnn()
    drawn = torch.randn(graph.num_nodes, generator=torch.Generator().manual_seed(2)).double().exp()
    drawn[[2, 9]] = 1  # the dead channel and the silent one, which no factor balances
    other = rescale(graph, state, torch.where(hidden_nodes(graph), drawn, 1))
    assert l1(network, other) > l1(network, state)
    one, two = balance(graph, state), balance(graph, other)
    assert abs(l1(network, one) / l1(network, two) - 1) < 1e-4
    again = balance(graph, one)
    assert l1(network, again) <= l1(network, one)


def test_networks_that_cannot_be_rescaled_are_refused_with_the_layer() -> None:
    network = create_network("small_cnn", activation="tanh", seed=0)
    graph = trace(network, torch.zeros(1, 1, 32, 32))
    with pytest.raises(
        PruningError, match=r"'features.0' is followed by tanh.*Leave `balance` out"
    ):
        balance(graph, network.state_dict())
