"""Masks through the command line at toy size."""

import csv
import json
from pathlib import Path

import pytest
import torch

from conftest import tiny
from metaprune_pl.__main__ import main
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.pruning import left_parameters


def test_prune_masks_to_shares_and_patterns(
    line: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(line)
    run = tmp_path / "masks"
    args = tiny(
        "prune prune", "--masks.sparsities=[0.5, 0.9]", '--masks.patterns=["2:4"]', "--criterion.p=1",
        "--criterion.normalize=none", "--finetune_after.epochs=1", f"--trainer.default_root_dir={run}",
    )  # fmt: skip
    main(args)
    assert "left params" in capsys.readouterr().out
    rows = json.loads((run / "report.json").read_text())
    assert [row["target"] for row in rows] == ["0.5", "0.9", "2:4"] and rows[0]["method"] == "metanetwork"
    assert [row["dense"] for row in rows] == [[], [], ["conv1.weight"]]  # one image channel
    with (run / "report.csv").open() as file:
        assert [float(row["left"]) for row in csv.DictReader(file)] == [row["left"] for row in rows]
    for row, folder in zip(rows, ("masked_0.5", "masked_0.9", "masked_2_of_4"), strict=True):
        network, card = load_network(run / folder / "network"), read_card(run / folder / "network")
        start = load_network(run / folder / "masked")
        weights = [network.get_parameter(name) for name in card.masked]
        assert left_parameters(network) == row["left"] == card.record["left"]
        for name in card.masked:
            assert torch.equal(network.get_parameter(name) == 0, start.get_parameter(name) == 0)
        share = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        assert share == pytest.approx(0.5 if ":" in row["target"] else float(row["target"]), abs=1e-3)
    written = (run / "masked_0.5" / "result.json").stat().st_mtime_ns
    main(args)  # finished: not run again
    assert (run / "masked_0.5" / "result.json").stat().st_mtime_ns == written


def test_wrong_patterns_are_short_errors(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(tiny("prune prune", '--masks.patterns=["4:2"]'))
    assert "'4:2' is no pattern N:M" in capsys.readouterr().err
