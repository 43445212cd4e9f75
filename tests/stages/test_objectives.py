"""Objectives of meta-training are a list: old settings are its default; a new one a class."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from conftest import tiny
from metaprune_pl.__main__ import main
from metaprune_pl.errors import ConfigError
from metaprune_pl.metanetworks import PNAMetanetwork, load_metanetwork
from metaprune_pl.pruning import Magnitude
from metaprune_pl.pruning import Sparsity as SparsityTerm
from metaprune_pl.stages import MetaTraining, OptimizerSettings
from metaprune_pl.stages.objectives import (
    Accuracy,
    Budgeted,
    MeanLoss,
    Objective,
    Rewritten,
    Sparsity,
    Term,
)

OPTIMIZER = OptimizerSettings(lr=0.1)
TOY = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from metaprune_pl.stages.objectives import Objective, OfWeights, Rewritten, Term


@dataclass(frozen=True, kw_only=True)
class Nearness(Objective):
    """Half the squared distance to the weights of before."""

    name: ClassVar[str] = "nearness"
    value: ClassVar[str] = "distance"
    weight: float = 1.0

    def start(self, rewritten: Rewritten) -> Term:
        def compute():
            old = rewritten.model.state
            new = rewritten.leaves
            moved = {name: (value - old[name]).detach() for name, value in new.items()}
            half = sum(value.square().sum() for value in moved.values()) / 2
            return {name: self.weight * value for name, value in moved.items()}, self.weight * half
        return OfWeights(compute)
'''


def training(**settings: Any) -> MetaTraining:
    return MetaTraining(
        metanetwork=PNAMetanetwork(layers=1, hidden=4), optimizer=OPTIMIZER, **settings
    )


@pytest.fixture
def args(line: Path, workdir: Path) -> list[str]:
    networks = line / "runs/quickstart/data_models/networks"
    every = "--trainer.log_every_n_steps=1"
    return tiny("fit meta", f"--data.init_args.data_models={networks}", every)


def trained(args: list[str], run: str, *flags: str) -> Tensor:
    """Train and return all weights of the last metanetwork."""
    main([*args, f"--trainer.default_root_dir={run}", *flags])
    parameters = load_metanetwork(f"{run}/metanetworks").parameters()
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def logged(run: str) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(run)
    events.Reload()
    return set(events.Tags()["scalars"])


def test_the_settings_of_the_paper_are_a_list_of_two() -> None:
    criterion = Magnitude(p=1.0)
    module = training(sparsity=SparsityTerm(weight=0.3, form="norm"), criterion=criterion)
    expected = [Accuracy(), Sparsity(weight=0.3, form="norm", criterion=criterion)]
    assert module.objectives == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objectives": []}, "at least one"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"objectives": [Accuracy(), Accuracy()]}, "each kind once"),
        ({"objectives": [Accuracy()], "sparsity": SparsityTerm(weight=0.3)}, "give them there"),
        ({"objectives": [Accuracy()], "criterion": Magnitude(p=1.0)}, "give them there"),
    ],
)
def test_lists_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        training(**settings)


def test_a_written_list_gives_the_numbers_of_the_old_settings(args: list[str]) -> None:
    (Path("listed.yaml")).write_text(
        "model:\n  init_args:\n    sparsity: {weight: 0.1, alpha: 4.0, form: decay}\n"
        "    objectives:\n    - Accuracy\n"
        "    - {class_path: Sparsity, init_args: {weight: 0.2, alpha: 3.0, form: norm}}\n"
    )
    old = "--model.init_args.sparsity={weight: 0.2, alpha: 3.0, form: norm}"
    listed = trained(args, "listed", "--config=listed.yaml")
    assert torch.equal(listed, trained(args, "old", old))
    names = {"loss", "sparsity", "gradient_accuracy", "gradient_sparsity"}
    assert {f"train/{name}" for name in names} <= logged("listed")


def test_an_objective_of_ones_own_is_one_class(
    args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("toy_objective.py").write_text(TOY)
    monkeypatch.syspath_prepend(Path.cwd())
    near = "{class_path: toy_objective.Nearness, init_args: {weight: 1000.0}}"
    flags = "--model.init_args.sparsity={weight: 0.1, alpha: 4.0, form: decay}"
    plain = trained(args, "plain", flags, "--model.init_args.objectives=[Accuracy]")
    own = f"--model.init_args.objectives=[Accuracy, {near}]"
    toy = trained(args, "toy", flags, own, "--trust=toy_objective")
    assert not torch.equal(plain, toy)
    assert {"train/distance", "train/gradient_nearness"} <= logged("toy")
    assert "train/distance" not in logged("plain")


def test_the_budgeted_objective_trains_and_draws_the_same_again(args: list[str]) -> None:
    budgeted = "--model.init_args.objectives=[{class_path: Budgeted, init_args: {max_speed_up: 3}}]"
    plain = "--model.init_args.sparsity={weight: 0.1, alpha: 4.0, form: decay}"
    whole = trained(args, "whole", budgeted, plain)
    assert torch.equal(trained(args, "again", budgeted, plain), whole)
    assert {"train/budgeted_loss", "train/gradient_budgeted"} <= logged("whole")


@pytest.mark.parametrize("name", ["max_speed_up", "temperature"])
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_settings_of_budgets_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        Budgeted(**{name: value})


@dataclass(frozen=True, kw_only=True)
class Head(Objective):
    """A loss of one weight alone: the others get a gradient of zero."""

    name: ClassVar[str] = "head"
    value: ClassVar[str] = "head"

    def start(self, rewritten: Rewritten) -> Term:
        leaf = rewritten.leaves["a"]
        return MeanLoss(rewritten.leaves, lambda images, labels: (leaf * images.mean()).sum())


def test_a_loss_need_not_depend_on_all_weights() -> None:
    leaves = {name: torch.ones(2, requires_grad=True) for name in ("a", "b")}
    term = Head().start(Rewritten(None, leaves))  # type: ignore[arg-type]
    for scale in (1.0, 3.0):
        term.add(torch.full((1, 1, 2, 2), scale), torch.zeros(1))
    gradient, value = term.result()
    assert {name: own.tolist() for name, own in gradient.items()} == {"a": [2, 2], "b": [0, 0]}
    assert float(value) == 4.0
