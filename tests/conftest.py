"""Shared fixtures: a quiet picture backend, a folder for each test of a command, the line."""

import os
from collections.abc import Iterator
from pathlib import Path

# The log handler of Lightning must not take a stream that one test captures.
import lightning.pytorch  # noqa: F401
import matplotlib
import pytest
import torch

matplotlib.use("agg")
TINY = {
    "data_models data": [
        "--model.init_args.network.arguments={depth: 8, width: 4}",
        "--trainer.max_epochs=2",
    ],
    "fit meta": [
        "--model.init_args.metanetwork.init_args.layers=2",
        "--model.init_args.metanetwork.init_args.hidden=8",
        "--data.init_args.rounds=1",
        "--trainer.max_epochs=2",
        "--trainer.callbacks=null",
    ],
    "curve curve": [
        "--finetune.epochs=1",
        "--grid.points=4",
        "--grid.max_speed_up=3",
        "--pruning.step=0.05",
    ],
    "prune prune": [
        "--finetune.epochs=1",
        "--finetune_after.epochs=2",
        "--speed_ups=[2, 3]",
        "--pruning.step=0.05",
    ],
}
"""Flags that bring the quickstart's stages down to seconds."""
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def tiny(stage: str, *flags: str) -> list[str]:
    """Return the command line of a stage of the quickstart at toy size."""
    command, name = stage.split()
    return [command, "--config", f"{name}_quickstart.yaml", *TINY[stage], *QUIET, *flags]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let fuzzers try other and more inputs than in every run."""
    parser.addoption("--seed", type=int, default=0, help="first seed of random networks")
    parser.addoption("--networks", type=int, default=8, help="number of random networks")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run folders in two processes; a few files take less time than a second process to start."""
    folders = any(Path(arg).is_dir() for arg in config.args)
    return 2 if folders and len(os.sched_getaffinity(0)) > 1 else 0


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run data models, meta-training, curve and pruning by commands once; give the folder."""
    from metaprune_pl.__main__ import main

    before, folder = Path.cwd(), tmp_path_factory.mktemp("line")
    os.chdir(folder)
    try:
        for stage in TINY:
            main(tiny(stage))
    finally:
        os.chdir(before)
    yield folder
