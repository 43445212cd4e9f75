"""What a large meta-training needs.

Mixed precision, clipping, milestones, several data models in a step.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import tiny
from metaprune_pl.__main__ import main
from metaprune_pl.data import Digits
from metaprune_pl.errors import ConfigError
from metaprune_pl.metanetworks import PNAMetanetwork, load_metanetwork
from metaprune_pl.pruning import Sparsity
from metaprune_pl.stages import MetaTraining, OptimizerSettings
from metaprune_pl.stages.trainer import StageTrainer

SGD = (
    "--model.init_args.optimizer="
    "{name: sgd, lr: 1.0, momentum: 0.0, weight_decay: 0.0, milestones: []}"
)


@pytest.fixture
def args(line: Path, workdir: Path) -> list[str]:
    return tiny(
        "fit meta", f"--data.init_args.data_models={line / 'runs/quickstart/data_models/networks'}"
    )


def weights(run: str, epoch: int) -> torch.Tensor:
    return torch.cat(
        [
            p.detach().flatten()
            for p in load_metanetwork(f"{run}/metanetworks/epoch_00{epoch}").parameters()
        ]
    )


def test_bf16_mixed_keeps_float32_weights_and_comes_close(args: list[str]) -> None:
    main([*args, SGD, "--model.init_args.clip=0.01", "--trainer.default_root_dir=full"])
    main(
        [
            *args,
            SGD,
            "--model.init_args.clip=0.01",
            "--trainer.default_root_dir=half",
            "--trainer.precision=bf16-mixed",
        ]
    )
    full, half = (weights(run, 2) - weights(run, 1) for run in ("full", "half"))
    assert weights("half", 2).dtype == torch.float32
    assert 0 < float((full - half).norm()) < 0.2 * float(full.norm())


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true"])
def test_weights_of_another_precision_are_refused(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"precision is {precision}; networks stay in single"):
        StageTrainer(precision=precision)


def test_the_gradient_is_clipped(args: list[str]) -> None:
    main([*args, SGD, "--model.init_args.clip=0.001", "--trainer.default_root_dir=clipped"])
    main([*args, SGD, "--trainer.default_root_dir=free"])
    clipped, free = (
        float((weights(run, 2) - weights(run, 1)).norm()) for run in ("clipped", "free")
    )
    assert 0 < clipped <= 2 * 0.001 * 1.001 < free  # two steps an epoch, at learning rate 1


def test_milestones_lower_the_learning_rate(args: list[str]) -> None:
    main(
        [
            *args,
            "--model.init_args.optimizer="
            "{lr: 0.004, schedule: multistep, milestones: [2], gamma: 0.25}",
        ]
    )
    checkpoint = torch.load(
        "runs/quickstart/meta_training/checkpoints/last.ckpt", weights_only=True
    )
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == 0.001


def test_a_step_of_two_data_models_averages_their_gradients(args: list[str]) -> None:
    common = [
        *args,
        SGD,
        "--trainer.max_epochs=1",
        "--data.init_args.rounds=1",
    ]
    together = ["--data.init_args.models_per_step=2", "--data.init_args.big_batch=500"]
    main([*common, *together, "--trainer.default_root_dir=together"])
    alone = ["--data.init_args.big_batch=250", "--trainer.default_root_dir=after_one_another"]
    main([*common, *alone])
    steps = [
        torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["global_step"]
        for run in ("together", "after_one_another")
    ]
    assert steps == [1, 2]
    assert not torch.equal(weights("together", 1), weights("after_one_another", 1))


@pytest.mark.parametrize(("loss", "said"), [(2.25, True), (1.5, False)])
def test_networks_that_have_come_to_guess_are_told_of(
    loss: float, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    module = MetaTraining(
        metanetwork=PNAMetanetwork(layers=1, hidden=4),
        optimizer=OptimizerSettings(lr=0.1),
        sparsity=Sparsity(),
    )
    zoo = SimpleNamespace(images=Digits())
    module._trainer = SimpleNamespace(
        callback_metrics={"train/loss": torch.tensor(loss)}, datamodule=zoo
    )  # type: ignore[assignment]
    module.on_train_end()
    assert ("a train/loss of 2.25, that of guessing among 10 classes" in caplog.text) == said
