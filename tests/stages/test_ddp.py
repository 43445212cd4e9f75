"""Two processes make the same meta-training step as one with the same big batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import tiny
from metaprune_pl.metanetworks import load_metanetwork


@pytest.mark.ddp
def test_two_ranks_make_the_meta_training_steps_of_one(line: Path, workdir: Path) -> None:
    networks = line / "runs" / "quickstart" / "data_models" / "networks"
    common = tiny("fit meta", f"--data.init_args.data_models={networks}", "--data.init_args.rounds=2")
    one = [*common, "--data.init_args.micro_batches=2", "--trainer.default_root_dir=one"]
    two = [
        *common, "--data.init_args.micro_batches=1", "--trainer.default_root_dir=two", "--trainer.strategy=ddp",
        "--trainer.devices=2",
    ]  # fmt: skip
    for args in (one, two):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "metaprune_pl", *args]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert result.returncode == 0, result.stderr[-2000:]
    start = load_metanetwork("one/metanetworks/epoch_001").state_dict()
    for name, value in load_metanetwork("one/metanetworks/epoch_002").state_dict().items():
        other = load_metanetwork("two/metanetworks/epoch_002").state_dict()[name]
        assert torch.allclose(value, other, rtol=0, atol=1e-6), name
        assert not torch.equal(value, start[name]) or value.numel() == 0
