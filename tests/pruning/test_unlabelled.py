"""Importances from unlabelled images say what regressions on the layers' inputs and outputs say."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import PlainNet, random_resnet, randomize
from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import trace
from metaprune_pl.pruning import Macs, PruningGroups, PruningSettings, find_groups, prune
from metaprune_pl.pruning.importance import Elimination, Energy
from metaprune_pl.pruning.importance.elimination import Reader, eliminate


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        yield torch.randn(10, 3, 8, 8, generator=generator), torch.zeros(10)


@pytest.fixture(scope="module")
def plain() -> tuple[nn.Module, PruningGroups]:
    torch.manual_seed(0)
    network = randomize(PlainNet())
    return network, find_groups(trace(network, torch.zeros(1, 3, 8, 8)))


def units_of(groups: PruningGroups, layer: str) -> Tensor:
    (connection,) = (c for c in groups.graph.connections if c.name == layer)
    return groups.unit[connection.target.flatten()]


@torch.no_grad()
def test_energy_is_the_share_of_the_variance_of_what_reads_a_unit(
    plain: tuple[nn.Module, PruningGroups],
) -> None:
    network, groups = plain
    read: list[Tensor] = []
    handle = network.classifier.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    logits = torch.cat([network(images) for images, _ in batches()]).double()[:32]
    handle.remove()
    hidden = torch.cat(read).double()[:32]
    shares = network.classifier.weight.double().square() * hidden.square().mean(0)
    expected = (shares / logits.var(0, correction=0)[:, None]).mean(0)
    importance = Energy(normalize="none", images=32)
    found = importance.scores(groups, importance.measure(network, groups.graph, batches))
    torch.testing.assert_close(found[units_of(groups, "hidden")], expected, rtol=1e-4, atol=1e-8)
    normalized = Energy(images=32)
    measured = normalized.measure(network, groups.graph, batches)
    by_group = normalized.importance(groups, measured)[units_of(groups, "hidden")]
    torch.testing.assert_close(by_group, expected / expected.mean(), rtol=1e-4, atol=1e-8)


@torch.no_grad()
def test_a_unit_that_several_layers_read_has_the_sum_over_them() -> None:
    network = random_resnet(14, 4)
    groups = find_groups(trace(network, torch.zeros(1, 3, 8, 8)))
    readers = ("layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.0.shortcut.0")
    shares = []

    def note(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        squares = inputs[0].double().square().mean((0, 2, 3))
        variance = output.double().var((0, 2, 3), correction=0)
        weights = layer.weight.double().square().sum((2, 3))
        shares.append((weights * squares / variance[:, None]).mean(0))

    for name in readers:
        network.get_submodule(name).register_forward_hook(note)
    network(torch.cat([images for images, _ in batches()]))
    expected = torch.stack(shares[:4]).sum(0)
    assert len(shares) == 4
    network = random_resnet(14, 4)  # without hooks
    energy = Energy(normalize="none", images=40)
    scores = energy.scores(groups, energy.measure(network, groups.graph, batches))
    found = scores[units_of(groups, "layer1.0.conv2")]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)
    assert bool(scores[groups.prunable].isfinite().all())
    normalized = Energy(images=40).importance(groups, {"energy": scores[groups.unit]})
    assert float(normalized[units_of(groups, "layer1.0.conv2")].mean()) == pytest.approx(4**0.5)
    assert float(normalized[units_of(groups, "layer1.0.conv1")].mean()) == pytest.approx(1)


def random_reader(units: int, taps: int, outputs: int) -> tuple[Reader, Tensor]:
    """Return a reader of units of some inputs each and a bias, and the inputs, [rows, K]."""
    generator = torch.Generator().manual_seed(0)
    width = units * taps
    mixed = torch.randn(width, width, generator=generator).double() / width**0.5
    inputs = torch.randn(400, width, generator=generator).double() @ (mixed + torch.eye(width))
    inputs = torch.cat([inputs, torch.ones(400, 1)], 1)
    weights = torch.randn(outputs, width + 1, generator=generator).double()
    source = torch.cat([torch.arange(units).repeat_interleave(taps), torch.tensor([-1])])
    reader = Reader(
        inverse=torch.linalg.inv(inputs.T @ inputs / len(inputs)),
        weights=weights,
        source=source,
        columns=torch.arange(width).reshape(units, taps),
    )
    return reader, inputs


def loss_without(reader: Reader, inputs: Tensor, gone: list[int]) -> float:
    """Error of the best weights without some units, by a regression of the outputs."""
    outputs = inputs @ reader.weights.T
    left = torch.ones(inputs.shape[1], dtype=torch.bool)
    left[reader.columns[gone].flatten()] = False
    weights = torch.linalg.lstsq(inputs[:, left], outputs).solution
    return float((inputs[:, left] @ weights - outputs).square().sum(0).mean() / len(inputs))


def test_elimination_costs_what_a_regression_without_the_unit_loses() -> None:
    reader, inputs = random_reader(6, 3, 4)
    costs = reader.costs()
    for unit in range(6):
        assert float(costs[unit]) == pytest.approx(loss_without(reader, inputs, [unit]), rel=1e-6)
    gone, total = [2, 4], float(costs[2])
    next_costs = reader.without(torch.tensor([2])).costs()  # unit 4 is at 3 now
    total += float(next_costs[3])
    assert total == pytest.approx(loss_without(reader, inputs, gone), rel=1e-6)


def test_elimination_is_the_greedy_choice_of_regressions() -> None:
    reader, inputs = random_reader(6, 2, 5)
    gone: list[int] = []
    for _ in range(5):
        left = [unit for unit in range(6) if unit not in gone]
        gone.append(min(left, key=lambda unit: loss_without(reader, inputs, [*gone, unit])))
    assert eliminate([reader]).tolist()[:5] == gone
    assert sorted(eliminate([reader, reader]).tolist()) == list(range(6))


def test_elimination_of_a_large_group_goes_in_steps() -> None:
    reader, _ = random_reader(130, 1, 4)
    order = eliminate([reader])
    assert sorted(order.tolist()) == list(range(130))
    cheapest = reader.costs().argsort()[:2]
    assert torch.equal(order[:2], cheapest)
    assert torch.equal(order[2], left_after(order[:2])[reader.without(cheapest).costs().argmin()])


def left_after(gone: Tensor) -> Tensor:
    return torch.tensor([unit for unit in range(130) if unit not in gone.tolist()])


def test_elimination_keeps_the_shares_of_energy_and_finds_the_double() -> None:
    class Doubled(nn.Module):
        """Its channel 5 is twice its channel 2, and weighs most."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 3)
            self.classifier = nn.Linear(5, 4)
            with torch.no_grad():
                self.first.weight[5], self.first.bias[5] = (
                    2 * self.first.weight[2],
                    2 * self.first.bias[2],
                )
                self.second.weight[:, 5] *= 3

        def forward(self, x: Tensor) -> Tensor:
            """Return logits."""
            return self.classifier(torch.relu(self.second(F.relu(self.first(x)))).mean((2, 3)))

    torch.manual_seed(0)
    network = Doubled().eval()
    groups = find_groups(trace(network, torch.zeros(1, 3, 8, 8)))
    scores = []
    for importance in (Energy(images=40), Elimination(images=40)):
        measured = importance.measure(network, groups.graph, batches)
        scores.append(importance.importance(groups, measured)[units_of(groups, "first")])
    energy, elimination = scores
    torch.testing.assert_close(energy.sort().values, elimination.sort().values)
    assert int(energy.argmax()) == 5
    assert int(elimination.argsort()[0]) in (2, 5)  # one of the two costs nothing


