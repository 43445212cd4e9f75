"""Importances, costs and targets are a class each: another one needs no other change."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch_pruning
from torch import nn
from toys import Neurons

from conftest import tiny
from helpers import PlainNet, random_kept, random_resnet, randomize
from metaprune_pl.__main__ import main
from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.graphs import trace
from metaprune_pl.networks import load_network
from metaprune_pl.networks.widths import layer_widths
from metaprune_pl.pruning import (
    Lamp,
    Magnitude,
    Parameters,
    PruningSettings,
    Scales,
    Taylor,
    count_macs,
    count_parameters,
    find_groups,
    prune,
    remove,
)

IMAGE = torch.zeros(1, 3, 8, 8)


@pytest.mark.slow
def test_an_importance_and_a_cost_of_ones_own_prune_by_the_command_line(
    line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(line)
    flags = ["--criterion=toys.LastFirst", "--criterion.sign=-1", "--pruning.cost=toys.Neurons"]
    none = ["--finetune.epochs=0", "--finetune_after.epochs=0", "--metanetwork=null"]
    none += ["--repair=null", "--statistics=stale", "--latency_batches=[]"]
    folder = f"--trainer.default_root_dir={tmp_path}/own"
    main(tiny("prune prune", *flags, *none, "--speed_ups=[1.5]", folder))
    (result,) = json.loads((tmp_path / "own" / "report.json").read_text())
    given = load_network(line / "runs/quickstart/data_models/networks/seed_0003")
    pruned = load_network(tmp_path / "own" / "speed_up_1.5" / "network")
    count = Neurons()
    example = torch.zeros(1, 1, 8, 8)
    reached = count.of_network(given, example) / count.of_network(pruned, example)
    assert reached == result["speed_up"] >= 1.5
    before, after = (n.get_submodule("layer1.0.conv1").weight for n in (given, pruned))
    kept = after.shape[0]
    assert kept < before.shape[0]
    assert torch.equal(after[:, :, 1, 1].flatten()[-1], before[-1, -1, 1, 1])  # the last ones stay


@pytest.mark.slow
def test_a_target_of_ones_own_is_reached_by_the_command_line(
    line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(line)
    given = load_network(line / "runs/quickstart/data_models/networks/seed_0003")
    size = 4 * count_parameters(given)
    targets = [{"class_path": "toys.Bytes", "init_args": {"most": size // part}} for part in (2, 3)]
    asked = [f"--targets={json.dumps(targets)}", "--trust=toys"]
    flags = [*asked, "--pruning.min_channels=2", "--rounds=2"]
    none = ["--finetune.epochs=0", "--finetune_after.epochs=1", "--metanetwork=null"]
    folder = f"--trainer.default_root_dir={tmp_path}/own"
    main(tiny("prune prune", *flags, *none, "--latency_batches=[1]", folder))
    results = json.loads((tmp_path / "own" / "report.json").read_text())
    for part, result in zip((2, 3), results, strict=True):
        stored = load_network(tmp_path / "own" / f"bytes_{size // part}" / "network")
        assert result["parameters"] == count_parameters(stored) <= size // part // 4
        assert result["target"] == pytest.approx(part, rel=1e-3)
        assert result["speed_up"] == count_parameters(given) / count_parameters(stored)
        assert min(shape[0] for shape in layer_widths(stored).values() if len(shape) == 4) >= 2
    with pytest.raises(SystemExit):
        twice = f"--targets={json.dumps(targets[:1] * 2)}"
        main(tiny("prune prune", twice, "--trust=toys", *none, folder))


@pytest.mark.parametrize("build", [lambda: random_resnet(8, 8), lambda: randomize(PlainNet())])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_parameters_of_kept_nodes_are_those_of_the_network_without_the_others(
    build: "type[nn.Module]", seed: int
) -> None:
    network = build()
    graph = trace(network, IMAGE)
    count = Parameters().of_kept(network, graph, IMAGE)
    kept = random_kept(find_groups(graph), seed)
    assert count(kept) == count_parameters(remove(network, graph, kept))
    assert count(torch.ones_like(kept)) == count_parameters(network)


def test_a_network_with_half_the_parameters() -> None:
    network = random_resnet(8, 8)
    settings = PruningSettings(cost=Parameters())
    (half,) = prune(network, IMAGE, speed_ups=[2.0], settings=settings)
    assert 2 <= count_parameters(network) / count_parameters(half) < 2.1


@pytest.mark.parametrize("kind", [Lamp, Magnitude, Scales, Taylor])
@pytest.mark.parametrize("p", [0.0, -1.0, math.nan, math.inf])
def test_exponents_that_make_no_norm_are_refused(kind: type[Magnitude], p: float) -> None:
    with pytest.raises(ConfigError, match="exponent"):
        kind(p=p)


def test_depgraph_prunes_by_torch_prunings_own_pruner() -> None:
    network = random_resnet(8, 8)
    settings = PruningSettings(pruner="depgraph", step=0.05)
    half, third = prune(network, IMAGE, speed_ups=[2.0, 3.0], settings=settings)
    macs = [count_macs(each, IMAGE) for each in (network, half, third)]
    assert 2 <= macs[0] / macs[1] < 3 <= macs[0] / macs[2]
    pruner = torch_pruning.pruner.GroupNormPruner(
        network,
        IMAGE,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=20,
        ignored_layers=[network.get_submodule("fc")],
    )
    while count_macs(network, IMAGE) > macs[0] / 2:
        pruner.step()
    for name, value in network.state_dict().items():
        assert torch.equal(half.state_dict()[name], value)


def test_steps_of_depgraph_that_are_too_small_for_a_channel_are_no_end() -> None:
    network = random_resnet(8, 8)
    settings = PruningSettings(pruner="depgraph", step=0.01, ranking="uniform")
    (pruned,) = prune(network, IMAGE, speed_ups=[8.0], settings=settings)
    assert count_macs(network, IMAGE) / count_macs(pruned, IMAGE) >= 8
    with pytest.raises(PruningError, match="out of reach"):
        list(prune(network, IMAGE, speed_ups=[1e3], settings=settings))


@pytest.mark.slow
def test_depgraph_is_a_control_that_one_runs(
    line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(line)
    folder = f"--trainer.default_root_dir={tmp_path}/depgraph"
    none = ["--finetune.epochs=0", "--metanetwork=null", "--latency_batches=[]"]
    main(tiny("prune prune", "--pruning.pruner=depgraph", *none, folder))
    results = json.loads((tmp_path / "depgraph" / "report.json").read_text())
    for result in results:
        stored = load_network(tmp_path / "depgraph" / f"speed_up_{result['target']:g}" / "network")
        assert result["speed_up"] >= result["target"]
        assert count_macs(stored, torch.zeros(1, 1, 8, 8)) == result["macs"]
