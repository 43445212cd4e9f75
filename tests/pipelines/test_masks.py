"""Masks through the command line at toy size."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from conftest import tiny
from metaprune_pl.__main__ import main
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.pruning import MaskSettings, left_parameters


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
    assert (run / "masks.png").read_bytes().startswith(b"\x89PNG")
    written = (run / "masked_0.5" / "result.json").stat().st_mtime_ns
    main(args)  # finished: not run again
    assert (run / "masked_0.5" / "result.json").stat().st_mtime_ns == written


def test_rounds_rewind_the_weights_that_are_left(line: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(line)
    run = tmp_path / "rounds"
    main(tiny(
        "prune prune", "--masks.sparsities=[0.75]", '--masks.patterns=["2:4"]', "--criterion.p=1", "--rounds=2",
        "--criterion.normalize=none", "--metanetwork=null", "--finetune.epochs=0", "--finetune_after.epochs=1",
        f"--trainer.default_root_dir={run}",
    ))  # fmt: skip
    first = load_network(yaml.safe_load((run / "config.yaml").read_text())["network"])
    half, last = (load_network(run / "masked_0.75" / path / "masked") for path in ("round_1", "."))
    trained = load_network(run / "masked_0.75" / "round_1" / "finetuned" / "network")
    weights = read_card(run / "masked_0.75" / "masked").masked
    sizes = torch.cat([trained.get_parameter(name).detach().abs().flatten() for name in weights])
    bound = sizes.sort().values[round(0.75 * len(sizes))]  # what the training led to says what goes
    count = 0
    for name in weights:
        start, kept = first.get_parameter(name), trained.get_parameter(name).abs() >= bound
        assert torch.equal(last.get_parameter(name), start * kept)
        count += int((half.get_parameter(name) != 0).sum())
    assert count == len(sizes) - round(0.5 * len(sizes))  # 1 - (1 - 0.75)^(1/2)
    assert not (run / "masked_2_of_4" / "round_1").exists()


def test_wrong_patterns_are_short_errors(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(tiny("prune prune", '--masks.patterns=["4:2"]'))
    assert "'4:2' is no pattern N:M" in capsys.readouterr().err


def test_the_metanetwork_is_trained_with_the_l1_norm(
    line: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(line)
    for form in ("l1", "decay"):
        main(
            tiny("fit meta", f"--model.init_args.sparsity.form={form}", f"--trainer.default_root_dir={tmp_path / form}")
        )
    l1, decay = (load_metanetwork(tmp_path / form / "metanetworks").state_dict() for form in ("l1", "decay"))
    assert all(bool(value.isfinite().all()) for value in l1.values())
    assert any(not torch.equal(value, decay[name]) for name, value in l1.items())


def test_the_configs_are_the_papers_table_3(capsys: pytest.CaptureFixture[str]) -> None:
    parsed = []
    for command, stage in (("prune", "prune"), ("fit", "meta")):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main([command, "--config", f"{stage}_resnet56_cifar10_masks.yaml", "--print_config"])
        parsed.append(yaml.safe_load(capsys.readouterr().out))
    prune, meta = parsed
    assert MaskSettings(**prune["masks"]).targets == [0.5, 0.8, 0.85, 0.9, "3:4", "2:4", "1:4"]
    assert (prune["criterion"]["p"], prune["criterion"]["normalize"]) == (1, "none")
    assert prune["metanetwork"] == f"{meta['trainer']['default_root_dir']}/metanetworks"
    sparsity = meta["model"]["init_args"]["sparsity"]
    assert sparsity["form"] == "l1" and sparsity["weight"] == pytest.approx(0.1 / 100)