def test_grouped_and_flattened_layers_are_measured(
    plain: tuple[nn.Module, PruningGroups],
) -> None:
    network, groups = plain
    for importance in (Energy(images=16), Elimination(images=16)):
        measured = importance.measure(network, groups.graph, batches)
        scores = importance.scores(groups, measured)
        assert bool(scores[groups.prunable].isfinite().all())
        assert float(scores[groups.prunable].min()) >= 0  # some are dead
        assert float(scores[groups.prunable].median()) > 0


class Autocast(nn.Module):
    """A network all of which runs in a region of autocast, or in two, one in the other."""

    def __init__(self, network: nn.Module, kinds: tuple[bool, ...]) -> None:
        super().__init__()
        self.network = network
        self.kinds = kinds

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        with ExitStack() as regions:
            for enabled in self.kinds:
                regions.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=enabled))
            return self.network(x).float()


@pytest.mark.parametrize("kinds", [(False,), (True,), (True, False)])
def test_layers_in_a_region_of_autocast_are_measured_as_others(
    plain: tuple[nn.Module, PruningGroups], kinds: tuple[bool, ...]
) -> None:
    network, groups = plain
    wrapped = find_groups(trace(Autocast(network, kinds), torch.zeros(1, 3, 8, 8)))
    assert torch.equal(wrapped.prunable, groups.prunable)
    expected = Energy(images=40).measure(network, groups.graph, batches)["energy"]
    found = Energy(images=40).measure(Autocast(network, kinds), wrapped.graph, batches)["energy"]
    near = 0.0 if kinds[-1] is False else 0.1
    torch.testing.assert_close(found, expected, rtol=near, atol=near / 100, equal_nan=True)


def test_no_images_are_refused(plain: tuple[nn.Module, PruningGroups]) -> None:
    network, groups = plain
    with pytest.raises(ConfigError, match="at least 4 images"):
        Energy().measure(network, groups.graph)
    with pytest.raises(ConfigError, match="at least 4"):
        Energy(images=3)
    with pytest.raises(ConfigError, match="power"):
        Elimination(readers=float("nan"))


@pytest.mark.parametrize("importance", [Energy(images=40), Elimination(images=40)])
def test_a_network_is_pruned_by_them(importance: Energy) -> None:
    network = random_resnet(8, 4)
    example = torch.zeros(1, 3, 8, 8)
    settings = PruningSettings(step=1.0, ranking="isomorphic")
    (pruned,) = prune(
        network, example, speed_ups=[2.0], criterion=importance, settings=settings, images=batches
    )
    assert Macs().of_network(pruned, example) <= Macs().of_network(network, example) / 2
