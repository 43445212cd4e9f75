"""Finetuning that learns from the unpruned network, and keeps the best weights."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import QUIET, tiny
from helpers import random_resnet
from metaprune_pl.__main__ import main
from metaprune_pl.data import Digits
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import NetworkCard, NetworkSettings, load_network, save_network
from metaprune_pl.stages import Distillation, Finetuning, OptimizerSettings
from metaprune_pl.stages.accuracy import accuracies, accuracy

CPU = torch.device("cpu")
ARGUMENTS = {"depth": 8, "width": 4, "in_channels": 1, "num_classes": 10}


def store(folder: str, seed: int = 0, classes: int = 10) -> nn.Module:
    arguments = {**ARGUMENTS, "num_classes": classes}
    network = random_resnet(seed=seed, **arguments)
    settings = NetworkSettings(builder="cifar_resnet", arguments=arguments)
    save_network(folder, network, NetworkCard(settings=settings, input_shape=(1, 8, 8)))
    return network


def by_hand(logits: list[float], teacher: list[float], label: int, t: float, w: float) -> float:
    """The loss of one image, with plain numbers."""

    def shares(scores: list[float], divisor: float) -> list[float]:
        exponentials = [math.exp(score / divisor) for score in scores]
        return [own / sum(exponentials) for own in exponentials]

    cross_entropy = -math.log(shares(logits, 1.0)[label])
    pairs = zip(shares(teacher, t), shares(logits, t), strict=True)
    divergence = sum(aim * (math.log(aim) - math.log(own)) for aim, own in pairs)
    return (1 - w) * cross_entropy + w * t * t * divergence


@pytest.mark.parametrize(("t", "w"), [(1.0, 0.5), (2.0, 0.5), (4.0, 0.9), (2.0, 1.0)])
def test_the_loss_is_that_of_plain_numbers(t: float, w: float) -> None:
    logits, teacher = [[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]], [[2.0, 0.0, 1.0], [0.1, 0.2, 0.3]]
    labels = [1, 0]
    rows = zip(logits, teacher, labels, strict=True)
    expected = sum(by_hand(*row, t, w) for row in rows) / 2
    scores = torch.tensor(logits, dtype=torch.float64)
    cross_entropy = nn.functional.cross_entropy(scores, torch.tensor(labels))
    aim = torch.tensor(teacher, dtype=torch.float64)
    loss = Distillation(weight=w, temperature=t).loss(scores, aim, cross_entropy)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_a_step_learns_from_the_teacher_and_leaves_it_as_it_is(workdir: Path) -> None:
    store("student")
    teacher = store("teacher", seed=1)
    stage = Finetuning(network="student", optimizer=OptimizerSettings(), teacher="teacher")
    stage._trainer = SimpleNamespace(datamodule=Digits())  # type: ignore[assignment]
    stage.log = lambda *args, **options: None  # type: ignore[method-assign]
    stage.setup("fit")
    stage.on_train_start()
    images, labels = torch.randn(6, 1, 8, 8), torch.arange(6)
    before = {name: value.clone() for name, value in stage.teacher[0].state_dict().items()}
    loss = stage.training_step((images, labels), 0)
    loss.backward()
    with torch.no_grad():
        logits = load_network("student").train()(images).double().tolist()
        aims = teacher(images).double().tolist()
    rows = zip(logits, aims, labels.tolist(), strict=True)
    expected = sum(by_hand(*row, 2.0, 0.5) for row in rows) / 6
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert all(torch.equal(before[n], v) for n, v in stage.teacher[0].state_dict().items())
    assert not any(name.startswith("teacher") for name in stage.state_dict())
    assert all(p.grad is None for p in stage.teacher[0].parameters())


def test_a_teacher_of_other_classes_is_refused(workdir: Path) -> None:
    store("student")
    store("teacher", classes=12)
    stage = Finetuning(network="student", optimizer=OptimizerSettings(), teacher="teacher")
    stage._trainer = SimpleNamespace(datamodule=Digits())  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="12 classes"):
        stage.setup("fit")


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["weight", "temperature"])
def test_settings_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"distillation.{name}"):
        Distillation(**{name: value})


def args(run: str, *flags: str) -> list[str]:
    model = ["--model=Finetuning", "--model.network=student", "--model.optimizer.lr=0.3"]
    data = ["--data=Digits", "--data.batch_size=250", "--trainer.accelerator=cpu"]
    return ["fit", *model, *data, f"--trainer.default_root_dir={run}", *QUIET, *flags]


def reached(run: str) -> float:
    return accuracy(load_network(f"{run}/network"), Digits(), "validation", CPU)


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the validation accuracy at the end of each epoch."""
    found, kept = list[float](), Finetuning._validation_accuracy

    def noting(self: Finetuning) -> float:
        found.append(kept(self))
        return found[-1]

    monkeypatch.setattr(Finetuning, "_validation_accuracy", noting)
    return found


