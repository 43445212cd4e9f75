"""Baselines through the command line at toy size."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from test_experiment import ARGS, write_toy_configs
from torch import Tensor, nn

from conftest import tiny
from metaprune_pl import pruning
from metaprune_pl.__main__ import main
from metaprune_pl.data import Digits
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import create_network, load_network
from metaprune_pl.pipelines import prune as prune_command
from metaprune_pl.pruning import Magnitude, PruningSettings, count_macs, prune
from metaprune_pl.settings.experiment import ExperimentSettings
from metaprune_pl.settings.shipped import find_config
from metaprune_pl.stages.accuracy import accuracy
from metaprune_pl.stages.baselines import BASELINES, baseline


def values(network: nn.Module) -> Tensor:
    """All weights of convolutions, as a set."""
    weights = [m.weight.detach().flatten() for m in network.modules() if isinstance(m, nn.Conv2d)]
    return torch.cat(weights).unique()


def test_rounds_rewind_the_weights_and_rank_by_the_trained_ones(
    line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(line)
    monkeypatch.setattr(prune_command, "_tidy", lambda *_: None)  # what was pruned is looked at
    run = tmp_path / "rounds"
    main(
        tiny(
            "prune prune",
            "--metanetwork=null",
            "--finetune.epochs=0",
            "--finetune_after.epochs=1",
            "--rounds=3",
            "--speed_ups=[4]",
            "--pruning.step=1",
            f"--trainer.default_root_dir={run}",
        )
    )
    first = load_network(yaml.safe_load((run / "config.yaml").read_text())["network"])
    image = torch.zeros(1, 1, 8, 8)
    rewound = [
        load_network(run / "speed_up_4" / path / "pruned") for path in ("round_1", "round_2", ".")
    ]
    macs = [count_macs(network, image) for network in (first, *rewound)]
    for number, now in enumerate(
        macs[1:], 1
    ):  # each is as far as it should be, and not as far as the next
        assert 4 ** (number / 3) <= macs[0] / now < 4 ** ((number + 1) / 3)
    assert all(bool(torch.isin(values(network), values(first)).all()) for network in rewound)
    trained = load_network(run / "speed_up_4" / "round_1" / "finetuned" / "network")
    shared = torch.isin(values(trained), values(first))
    assert int(shared.sum()) <= 3  # by chance
    (expected,) = prune(  # the second round by hand
        trained,
        image,
        speed_ups=[4 ** (2 / 3)],
        original=first,
        criterion=Magnitude(),
        settings=PruningSettings(step=1.0),
        weights=load_network(run / "speed_up_4" / "round_1" / "pruned"),
    )
    state = load_network(run / "speed_up_4" / "round_2" / "pruned").state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.state_dict().items())


def test_rounds_need_training_between_them(
    line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(line)
    with pytest.raises(SystemExit):
        main(
            tiny(
                "prune prune",
                "--rounds=2",
                "--finetune_after.epochs=0",
                f"--trainer.default_root_dir={tmp_path}/a",
            )
        )
    assert "trains for finetune_after.epochs" in capsys.readouterr().err


def test_unknown_methods_are_refused_with_those_there_are() -> None:
    paths = dict.fromkeys(("data_models", "meta_training", "curve", "prune"), "x.yaml")
    with pytest.raises(ConfigError, match=r"'magic' is none of none, .*, lamp, .*_uniform"):
        ExperimentSettings(**paths, methods=["none", "magic"])
    for name in BASELINES:
        assert baseline(f"{name}_uniform") is baseline(name) is BASELINES[name]


@pytest.mark.slow
def test_methods_without_a_curve_run_alone(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy_configs(workdir)
    flags = ("held_out=1", "speed_ups=[2]", "methods=[snip]")
    toy = [*ARGS, *(f"--chain.{flag}" for flag in flags), "--seed_everything=5"]
    main([*toy, "--chain.overrides={data_models: {model.init_args.seeds: [0, 1, 2]}}"])
    report = json.loads((workdir / "runs" / "quickstart" / "report.json").read_text())
    assert [row["method"] for row in report["results"]["pruned"]] == ["snip"]
    (result,) = report["pruned"]
    trained = load_network(workdir / "runs/quickstart/data_models/networks/seed_0002")
    base = accuracy(trained, Digits(fraction=0.2), "test", torch.device("cpu"))
    assert result["accuracy_base"] == base != result["accuracy_given"]  # untrained
    for stage in (
        "data_models",
        "networks/seed_0002-snip/prune",
    ):  # the experiment's seed is theirs
        config = yaml.safe_load(
            (workdir / "runs" / "quickstart" / stage / "config.yaml").read_text()
        )
        assert config["seed_everything"] == 5
    assert not report["curves"] and "Curves: " not in capsys.readouterr().out
    fewer = "--chain.overrides={data_models: {model.init_args.seeds: [1, 0]}}"
    main([*toy, fewer])  # the network of seed 2 is still there
    report = json.loads((workdir / "runs" / "quickstart" / "report.json").read_text())
    assert [result["network"] for result in report["pruned"]] == ["seed_0001"]


@pytest.mark.slow
def test_all_baselines_run_from_one_config_to_one_table(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_command, "_tidy", lambda *_: None)  # what was pruned is looked at
    write_toy_configs(workdir)
    methods = yaml.safe_load(find_config("baselines_quickstart.yaml").read_text())["chain"][
        "methods"
    ]
    assert set(methods) - {"none", "sparsity_learning", "magnitude_l2_uniform"} == set(
        BASELINES
    ) - {"balanced_magnitude", "depgraph", "iterative_magnitude_trained", "snip_trained"}
    main(
        [
            *ARGS,
            "--chain.held_out=1",
            "--chain.speed_ups=[2]",
            f"--chain.methods={json.dumps(methods)}",
            "--chain.overrides={data_models: {model.init_args.seeds: [0, 1, 2]}, "
            "curve: {finetune.epochs: 1},"
            " prune: {finetune.epochs: 1, finetune_after.epochs: 1}}",
        ]
    )
    run = workdir / "runs" / "quickstart"
    report = json.loads((run / "report.json").read_text())
    assert [row["method"] for row in report["results"]["pruned"]] == methods
    assert [row["method"] for row in report["results"]["curves"]] == [
        method for method in methods if method not in {"iterative_magnitude", "snip"}
    ]
    printed = capsys.readouterr().out
    assert all(f" {method} " in printed for method in methods)
    kept = {}
    for method in methods:
        place = run / "networks" / f"seed_0002-{method}" / "prune"
        config = yaml.safe_load((place / "config.yaml").read_text())
        assert config["pruning"]["ranking"] == (
            "uniform" if method.endswith("_uniform") else "global"
        )
        other = baseline(method)
        criterion = config["criterion"]
        made = getattr(pruning, criterion["class_path"].rpartition(".")[2])
        expected = other.criterion if other else Magnitude()
        assert made(**criterion["init_args"]) == expected
        kept[method] = load_network(place / "speed_up_2" / "pruned")
    widths = {
        method: tuple(m.weight.shape[0] for m in n.modules() if isinstance(m, nn.Conv2d))
        for method, n in kept.items()
    }
    assert len(set(widths.values())) > 5  # they are different ways
    snip = yaml.safe_load(
        (run / "networks" / "seed_0002-snip" / "prune" / "config.yaml").read_text()
    )
    data_models = yaml.safe_load((run / "data_models" / "config.yaml").read_text())
    assert snip["finetune_after"]["epochs"] == data_models["trainer"]["max_epochs"] == 2
    assert snip["finetune_after"]["optimizer"] == data_models["model"]["init_args"]["optimizer"]
    start = load_network(run / "networks" / "seed_0002-snip" / "untrained")
    fresh = create_network("cifar_resnet", seed=2, depth=8, width=4, in_channels=1, num_classes=10)
    assert all(
        torch.equal(fresh.state_dict()[name], value) for name, value in start.state_dict().items()
    )
    assert bool(torch.isin(values(kept["snip"]), values(fresh)).all())
