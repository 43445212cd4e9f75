"""`prune` with initial pruning of one's own network: all of the paper's equation 9."""

import json
from pathlib import Path

import pytest
import torch

from conftest import tiny
from metaprune_pl.__main__ import main
from metaprune_pl.data import Digits
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.pruning import count_macs
from metaprune_pl.stages.accuracy import accuracy

INITIAL = "--initial={speed_up: 1.3, finetune: {epochs: 1}, pruning: {step: 0.05}}"


def test_initial_pruning_comes_before_the_metanetwork(
    line: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = line / "runs" / "quickstart"
    given = runs / "data_models" / "networks" / "seed_0004"
    own = [f"--network={given}", f"--metanetwork={runs / 'meta_training' / 'metanetworks'}"]
    args = [*tiny("prune prune"), *own, INITIAL, "--latency_batches=[1]"]
    main([*args, "--speed_ups=[2]", "--trainer.default_root_dir=pruned"])
    (result,) = json.loads(Path("pruned/report.json").read_text())
    assert result["network"] == "seed_0004" and result["method"] == "metanetwork"
    trained = accuracy(load_network(given), Digits(), "test", torch.device("cpu"))
    assert result["accuracy_base"] == result["accuracy_given"] == trained
    unpruned, example = load_network(given), torch.zeros(1, 1, 8, 8)
    speed_ups = {
        name: count_macs(unpruned, example) / count_macs(load_network(f"pruned/{name}"), example)
        for name in (
            "initial/pruned",
            "initial/finetuned/network",
            "rewritten",
            "finetuned/network",
        )
    }
    assert min(speed_ups.values()) == max(speed_ups.values()) >= 1.3
    assert result["speed_up"] >= 2 > speed_ups["rewritten"]
    record = read_card("pruned/rewritten").record
    assert record["speed_up"] == pytest.approx(speed_ups["rewritten"])
    with pytest.raises(SystemExit):
        main([*args, "--speed_ups=[1.2]", "--trainer.default_root_dir=low"])
    said = "initial.speed_up is 1.3: targets are above it, and one is 1.2."
    assert said in capsys.readouterr().err and not Path("low").exists()


def test_with_masks_what_is_left_counts_from_the_whole_network(line: Path, workdir: Path) -> None:
    given = line / "runs" / "quickstart" / "data_models" / "networks" / "seed_0004"
    own = [f"--network={given}", "--metanetwork=null", "--finetune.epochs=0"]
    masks = ["--masks.sparsities=[0.5]", "--finetune_after.epochs=0"]
    main([*tiny("prune prune"), *own, INITIAL, *masks, "--trainer.default_root_dir=masked"])
    (result,) = json.loads(Path("masked/report.json").read_text())
    weights = load_network("masked/masked_0.5/network").parameters()
    whole = sum(weight.numel() for weight in load_network(given).parameters())
    assert result["parameters"] == whole
    assert result["left"] * whole == pytest.approx(sum(int((w != 0).sum()) for w in weights))
    assert result["left"] < 0.5  # half of what the initial pruning has left
