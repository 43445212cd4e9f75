"""Budgeted training: what half of each batch meets, and a run by the command line."""

from pathlib import Path

import pytest
import torch

from conftest import QUIET
from helpers import random_resnet
from metaprune_pl.__main__ import main
from metaprune_pl.networks import NetworkCard, NetworkSettings, load_network, save_network

ARGUMENTS = {"depth": 8, "width": 4, "in_channels": 1, "num_classes": 10}
FLAGS = [
    "fit",
    "--model=BudgetedTraining",
    "--model.network=given",
    "--model.optimizer.lr=0.02",
    "--data=Digits",
    "--data.batch_size=32",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=12",
    "--trainer.limit_val_batches=0",
    *QUIET,
]


def store() -> None:
    settings = NetworkSettings(builder="cifar_resnet", arguments=ARGUMENTS)
    save_network(
        "given", random_resnet(**ARGUMENTS), NetworkCard(settings=settings, input_shape=(1, 8, 8))
    )


@pytest.mark.parametrize("sparsity", [False, True])
def test_a_run_by_the_command_line(sparsity: bool, workdir: Path) -> None:
    store()
    flags = ["--model.sparsity.weight=0.03"] if sparsity else []
    main([*FLAGS, *flags, "--model.max_speed_up=4", "--trainer.default_root_dir=run"])
    before, after = load_network("given"), load_network("run/network")
    for name, parameter in after.named_parameters():
        assert not torch.equal(parameter, before.get_parameter(name)), name
        assert bool(parameter.isfinite().all())


def test_what_makes_no_sense_is_refused(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store()
    for flag, message in (("1", "above 1"), ("5000", "out of reach")):
        with pytest.raises(SystemExit):
            main([*FLAGS, f"--model.max_speed_up={flag}", "--trainer.default_root_dir=run"])
        assert message in capsys.readouterr().err
