"""A stopped training resumes to the same weights, bit for bit, at and within an epoch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import QUIET, tiny
from metaprune_pl.__main__ import main
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.stages import DataModelTraining, Finetuning, MetaTraining

FIT_DATA = [
    "fit",
    "--model=DataModelTraining",
    "--model.network.arguments={depth: 8, width: 4}",
    "--model.seeds=[0]",
    "--model.optimizer.lr=0.1",
    "--data=Digits",
    "--trainer.accelerator=cpu",
    *QUIET,
]


class Killed(BaseException):
    """Not an error that anything would handle."""


def stop_after(steps: int, kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a stage die in the step after so many."""
    step, count = kind.training_step, 0

    def dying(self: Any, batch: Any, batch_idx: int) -> Any:
        nonlocal count
        count += 1
        if count > steps:
            raise Killed
        return step(self, batch, batch_idx)

    monkeypatch.setattr(kind, "training_step", dying)


def interrupted_and_whole(
    args: list[str], steps: int, kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run in the folder `stopped` with a death in between, and in the folder `whole` without."""
    with monkeypatch.context() as patch:
        stop_after(steps, kind, patch)
        with pytest.raises(Killed):
            main([*args, "--trainer.default_root_dir=stopped"])
    main([*args, "--trainer.default_root_dir=stopped"])
    main([*args, "--trainer.default_root_dir=whole"])


def states_equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("steps", [25, 47])  # 20 steps an epoch: in the second and in the third
def test_data_models(steps: int, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = tiny("data_models data", "--trainer.max_epochs=3", "--model.init_args.seeds=[0, 1]")
    interrupted_and_whole(args, steps, DataModelTraining, monkeypatch)
    for seed in ("seed_0000", "seed_0001"):
        stopped, whole = (load_network(f"{run}/networks/{seed}") for run in ("stopped", "whole"))
        assert states_equal(stopped, whole)


def test_data_models_that_are_trained_and_not_stored(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [*FIT_DATA, "--trainer.max_epochs=1"]

    def die(self: DataModelTraining) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DataModelTraining, "on_fit_end", die)
        main([*args, "--trainer.default_root_dir=stopped"])
    for run in ("stopped", "whole"):
        main([*args, f"--trainer.default_root_dir={run}"])
    stopped, whole = (read_card(f"{run}/networks/seed_0000") for run in ("stopped", "whole"))
    assert stopped.record == whole.record and "validation_accuracy" in whole.record


def test_data_models_from_the_middle_of_an_epoch(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "often.yaml").write_text(
        "trainer:\n  callbacks:\n  - class_path: ModelCheckpoint\n    init_args:\n"
        "      "
        "{dirpath: often, filename: step, every_n_train_steps: 7, enable_version_counter: false}\n"
    )
    args = [*FIT_DATA, "--trainer.max_epochs=2"]
    with monkeypatch.context() as patch:
        stop_after(31, DataModelTraining, patch)
        with pytest.raises(Killed):
            main([*args, "--config=often.yaml", "--trainer.default_root_dir=stopped"])
    main(
        [
            *args,
            "--config=often.yaml",
            "--ckpt_path=often/step.ckpt",
            "--trainer.default_root_dir=other",
        ]
    )
    main([*args, "--trainer.default_root_dir=whole"])
    assert states_equal(
        load_network("other/networks/seed_0000"), load_network("whole/networks/seed_0000")
    )


@pytest.mark.parametrize(
    "steps", [5, 9]
)  # 4 micro-batches an epoch, 2 a step: in the middle of a big batch, too
def test_meta_training(
    steps: int, line: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = line / "runs" / "quickstart" / "data_models" / "networks"
    args = tiny("fit meta", f"--data.init_args.data_models={networks}", "--trainer.max_epochs=3")
    interrupted_and_whole(args, steps, MetaTraining, monkeypatch)
    for epoch in ("epoch_001", "epoch_002", "epoch_003"):
        stopped, whole = (
            load_metanetwork(f"{run}/metanetworks/{epoch}") for run in ("stopped", "whole")
        )
        assert states_equal(stopped, whole)


def test_finetuning_with_a_sparsity_term(
    line: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = line / "runs" / "quickstart" / "data_models" / "networks" / "seed_0004"
    args = [
        "fit",
        "--model=Finetuning",
        f"--model.network={network}",
        "--model.optimizer.lr=0.02",
        "--model.sparsity={weight: 0.01}",
        "--data=Digits",
        "--trainer.max_epochs=3",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]
    interrupted_and_whole(args, 33, Finetuning, monkeypatch)
    assert states_equal(load_network("stopped/network"), load_network("whole/network"))
    assert not states_equal(load_network("whole/network"), load_network(network))


def test_early_stopping_from_the_config_stops(workdir: Path) -> None:
    (workdir / "early.yaml").write_text(
        "trainer:\n  callbacks:\n  - class_path: EarlyStopping\n    init_args:\n"
        "      {monitor: val/loss, mode: max, patience: 1, min_delta: 1000.0}\n"
    )
    main(
        tiny(
            "data_models data",
            "--config=early.yaml",
            "--trainer.max_epochs=9",
            "--model.init_args.seeds=[0]",
        )
    )
    checkpoint = torch.load(
        "runs/quickstart/data_models/work/seeds_0000/checkpoints/last.ckpt", weights_only=True
    )
    assert checkpoint["epoch"] == 1  # the first epoch is best, the second is the one of patience
    assert Path("runs/quickstart/data_models/networks/seed_0000/network.json").is_file()
