"""Learning rates step by step in real trainings, against the same written out; lengths in steps."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import QUIET, tiny
from metaprune_pl.__main__ import main
from metaprune_pl.networks import load_network
from metaprune_pl.stages import Finetuning

COSINE = "{name: sgd, lr: 0.1, schedule: cosine, interval: step, warm_up: 3, min_lr: 0.02}"


def expected(steps: int) -> list[float]:
    """Three steps of warm-up, and a cosine from 0.1 to 0.02 over the rest."""
    rise = [0.1 * (0.01 + 0.99 * step / 3) for step in range(3)]
    angles = [math.pi * step / (steps - 3) for step in range(steps - 3)]
    return rise + [0.02 + 0.08 * (1 + math.cos(angle)) / 2 for angle in angles]


def finetuning(networks: Path) -> list[str]:
    model = [f"--model.network={networks / 'seed_0004'}", f"--model.optimizer={COSINE}"]
    data = ["--data=Digits", "--data.batch_size=250", "--trainer.accelerator=cpu"]
    return ["fit", "--model=Finetuning", *model, *data, *QUIET]


@pytest.fixture
def networks(line: Path, workdir: Path) -> Path:
    return line / "runs/quickstart/data_models/networks"


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the rate of each optimiser step."""
    found, step = list[float](), torch.optim.SGD.step

    def noting(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> Any:
        found.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    return found


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        (["--trainer.max_epochs=3"], 12),  # 1000 images are 4 batches of 250
        (["--trainer.max_epochs=4", "--trainer.accumulate_grad_batches=2"], 8),
        (["--trainer.max_steps=7"], 7),
        (["--trainer.max_epochs=3", "--trainer.max_steps=9"], 9),
    ],
    ids=["epochs", "accumulated", "steps", "both"],
)
def test_finetuning(flags: list[str], steps: int, networks: Path, rates: list[float]) -> None:
    main([*finetuning(networks), *flags])
    assert rates == pytest.approx(expected(steps))


def test_meta_training(networks: Path, rates: list[float]) -> None:
    flags = ["--data.init_args.rounds=2", "--trainer.max_epochs=2"]  # 4 steps an epoch
    data = f"--data.init_args.data_models={networks}"
    main([*tiny("fit meta"), data, *flags, f"--model.init_args.optimizer={COSINE}"])
    assert rates == pytest.approx(expected(8))


class Killed(BaseException):
    """Not an error that anything would handle."""


def test_a_stopped_training_goes_on_at_its_rate(
    networks: Path, rates: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [*finetuning(networks), "--trainer.max_steps=11"]

    def dying(self: Finetuning, batch: Any, batch_idx: int) -> None:
        if self.global_step == 6:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "on_train_batch_start", dying)
        with pytest.raises(Killed):
            main([*args, "--trainer.default_root_dir=stopped"])
    rates.clear()
    main([*args, "--trainer.default_root_dir=stopped"])
    assert rates == pytest.approx(expected(11)[4:])
    main([*args, "--trainer.default_root_dir=whole"])
    stopped, whole = load_network("stopped/network"), load_network("whole/network")
    for one, other in zip(stopped.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_epochs_are_counted_where_the_length_is_in_steps(
    networks: Path, rates: list[float]
) -> None:
    epochs = "{lr: 0.1, schedule: cosine, interval: epoch, warm_up: 0, min_lr: 0.0}"
    flags = ["--trainer.max_steps=10", f"--model.optimizer={epochs}"]  # 2 and a half epochs
    main([*finetuning(networks), *flags])
    cosine = [0.05 * (1 + math.cos(math.pi * epoch / 3)) for epoch in range(3)]
    assert rates == pytest.approx([cosine[step // 4] for step in range(10)])


def test_the_rate_of_an_epoch_of_meta_training(networks: Path, rates: list[float]) -> None:
    epochs = "{name: sgd, lr: 0.1, schedule: multistep, milestones: [1]}"
    data = f"--data.init_args.data_models={networks}"
    main([*tiny("fit meta"), data, f"--model.init_args.optimizer={epochs}"])
    assert rates == pytest.approx([0.1] * 2 + [0.01] * 2)
