"""Where a loss or a weight is not finite, every stage stops in one line and stores nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from conftest import QUIET, tiny
from helpers import random_resnet
from metaprune_pl.__main__ import main
from metaprune_pl.data import VOC, Digits
from metaprune_pl.errors import TrainingError
from metaprune_pl.networks import NetworkCard, NetworkSettings, save_network
from metaprune_pl.stages import (
    DataModelTraining,
    DetectorTraining,
    Finetuning,
    MetaTraining,
    OptimizerSettings,
)
from metaprune_pl.stages.stage import Stage
from metaprune_pl.stages.task_training import TaskTraining
from metaprune_pl.stages.tasks import LearningTask
from metaprune_pl.stages.trainer import StageTrainer
from scenes import draw_voc

RUN = "--trainer.default_root_dir=run"
FINE = "Finetuning"


def data_models(networks: Path) -> list[str]:
    return tiny(
        "data_models data", "--model.init_args.seeds=[0]", "--data.init_args.batch_size=250"
    )


def finetuning(networks: Path) -> list[str]:
    model = [f"--model.network={networks / 'seed_0004'}", "--model.optimizer.lr=0.1"]
    data = ["--data=Digits", "--data.batch_size=250", "--trainer.accelerator=cpu"]
    return ["fit", "--model=Finetuning", *model, *data, "--trainer.max_epochs=2", *QUIET]


def meta_training(networks: Path) -> list[str]:
    return tiny("fit meta", f"--data.init_args.data_models={networks}")


CASES = {
    "DataModelTraining": (data_models, DataModelTraining, "optimizer.lr"),
    FINE: (finetuning, Finetuning, "optimizer.lr or sparsity.weight"),
    "MetaTraining": (meta_training, MetaTraining, "the objectives' weights"),
}


def results(folder: Path) -> list[Path]:
    kinds = ("*.safetensors", "*.ckpt")
    return [path for kind in kinds for path in folder.rglob(kind)]


@pytest.mark.parametrize("name", CASES)
def test_a_learning_rate_that_is_far_too_high_stops_the_stage(
    name: str, line: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args, _, remedy = CASES[name]
    prefix = "--model" if name == FINE else "--model.init_args"
    rate = f"{prefix}.optimizer={{name: sgd, lr: 1.0e+30}}"
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*args(line / "runs/quickstart/data_models/networks"), rate, RUN])
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 1
    assert message.startswith(f"error: {name} in ") and "in epoch 1" in message
    assert remedy in message and "optimizer.lr is 1e+30" in message
    assert results(workdir) == []


@pytest.mark.parametrize("name", CASES)
def test_what_was_good_before_is_kept_and_the_run_continues_from_it(
    name: str, line: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, kind, _ = CASES[name]
    args = make(line / "runs/quickstart/data_models/networks")
    with monkeypatch.context() as patch:

        def poison(self: Stage) -> None:
            if self.current_epoch == 1:
                with torch.no_grad():
                    next(self.parameters()).view(-1)[0] = torch.inf

        patch.setattr(kind, "on_train_epoch_start", poison)
        with pytest.raises(SystemExit) as stop:
            main([*args, RUN])
    assert stop.value.code == 1
    checkpoint = next(workdir.rglob("last.ckpt"))
    state = torch.load(checkpoint, weights_only=True)
    assert state["epoch"] == 0
    assert all(bool(v.isfinite().all()) for v in state["state_dict"].values())
    main([*args, RUN])
    main([*args, "--trainer.default_root_dir=whole"])
    stopped, whole = results(workdir / "run"), results(workdir / "whole")
    weights = [sorted(p.read_bytes() for p in of if p.suffix != ".ckpt") for of in (stopped, whole)]
    assert weights[0] == weights[1] != []


ONE_STEP = {
    "DataModelTraining": ["--data.init_args.batch_size=1000"],
    FINE: ["--data.batch_size=1000"],
    "MetaTraining": ["--data.init_args.held_out=3"],
}
"""Flags for one step of an epoch, after which no loss comes."""


@pytest.mark.parametrize(("name", "keep"), [*((name, "last") for name in CASES), (FINE, "best")])
def test_the_last_step_counts(
    name: str, keep: str, line: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = "--model" if name == FINE else "--model.init_args"
    flags = [f"{prefix}.optimizer={{name: adamw, lr: 1.0e+30}}", *ONE_STEP[name]]
    flags += [f"--model.keep={keep}"] if name == FINE else []
    networks = line / "runs/quickstart/data_models/networks"
    with pytest.raises(SystemExit):
        main([*CASES[name][0](networks), *flags, "--trainer.max_epochs=1", RUN])
    assert "not finite in epoch 1" in capsys.readouterr().err and results(workdir) == []


class Classes(LearningTask):
    """A task of one's own."""

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(network(batch[0]), batch[1])


def on_a_task(optimizer: OptimizerSettings) -> tuple[Stage, Digits]:
    settings = NetworkSettings(arguments={"depth": 8, "width": 4, "in_channels": 1})
    card = NetworkCard(settings=settings, input_shape=(1, 8, 8))
    save_network("net", random_resnet(in_channels=1), card)
    return TaskTraining(network="net", task=Classes(), optimizer=optimizer), Digits()


def on_boxes(optimizer: OptimizerSettings) -> tuple[Stage, VOC]:
    draw_voc(Path("drawn"), trainval=4, test=2)
    tiny = {"backbone": "timm/resnet18", "channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}
    tiny |= {"min_size": 64, "max_size": 96, "head_width": 8}
    detector = DetectorTraining(network="faster_rcnn", arguments=tiny, optimizer=optimizer)
    return detector, VOC(root="drawn", workers=0)


@pytest.mark.parametrize("build", [on_a_task, on_boxes])
def test_the_last_step_of_other_tasks_counts(
    build: Callable[[OptimizerSettings], tuple[Stage, LightningDataModule]], workdir: Path
) -> None:
    stage, data = build(OptimizerSettings(name="adamw", lr=1e30))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    short = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0}
    trainer = StageTrainer(default_root_dir="run", accelerator="cpu", **quiet, **short)
    with pytest.raises(TrainingError, match="not finite in epoch 1"):
        trainer.fit(stage, datamodule=data)
    assert results(workdir / "run") == []


def test_a_training_that_helped_nothing_says_so(
    workdir: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ["cifar_resnet", "--arguments={depth: 8, width: 4}", "--trainer.accelerator=cpu"]
    short = ["--data=Digits", "--training.epochs=1", "--out=run", "--data.fraction=0.1"]
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        main(["train", *build, *short, "--training.optimizer={lr: 1.0e-30}", *QUIET])
    assert "No epoch was better on the validation images" in caplog.text
    assert "hardly better than chance: train longer (--training.epochs)" in capsys.readouterr().err
