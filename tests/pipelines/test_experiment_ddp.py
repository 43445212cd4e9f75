"""A whole experiment by two processes gives the figures of one."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaprune_pl.__main__ import main
from metaprune_pl.networks import load_network

SMALL: dict[str, dict[str, Any]] = {
    "data_models": {
        "model.init_args.network.arguments": {"depth": 8, "width": 4},
        "model.init_args.seeds": [0, 1, 2],
        "trainer.max_epochs": 1,
        "data.init_args.fraction": 0.2,
    },
    "meta_training": {
        "model.init_args.metanetwork.init_args.layers": 2,
        "model.init_args.metanetwork.init_args.hidden": 8,
        "data.init_args.rounds": 2,
        "data.init_args.images.init_args.fraction": 0.2,
        "data.init_args.images.init_args.batch_size": 100,
        "data.init_args.big_batch": 200,
        "trainer.max_epochs": 1,
    },
    "curve": {
        "data.init_args.fraction": 0.2,
        "finetune.epochs": 1,
        "grid.points": 3,
        "pruning.step": 0.05,
    },
    "prune": {
        "data.init_args.fraction": 0.2,
        "finetune_after.epochs": 1,
        "latency_batches": [],
        "pruning.step": 0.05,
    },
}
for stage in ("data_models", "curve", "prune"):  # meta-training takes two steps anyway
    SMALL[stage]["trainer.limit_train_batches"] = 2
ARGS = [
    "experiment",
    "--config=quickstart.yaml",
    "--chain.held_out=1",
    "--chain.speed_ups=[2]",
    "--chain.methods=[none, metanetwork]",
    *(f"--chain.overrides.{stage}={json.dumps(changes)}" for stage, changes in SMALL.items()),
    "--trainer.enable_progress_bar=false",
]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.sync_batchnorm=true"]


def figures(run: str) -> dict[str, Any]:
    """What an experiment reports, without times and its folder's name, by dotted names."""
    report = json.loads((Path(run) / "report.json").read_text().replace(f'"{run}/', '"'))
    return dict(flat({name: report[name] for name in ("pruned", "curves")}))


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in pairs:
            yield from flat(entry, f"{name}.{key}")
    else:
        yield name, value


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(workdir: Path) -> None:
    """Within two steps of each training: beyond, rounding alone moves weights by 1e-3."""
    main([*ARGS, "--trainer.default_root_dir=one"])
    command = [sys.executable, "-W", "ignore", "-m", "metaprune_pl", *ARGS, *TWO]
    done = subprocess.run(
        [*command, "--trainer.default_root_dir=two"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = figures("one"), figures("two")
    assert one.keys() == two.keys() and len(one) > 20
    for name, value in one.items():
        exact = isinstance(value, str | None)
        assert value == (two[name] if exact else pytest.approx(two[name], rel=1e-5, abs=1e-5)), name
    stored = {path.parent for path in Path("one").rglob("network.json")}
    assert len(stored) > 10
    for folder in stored:
        if "meta_evaluation" in folder.parts:
            continue  # its finetuning takes more steps
        state = load_network(Path("two") / folder.relative_to("one")).state_dict()
        for name, value in load_network(folder).state_dict().items():
            assert value.allclose(state[name], rtol=1e-5, atol=1e-5), (folder, name)
