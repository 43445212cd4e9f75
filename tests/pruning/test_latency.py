"""Time as a cost: layers are measured, and a network that takes less is found and measured."""

import pytest
import torch
from torch import Tensor, nn

from helpers import random_resnet
from metaprune_pl.errors import PruningError
from metaprune_pl.graphs import trace
from metaprune_pl.networks import create_network
from metaprune_pl.pruning import Latency, Magnitude, PruningSettings, examine
from metaprune_pl.pruning.cost import timing
from metaprune_pl.pruning.cost.latency import Runtime
from metaprune_pl.pruning.cost.layer_times import LayerTimes, cut, layer_times
from metaprune_pl.pruning.rounding import multiple_for
from metaprune_pl.pruning.targets import Faster

EXAMPLE = torch.zeros(1, 3, 16, 16)


@pytest.fixture
def by_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pass take as long as it has multiply-accumulates, so that nothing depends on luck."""

    def time_in_turn(runs: list, **_: object) -> list[timing.Timing]:
        times = [_macs(run) for run in runs]
        return [timing.Timing(low=t, median=t, high=t) for t in times]

    for module in ("cost.layer_times", "cost.latency", "targets.faster"):
        monkeypatch.setattr(f"metaprune_pl.pruning.{module}.time_in_turn", time_in_turn)


def _macs(run) -> float:  # noqa: ANN001
    """Multiply-accumulates of convolutions and linear layers in a call."""
    counted = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        channels = 1 if isinstance(module, nn.Conv2d) else -1
        values = output.numel() // output.shape[channels]
        counted.append(values * module.weight.numel())

    handle = nn.modules.module.register_module_forward_hook(
        lambda m, i, o: count(m, i, o) if isinstance(m, nn.Conv2d | nn.Linear) else None
    )
    run()
    handle.remove()
    return float(sum(counted))


def test_the_predicted_time_is_that_of_the_network_with_these_widths(by_width: None) -> None:
    network = random_resnet(width=16)
    graph = trace(network, EXAMPLE)
    cost = Latency(batch=2)
    everything = torch.ones(graph.num_nodes, dtype=torch.bool)
    predicted = cost.of_kept(network, graph, EXAMPLE)
    assert predicted(everything) == pytest.approx(cost.of_network(network, EXAMPLE))
    narrow = random_resnet(width=8)
    halved = everything.clone()
    for group in graph.groups[1:]:
        halved[group.start + group.size // 2 : group.stop] = group.size == 10
    expected = cost.of_network(narrow, EXAMPLE)
    assert predicted(halved) == pytest.approx(expected, rel=0.02)


def test_times_between_widths_lie_on_a_line() -> None:
    connection = trace(random_resnet(width=16), EXAMPLE).connections[1]
    grid = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    outputs, inputs = torch.tensor([8, 16]), torch.tensor([8, 16])
    times = LayerTimes(connection=connection, outputs=outputs, inputs=inputs, times=grid)
    kept = torch.ones(10_000, dtype=torch.bool)
    assert times.of(kept) == 5.0
    kept[connection.target.flatten()[:4]] = False
    assert times.of(kept) == 3.5


@pytest.mark.parametrize("builder", ["timm/mobilenetv3_small_050", "timm/vit_tiny_patch16_224"])
def test_a_layer_is_cut_to_what_it_is_in_a_pruned_network(builder: str) -> None:
    network = create_network(builder, seed=0).eval()
    side = 224 if "vit" in builder else 64
    graph = trace(network, torch.zeros(1, 3, side, side))
    measured = [times for times, _ in layer_times(network, graph, torch.zeros(1, 3, side, side))]
    assert len(measured) > 10
    for times in measured[:: len(measured) // 5]:
        module = network.get_submodule(times.connection.name)
        size = module.in_features if isinstance(module, nn.Linear) else module.in_channels
        shape = (2, 5, size) if isinstance(module, nn.Linear) else (2, size, 32, 32)
        outputs, inputs = int(times.outputs[0]), int(times.inputs[0])
        copied, some = cut(times.connection, module, torch.randn(shape), outputs, inputs)
        assert copied(some).shape[0] == 2


@pytest.mark.parametrize("value", [1.5, 2.0])
def test_a_network_that_takes_half_the_time(value: float, by_width: None) -> None:
    network = random_resnet(depth=8, width=16)
    unpruned = examine(network, EXAMPLE)
    settings = PruningSettings(cost=Latency(batch=2), max_ratio=0.9)
    target = Faster(value=value, settings=settings)
    target.check(network, unpruned)
    (pruned,) = Faster.reach([target], network, unpruned, Magnitude())
    reached = unpruned.speed_up(settings.cost, pruned.network)
    assert value * 0.97 <= reached <= value * 1.1
    widths = [m.out_channels for m in pruned.network.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 4 == 0 for width in widths)


def test_what_is_reached_counts_in_what_the_network_runs_in(by_width: None) -> None:
    network, extra = random_resnet(depth=8, width=16), nn.Conv2d(3, 64, 3)
    unpruned = examine(network, EXAMPLE)
    settings = PruningSettings(cost=Latency(batch=2), max_ratio=0.9)
    target = Faster(
        value=1.5,
        settings=settings,
        runtime=Runtime("slow", lambda own, _: lambda x: (own(x), extra(x))),
    )
    (pruned,) = Faster.reach([target], network, unpruned, Magnitude())
    reached = target.reached(unpruned, pruned.network)
    assert 1.5 * 0.97 <= reached <= 1.5 * 1.1
    assert reached < unpruned.speed_up(settings.cost, pruned.network)


def test_a_time_out_of_reach_is_told_as_one(by_width: None) -> None:
    network = random_resnet(depth=8, width=16)
    unpruned = examine(network, EXAMPLE)
    settings = PruningSettings(cost=Latency(batch=2), max_ratio=0.5)
    target = Faster(value=100.0, settings=settings)
    with pytest.raises(PruningError, match=r"a latency of 0\.01 of .* at least 0\.\d.*Give more"):
        target.check(network, unpruned)


def test_a_slower_measurement_is_no_speed_up(
    by_width: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = random_resnet(width=16)
    unpruned = examine(network, EXAMPLE)
    settings = PruningSettings(cost=Latency(batch=1))
    measure, slower = Latency.of_network, iter([1.32])

    def of_network(cost: Latency, *args: object) -> float:
        return measure(cost, *args) * next(slower, 1.0)

    monkeypatch.setattr(Latency, "of_network", of_network)
    Faster(value=1.25, settings=settings).check(network, unpruned)


@pytest.mark.parametrize(("width", "multiple"), [(8, 1), (16, 2), (32, 4), (64, 8), (512, 8)])
def test_narrow_layers_have_finer_widths(width: int, multiple: int) -> None:
    assert multiple_for(width) == multiple
