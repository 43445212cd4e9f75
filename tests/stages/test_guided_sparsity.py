"""Guided sparsity: exact shares, zeros for good, a predictor that stays as it is."""

import csv
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import Killed, stop_after
from torch import Tensor

from conftest import QUIET
from metaprune_pl.__main__ import main
from metaprune_pl.graphs import trace
from metaprune_pl.metanetworks import ScalePredictor, load_metanetwork, save_metanetwork
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    create_network,
    load_network,
    read_card,
    save_network,
)
from metaprune_pl.pruning.groups import input_dimensions
from metaprune_pl.pruning.orthant import smallest, stopped
from metaprune_pl.stages import GuidedSparsity, OptimizerSettings

ARGUMENTS: dict[str, Any] = {"width": 4, "num_classes": 10}
IMAGES = ["--data=Digits", "--data.image_size=16", "--data.fraction=0.2"]
FIT = [
    "fit",
    "--model=GuidedSparsity",
    "--model.network=given",
    "--model.optimizer.lr=0.02",
    "--model.optimizer.weight_decay=0",
    *IMAGES,
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=40",
    *QUIET,
]
GUIDED = [*FIT, "--model.predictors=[one, two]", "--model.caution=1", "--model.l1=0.01"]
SHARES = "--model.shares=[0.3, 0.6, 0.9]"


def make(activation: str = "relu") -> None:
    """Store a network and two predictors in the current folder."""
    arguments = {**ARGUMENTS, "activation": activation}
    settings = NetworkSettings(builder="small_cnn", arguments=arguments)
    network = create_network("small_cnn", seed=0, **arguments)
    save_network("given", network, NetworkCard(settings=settings, input_shape=(1, 16, 16)))
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        save_metanetwork(name, ScalePredictor(layers=1, hidden=6), {})


def flat(network: torch.nn.Module) -> Tensor:
    names = input_dimensions(trace(network, torch.zeros(1, 1, 16, 16)))
    return torch.cat([network.get_parameter(name).detach().flatten() for name in names])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("cross_entropy", [0, 0.1])