@pytest.mark.parametrize("length", ["--trainer.max_epochs=6", "--trainer.max_steps=6"])
def test_the_best_weights_are_kept(length: str, workdir: Path, history: list[float]) -> None:
    store("student")
    main(args("best", length, "--model.keep=best"))
    # before training, and after each epoch; the second one of six steps ends in its middle
    assert len(history) == (7 if "epochs" in length else 3)
    assert reached("best") == pytest.approx(max(history))
    main(args("last", length))
    assert reached("last") == pytest.approx(history[-1])


def test_a_training_that_only_harms_leaves_what_there_was(workdir: Path) -> None:
    store("student")
    main(args("good", "--trainer.max_epochs=6", "--model.keep=best"))
    harmful = ["--model.network=good/network", "--model.optimizer.lr=5", "--trainer.max_epochs=1"]
    main([*args("harmed", "--model.keep=best"), *harmful])
    before, after = (load_network(f"{run}/network").state_dict() for run in ("good", "harmed"))
    assert all(torch.equal(value, after[name]) for name, value in before.items())


class Killed(BaseException):
    """Not an error that anything would handle."""


def test_a_stopped_training_with_a_teacher_keeps_the_same_weights(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("student")
    store("teacher", seed=1)
    options = ["--model.keep=best", "--model.teacher=teacher", "--trainer.max_epochs=4"]
    told = [0.1, 0.9, 0.2, 0.9]
    monkeypatch.setattr(Finetuning, "_validation_accuracy", lambda self: told[self.current_epoch])
    main(args("whole", *options))
    main(args("short", *options, "--trainer.max_epochs=2"))  # the second epoch is the best
    step = Finetuning.training_step

    def dying(self: Finetuning, batch: Any, batch_idx: int) -> Tensor:
        if self.current_epoch == 2 and batch_idx == 1:
            raise Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "training_step", dying)
        with pytest.raises(Killed):
            main(args("stopped", *options))
    main(args("stopped", *options))
    runs = [load_network(f"{run}/network").state_dict() for run in ("stopped", "whole", "short")]
    for stopped, whole, short in zip(*(state.values() for state in runs), strict=True):
        assert torch.equal(stopped, whole) and torch.equal(whole, short)


def test_the_first_five_count_where_there_are_more_than_ten_classes() -> None:
    assert list(accuracies(10, "val").compute()) == ["val/accuracy"]
    metrics = accuracies(12, "val")
    scores = torch.arange(12.0).expand(4, 12)
    metrics.update(scores, torch.tensor([11, 7, 6, 0]))
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found == {"val/accuracy": 0.25, "val/accuracy_top_5": 0.5}


def test_prune_finetunes_by_steps_and_learns_from_the_unpruned_network(
    line: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = line / "runs/quickstart/data_models/networks/seed_0004"
    made: list[dict[str, Any]] = []
    build = Finetuning.__init__

    def noting(self: Finetuning, **settings: Any) -> None:
        made.append(settings)
        build(self, **settings)

    monkeypatch.setattr(Finetuning, "__init__", noting)
    after = "{steps: 25, keep: best, distillation: {weight: 0.7}, optimizer: {interval: step}}"
    flags = ["--finetune.epochs=0", f"--finetune_after={after}", "--metanetwork=null"]
    main([*tiny("prune prune"), f"--network={network}", *flags, "--trainer.default_root_dir=run"])
    assert [settings["teacher"] for settings in made] == [str(network)] * 2
    assert {settings["distillation"] for settings in made} == {Distillation(weight=0.7)}
    counts = sorted(Path("run").glob("speed_up_*/finetuned/images.json"))
    assert [json.loads(path.read_text()) for path in counts] == [25 * 50, 25 * 50]
