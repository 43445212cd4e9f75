"""Two processes do what one does, write each file once, and start in every usual way."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from conftest import QUIET, tiny
from metaprune_pl.__main__ import main
from metaprune_pl.files import UNFINISHED
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.reports import read_json

# records who writes which file, and each exchange of gradients
RUNNER = """
import os, sys
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", os.environ.get("LOCAL_RANK", "0")))
replace, configure = os.replace, DDPStrategy.configure_ddp

def recorded_replace(source, target):
    print("wrote", rank, os.path.relpath(target), flush=True)
    replace(source, target)

def hook(state, bucket):
    print("exchanged", rank, flush=True)
    return allreduce_hook(state, bucket)

def recorded_configure(self):
    configure(self)
    self.model.register_comm_hook(None, hook)

os.replace, DDPStrategy.configure_ddp = recorded_replace, recorded_configure
from metaprune_pl.__main__ import main
main(sys.argv[1:])
"""
UNFINISHED_BOX = re.compile(re.escape(UNFINISHED) + r"[^/]+/")
TWO = [
    "--trainer.strategy=ddp",
    "--trainer.devices=2",
    "--trainer.enable_progress_bar=true",  # of the first process alone, which sums up metrics then
]


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def run(command: list[str], environments: list[Mapping[str, str]] | None = None) -> str:
    """Run one process for each environment, and return what all print."""
    base = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command,
            env=base | dict(extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for extra in environments or [{}]
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]
    return "\n".join(outputs)


def alone(args: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run one process, this one, and return the files that it writes."""
    written, replace = [], os.replace

    def recorded(source: str | Path, target: str | Path) -> None:
        written.append(os.path.relpath(target, "one"))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", recorded)
        main([*args, "--trainer.default_root_dir=one"])
    return written


def by_lightning(args: list[str]) -> str:
    return run([sys.executable, "runner.py", *args])


def by_torchrun(args: list[str]) -> str:
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        f"--master_port={free_port()}",
    ]
    return run([*torchrun, "runner.py", *args])


def by_slurm(args: list[str]) -> str:
    """Two processes as `srun --ntasks 2` starts them."""
    shared = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    ranks = [{**shared, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")]
    return run([sys.executable, "runner.py", *args], ranks)


def assert_written_as_by_one(output: str, by_one: list[str]) -> None:
    """Each file is written by the first process alone, as often as where there is one process."""
    written = re.findall(r"wrote (\d) two/(\S+)", output)
    assert written and {rank for rank, _ in written} == {"0"}
    by_two = [path for _, path in written]
    names = [sorted(UNFINISHED_BOX.sub("", path) for path in paths) for paths in (by_two, by_one)]
    assert names[0] == names[1]


def assert_close(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.allclose(x, y, rtol=1e-5, atol=1e-5), (name, float((x - y).abs().max()))


def logged(run: str) -> list[float]:
    """Validation accuracy of the data models' training by epoch, as TensorBoard has it."""
    events = EventAccumulator(run)
    events.Reload()
    return [
        event.value
        for name in ("val/accuracy", "val/loss", "train/loss")
        for event in events.Scalars(f"work/seeds_0000/{name}")
    ]


@pytest.fixture
def place(workdir: Path) -> Path:
    (workdir / "runner.py").write_text(RUNNER)
    return workdir


@pytest.mark.ddp
@pytest.mark.parametrize("models_per_step", [1, 2])
def test_two_ranks_make_the_meta_training_steps_of_one(
    models_per_step: int, line: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = line / "runs" / "quickstart" / "data_models" / "networks"
    common = tiny(
        "fit meta",
        f"--data.init_args.data_models={networks}",
        "--data.init_args.rounds=2",
        f"--data.init_args.models_per_step={models_per_step}",
        "--model.init_args.clip=0.5",
    )
    by_one = alone(common, monkeypatch)
    output = by_slurm([*common, *TWO, "--trainer.default_root_dir=two"])
    steps = 2 * 2 * 2 // models_per_step  # epochs x data models x rounds
    assert [output.count(f"exchanged {rank}") for rank in (0, 1)] == [steps, steps]
    assert_written_as_by_one(output, by_one)
    start, end, other = (
        load_metanetwork(f"{n}/metanetworks/epoch_00{k}")
        for n, k in (("one", 1), ("one", 2), ("two", 2))
    )
    assert_close(end, other)
    moved = [
        torch.equal(a, b)
        for a, b in zip(start.parameters(), end.parameters(), strict=True)
        if a.numel()
    ]
    assert not any(moved)


@pytest.mark.ddp
@pytest.mark.slow
def test_two_ranks_make_the_data_models_of_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [
        "data_models",
        "--model=DataModelTraining",
        "--model.network.arguments={depth: 8, width: 4}",
        "--model.optimizer={lr: 0.05}",
        "--model.seeds=[0, 1]",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=2",
        "--initial={speed_up: 1.3, pruning: {step: 0.05}, finetune: {epochs: 1}}",
        "--data=Digits",
        "--data.fraction=0.2",
        *QUIET,
    ]
    by_one = alone(common, monkeypatch)
    two = [*TWO, "--trainer.sync_batchnorm=true", "--trainer.default_root_dir=two"]
    output = by_torchrun([*common, *two])
    assert_written_as_by_one(output, by_one)
    for name in ("seed_0000", "seed_0001"):
        one, two = (Path(folder) / "networks" / name for folder in ("one", "two"))
        assert_close(load_network(one), load_network(two))
        assert read_card(one).record == read_card(two).record
    assert logged("one") == pytest.approx(
        logged("two"), abs=1e-5
    )  # over all 397 images, of which one rank has 199


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("start", [by_lightning, by_torchrun])
def test_two_ranks_prune_and_finetune_like_one(
    start: Callable[[list[str]], str], line: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = line / "runs" / "quickstart"
    common = tiny(
        "prune prune",
        f"--network={folder / 'data_models/networks/seed_0003'}",
        "--speed_ups=[2]",
        f"--metanetwork={folder / 'meta_training/metanetworks'}",
        "--latency_batches=[1]",
        "--finetune_after.epochs=1",
        # beyond, rounding alone moves weights by 1e-3: so does another order within the batches
        # of one process, but not in float64
        "--trainer.limit_train_batches=4",
    )
    by_one = alone(common, monkeypatch)
    two = [*common, *TWO, "--trainer.sync_batchnorm=true"]
    assert_written_as_by_one(start([*two, "--trainer.default_root_dir=two"]), by_one)
    for stage in ("rewritten", "finetuned/network", "speed_up_2/network"):
        assert_close(load_network(Path("one") / stage), load_network(Path("two") / stage))
    one, other = (read_json(Path(name) / "report.json")[0] for name in ("one", "two"))
    for key in (
        "speed_up",
        "accuracy_given",
        "accuracy_before",
        "accuracy_pruned",
        "accuracy_finetuned",
    ):
        assert one[key] == other[key], key
