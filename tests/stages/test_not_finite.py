"""Where a loss or a weight is not finite, every stage stops in one line and stores nothing."""

from pathlib import Path

import pytest
import torch

from conftest import QUIET, tiny
from metaprune_pl.__main__ import main
from metaprune_pl.stages import DataModelTraining, Finetuning, MetaTraining
from metaprune_pl.stages.stage import Stage

RUN = "--trainer.default_root_dir=run"


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
    "Finetuning": (finetuning, Finetuning, "optimizer.lr or sparsity.weight"),
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
    prefix = "--model" if name == "Finetuning" else "--model.init_args"
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


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_last_step_counts(keep: str, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One step of an epoch: no loss comes after it."""
    one = ["--data=Digits", "--data.batch_size=1000", "--training.epochs=1", "--out=run"]
    rate = ["--training.optimizer={name: adamw, lr: 1.0e+30}", f"--training.keep={keep}"]
    build = ["cifar_resnet", "--arguments={depth: 8, width: 4}", "--trainer.accelerator=cpu"]
    with pytest.raises(SystemExit):
        main(["train", *build, *one, *rate, *QUIET])
    assert "not finite in epoch 1" in capsys.readouterr().err and results(workdir) == []


def test_a_training_that_helped_nothing_says_so(
    workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build = ["cifar_resnet", "--arguments={depth: 8, width: 4}", "--trainer.accelerator=cpu"]
    short = ["--data=Digits", "--training.epochs=1", "--out=run", "--data.fraction=0.1"]
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        main(["train", *build, *short, "--training.optimizer={lr: 1.0e-30}", *QUIET])
    assert "No epoch was better on the validation images" in caplog.text