def test_zeros_never_return_and_shares_are_exact(
    workdir: Path, optimizer: str, cross_entropy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    bytes_before = Path("one/weights.safetensors").read_bytes()
    predictors = [load_metanetwork(name, ScalePredictor) for name in ("one", "two")]
    seen: list[Tensor] = []
    step = GuidedSparsity.optimizer_step

    def watched(self: GuidedSparsity, *args: Any, **kwargs: Any) -> None:
        step(self, *args, **kwargs)
        seen.append(flat(self.network) == 0)
        for own, stored in zip(self.predictors, predictors, strict=True):
            for a, b in zip(own.parameters(), stored.parameters(), strict=True):
                assert torch.equal(a, b) and a.grad is None

    monkeypatch.setattr(GuidedSparsity, "optimizer_step", watched)
    lr = "--model.optimizer.lr=1" if optimizer == "sgd" else "--model.optimizer.lr=0.02"
    flags = [f"--model.optimizer.name={optimizer}", lr, f"--model.cross_entropy={cross_entropy}"]
    main([*GUIDED, *flags, SHARES, "--trainer.default_root_dir=run"])
    for before, after in itertools.pairwise(seen):
        assert not (before & ~after).any()
    rows = list(csv.DictReader(Path("run/guided.csv").open()))
    for share, row in zip((0.3, 0.6, 0.9), rows, strict=True):
        network = load_network(f"run/shares/{share}")
        weights = flat(network)
        assert int((weights == 0).sum()) == round(share * len(weights))
        graph = trace(network, torch.zeros(1, 1, 16, 16))
        predicted = [p.predict(graph, network.state_dict()).sigmoid() for p in predictors]
        mean = float(torch.stack(predicted).mean())
        assert float(row["predicted_accuracy"]) == pytest.approx(mean, abs=1e-6)
        record = read_card(f"run/shares/{share}").record
        assert float(row["validation_accuracy"]) == record["validation_accuracy"]
    assert Path("one/weights.safetensors").read_bytes() == bytes_before


def test_killed_and_continued_equals_uninterrupted(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    with monkeypatch.context() as patch:
        stop_after(7, GuidedSparsity, patch)
        with pytest.raises(Killed):
            main([*GUIDED, "--model.optimizer.name=adamw", SHARES, "--trainer.default_root_dir=a"])
    main([*GUIDED, "--model.optimizer.name=adamw", SHARES, "--trainer.default_root_dir=a"])
    main([*GUIDED, "--model.optimizer.name=adamw", SHARES, "--trainer.default_root_dir=b"])
    for name in ("shares/0.3", "shares/0.6", "shares/0.9", "network"):
        files = [Path(run) / name / "weights.safetensors" for run in "ab"]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    assert Path("a/guided.csv").read_bytes() == Path("b/guided.csv").read_bytes()


def test_killed_after_the_last_share_and_continued_is_finished(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()

    def killed(stage: GuidedSparsity) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(GuidedSparsity, "on_fit_end", killed)
        with pytest.raises(Killed):
            main([*GUIDED, SHARES, "--trainer.default_root_dir=a"])
    assert not Path("a/network").exists()
    main([*GUIDED, SHARES, "--trainer.default_root_dir=a"])
    main([*GUIDED, SHARES, "--trainer.default_root_dir=b"])
    files = [Path(run) / "network/weights.safetensors" for run in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert Path("a/guided.csv").read_bytes() == Path("b/guided.csv").read_bytes()


def test_too_few_steps_are_too_few_again(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make()
    few = [*GUIDED, "--model.shares=[0.9]", "--trainer.max_epochs=1"]
    for _ in range(2):
        with pytest.raises(SystemExit):
            main([*few, "--trainer.default_root_dir=run"])
        assert "Raise model.l1" in capsys.readouterr().err
    assert not Path("run/network").exists()


def test_a_network_tells_no_accuracy_that_it_had_with_other_weights(workdir: Path) -> None:
    make()
    network, card = load_network("given"), read_card("given")
    record = {"accuracy": 0.5, "validation_accuracy": 0.5, "seed": 3}
    save_network("given", network, replace(card, record=record))
    main([*GUIDED, "--model.shares=[0.6]", "--trainer.default_root_dir=run"])
    prune = ["prune", "--network=run/shares/0.6", "--speed_up=1.3", *IMAGES, *QUIET]
    flags = ["--finetune_after.steps=1", "--trainer.accelerator=cpu", "--latency_batches=[1]"]
    main([*prune, *flags, "--trainer.default_root_dir=pruned"])
    folders = ["run/network", *map(str, Path("pruned").rglob("network"))]
    records = [read_card(folder).record for folder in folders]
    assert len(records) > 1
    for record in records:
        assert record["seed"] == 3 and not {"accuracy", "validation_accuracy"} & set(record)


def test_pruning_to_the_share_masks_what_is_zero_and_nothing_else(workdir: Path) -> None:
    make()
    main([*GUIDED, "--model.shares=[0.6]", "--trainer.default_root_dir=run"])
    prune = ["prune", "--network=run/shares/0.6", "--masks.sparsities=[0.6]", *IMAGES, *QUIET]
    prune += ["--repair=null"]
    flags = ["--finetune.epochs=0", "--finetune_after.epochs=1", "--trainer.accelerator=cpu"]
    main([*prune, *flags, "--trainer.default_root_dir=pruned"])
    found, masked = load_network("run/shares/0.6"), load_network("pruned/masked_0.6/masked")
    assert torch.equal(flat(found), flat(masked))
    trained = flat(load_network("pruned/masked_0.6/network"))
    assert torch.equal(trained == 0, flat(found) == 0)


def test_weights_come_to_the_minimum_that_soft_thresholds_give() -> None:
    generator = torch.Generator().manual_seed(0)
    aim = torch.randn(200, generator=generator, dtype=torch.float64)
    weight, l1 = torch.randn(200, generator=generator, dtype=torch.float64), 0.4
    for _ in range(400):  # l1 |w| + (w - aim)^2 / 2
        gradient = weight - aim
        new = weight - 0.05 * (gradient + l1 * weight.sign()) * (weight != 0)
        weight = torch.where(stopped(weight, new, gradient, l1), 0.0, new)
    minimum = aim.sign() * (aim.abs() - l1).clamp(min=0)
    there = weight != 0
    assert (weight - minimum)[there].abs().max() < 1e-6
    assert not minimum[~there].any() or bool((~there & (minimum == 0)).any())
    candidates = torch.tensor([True, False, True, True])
    sizes = torch.tensor([3.0, 0.0, 1.0, 2.0])
    assert smallest(candidates, sizes, 2).tolist() == [False, False, True, True]
    assert smallest(candidates, sizes, 9).tolist() == candidates.tolist()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.shares=[0.6, 0.3]"], "increasing"),
        (["--model.shares=[0.0]"], "no share"),
        (["--model.shares=[1.0]"], "no share"),
        (["--model.shares=[0.6]", "--model.l1=.nan"], "finite"),
        (["--model.shares=[0.6]", "--model.predictors=[]"], "model.predictors"),
        (["--model.shares=[0.6]", "--model.predictors=[given]"], "no metanetwork"),
        (["--model.shares=[0.6]", "--model.keep=best"], "keep"),
        (["--model.shares=[0.9]", "--trainer.max_epochs=1"], "Raise model.l1"),
    ],
)
def test_mistakes_are_one_line(
    workdir: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    with pytest.raises(SystemExit):
        main([*GUIDED, *flags, "--trainer.default_root_dir=run"])
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_a_network_without_the_symmetry_is_refused_by_name(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("tanh")
    with pytest.raises(SystemExit):
        main([*GUIDED, SHARES, "--trainer.default_root_dir=run"])
    assert "a predictor does not go with the network" in capsys.readouterr().err


def test_only_images_that_are_looked_at_are_counted(workdir: Path) -> None:
    make()
    settings = OptimizerSettings()
    stage = GuidedSparsity(network="given", optimizer=settings, shares=[0.5], predictors=("one",))
    assert stage.images_read == 0
