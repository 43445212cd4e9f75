"""The whole experiment at toy size.

What it writes, that it runs nothing twice, and that it survives being killed.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metaprune_pl.__main__ import main
from metaprune_pl.data import Digits
from metaprune_pl.networks import load_network
from metaprune_pl.settings.shipped import find_config
from metaprune_pl.stages.accuracy import accuracy

FRACTION = {"data.init_args.fraction": 0.2}
IMAGES = Digits(fraction=0.2).count("train")
CHANGES: dict[str, dict[str, Any]] = {
    "data": {
        "model.init_args.network.arguments": {"depth": 8, "width": 4},
        "model.init_args.seeds": [0, 1, 2, 3, 4],
        "trainer.max_epochs": 2,
        **FRACTION,
    },
    "meta": {
        "model.init_args.metanetwork.init_args.layers": 2,
        "model.init_args.metanetwork.init_args.hidden": 8,
        "data.init_args.rounds": 2,
        "trainer.max_epochs": 3,
        "data.init_args.images.init_args.fraction": 0.2,
        "data.init_args.images.init_args.batch_size": 90,
    },
    "curve": {
        "finetune.epochs": 2,
        "grid.points": 3,
        "grid.max_speed_up": 3.0,
        "pruning.step": 0.05,
        **FRACTION,
    },
    "prune": {"finetune_after.epochs": 2, "pruning.step": 0.05, "latency_batches": [1], **FRACTION},
}


def write_toy_configs(folder: Path) -> None:
    """Write the quickstart's configs with a small network and few epochs."""
    for name, changes in CHANGES.items():
        config = yaml.safe_load(find_config(f"{name}_quickstart.yaml").read_text())
        config["trainer"] |= {"enable_progress_bar": False}
        for key, value in changes.items():
            place = config
            *path, last = key.split(".")
            for part in path:
                place = place.setdefault(part, {})
            place[last] = value
        (folder / f"toy_{name}.yaml").write_text(yaml.safe_dump(config))


ARGS = [
    "experiment",
    "--config=paper_quickstart.yaml",
    "--trainer.default_root_dir=runs/quickstart",
    "--chain.data_models=toy_data.yaml",
    "--chain.held_out=2",
    "--chain.meta_training=toy_meta.yaml",
    "--chain.curve=toy_curve.yaml",
    "--chain.prune=toy_prune.yaml",
    "--chain.search.how=all",
    "--chain.speed_ups=[2, 3]",
]


def without_times(report: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what is measured in time, and the folders' names."""
    results = json.loads(json.dumps(report["results"]))
    for row in results["pruned"]:
        for key in [key for key in row if key.startswith(("milliseconds", "latency"))]:
            del row[key]
    del results["cost"]
    choice = report["choices"]["metanetwork"]
    return {"results": results, "curves": report["curves"], "choice": choice["curves"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the experiment without interruption and give its folder."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("whole")
    os.chdir(folder)
    try:
        write_toy_configs(folder)
        main(ARGS)
    finally:
        os.chdir(before)
    shutil.copy(
        folder / "runs" / "quickstart" / "report.json", folder / "first.json"
    )  # tests change the folder
    return folder / "runs" / "quickstart"


@pytest.mark.slow
def test_the_report_holds_every_method_target_and_network(whole: Path) -> None:
    report = json.loads((whole / "report.json").read_text())
    rows = report["results"]["pruned"]
    methods = ["none", "sparsity_learning", "metanetwork"]
    assert [(row["target"], row["method"]) for row in rows] == [
        (t, m) for t in (2, 3) for m in methods
    ]
    for row in rows:
        assert row["networks"] == 2 and row["speed_up"] >= row["target"]
        accuracies = [
            p["accuracy_finetuned"]
            for p in report["pruned"]
            if (p["target"], p["method"]) == (row["target"], row["method"])
        ]
        a, b = accuracies
        assert row["accuracy_finetuned"] == pytest.approx((a + b) / 2)
        assert row["accuracy_finetuned_std"] == pytest.approx(
            abs(a - b) / 2**0.5
        )  # sample deviation of two
    assert [row["method"] for row in report["results"]["curves"]] == methods
    choice = json.loads((whole / "choice" / "choice.json").read_text())
    best = Path(choice["metanetwork"]).name
    assert list(choice["curves"]) == [
        "epoch_001",
        "epoch_002",
        "epoch_003",
    ]
    assert best in report["results"]["choices"]["metanetwork"] == choice["reason"]
    drawn = [curve["network"] for curves in choice["curves"].values() for curve in curves]
    assert set(drawn) == {"seed_0002"}  # nothing has learnt from it, nothing is reported of it
    assert "flat region over no metanetwork" in report["results"]["flat_region"]
    costs = {(c["stage"], c["method"]): c for c in report["costs"]}
    assert costs["meta-training", "metanetwork"]["once"]
    assert costs["data models", ""]["cost"]["images"] == 5 * 2 * IMAGES
    assert not costs["finetuning and curve", "none"]["once"]
    assert costs["finetuning and curve", "none"]["cost"]["images"] == 2 * IMAGES  # for each network
    assert all(c["cost"]["seconds"] > 0 and c["cost"]["host_bytes"] > 1e8 for c in costs.values())
    for name in (
        "report.csv",
        "curves.csv",
        "curve.png",
        "cost.png",
        "choice/curves.png",
        "config.yaml",
    ):
        assert (whole / name).stat().st_size > 0


@pytest.mark.slow
def test_the_choice_is_by_validation_images_and_the_report_by_test_images(whole: Path) -> None:
    chosen_by = [
        json.loads(path.read_text())["split"] for path in (whole / "choice").rglob("curve.json")
    ]
    reported = [
        json.loads(path.read_text())["split"]
        for path in (whole / "networks").glob("*/curve/curve.json")
    ]
    assert chosen_by == ["validation"] * 3 and reported == ["test"] * 6


def tensorboard(folder: Path) -> dict[str, EventAccumulator]:
    """TensorBoard's runs: one for each folder with events."""
    runs = {}
    for path in {file.parent for file in folder.rglob("*tfevents*")}:
        events = EventAccumulator(str(path))
        events.Reload()
        runs[path.relative_to(folder).as_posix()] = events
    return runs


@pytest.mark.slow
def test_tensorboard_has_a_run_for_each_stage_and_method(whole: Path) -> None:
    runs = tensorboard(whole)
    methods = ("none", "sparsity_learning", "metanetwork")
    stages = {".", "data_models", "meta_training", "choice"}
    assert set(runs) == stages | {f"tensorboard/{method}" for method in methods}
    row = runs["tensorboard/none"]
    assert "_hparams_/session_start_info" in row.PluginTagToContent("hparams")
    names = {"accuracy_finetuned", "difference", "macs_pruned", "milliseconds_batch_1"}
    every = {f"result/{target}/{name}" for name in names for target in ("2x", "3x")}
    assert every <= set(row.Tags()["scalars"])
    meta = runs["meta_training"].Tags()
    assert {"train/loss", "meta_eval/speed_up", "lr-AdamW"} <= set(meta["scalars"])
    figure = "curves by epoch of meta-training"
    assert [image.step for image in runs["meta_training"].Images(figure)] == [1, 2, 3]
    assert figure in runs["choice"].Tags()["images"]
    assert "accuracy over speed-up" in runs["."].Tags()["images"]
    for method in methods:
        scalars = set(runs[f"tensorboard/{method}"].Tags()["scalars"])
        for network in ("seed_0003", "seed_0004"):
            assert {
                f"{network}/curve/accuracy_over_speed_up_percent",
                f"{network}/curve/finetuned/train/loss",
                f"{network}/prune/speed_up_2/finetuned/lr-SGD",
                f"{network}/prune/result/test_accuracy_finetuned",
            } <= scalars


@pytest.mark.slow
def test_nothing_is_run_twice_and_a_changed_stage_moves_the_old_aside(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(whole.parents[1])
    before = (whole / "report.json").read_text()
    stages = [path.parent for path in whole.rglob("run.json") if path.parent != whole]
    times = {stage: (stage / "run.json").stat().st_mtime_ns for stage in stages}
    main(ARGS)
    assert {stage: (stage / "run.json").stat().st_mtime_ns for stage in stages} == times
    assert without_times(json.loads((whole / "report.json").read_text())) == without_times(
        json.loads(before)
    )
    again = (whole / "report.json").read_text()
    capsys.readouterr()
    other = "--chain.overrides={prune: {finetune_after.epochs: 1}}"
    main([*ARGS, other, "--chain.methods=[none]"])
    assert "held a run with other settings" in capsys.readouterr().err.replace("\n", " ")
    assert (whole / "networks" / "seed_0003-none" / "prune.old-1" / "speed_up_3").is_dir()
    rows = json.loads((whole / "report.json").read_text())["results"]["pruned"]
    assert [(row["target"], row["method"]) for row in rows] == [(2, "none"), (3, "none")]
    assert (whole / "report.old-1" / "report.json").read_text() == again
    main(ARGS)  # with the settings of before, what was moved aside is back and not run again
    assert "is again the run with these settings" in capsys.readouterr().err.replace("\n", " ")
    back = whole / "networks" / "seed_0003-none" / "prune"
    assert (back / "run.json").stat().st_mtime_ns == times[back] and (back / "speed_up_3").is_dir()
    assert without_times(json.loads((whole / "report.json").read_text())) == without_times(
        json.loads(again)
    )


@pytest.mark.slow
def test_settings_of_a_stage_can_be_overridden(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole.parents[1])
    main([*ARGS, "--chain.methods=[none]", "--chain.overrides={prune: {finetune_after.epochs: 1}}"])
    config = yaml.safe_load(
        (whole / "networks" / "seed_0004-none" / "prune" / "config.yaml").read_text()
    )
    assert config["finetune_after"]["epochs"] == 1


# does what `metaprune` does, up to the moment when a file of this name is there
DYING = """
import os, signal, sys
from metaprune_pl.__main__ import main

replace = os.replace

def dying(source, target):
    replace(source, target)
    if str(target).endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = dying
main(sys.argv[2:])
"""


def run_and_kill(folder: Path, when: str) -> None:
    """Run the experiment in a new process that is killed as soon as a file is there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DYING, when, *ARGS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


@pytest.mark.slow
def test_a_killed_experiment_continues_to_the_same_report(whole: Path, workdir: Path) -> None:
    write_toy_configs(workdir)
    runs = workdir / "runs" / "quickstart"
    run_and_kill(workdir, "meta_training/metanetworks/epoch_001")
    assert not (runs / "meta_training" / "metanetworks" / "epoch_002").exists()
    finetuning = "seed_0003-none/prune/speed_up_2/finetuned"
    run_and_kill(workdir, f"{finetuning}/checkpoints/last.ckpt")
    assert (runs / "networks" / finetuning).is_dir() and not (
        runs / "networks" / finetuning / "network"
    ).exists()
    main(ARGS)
    reports = [
        json.loads(path.read_text())
        for path in (runs / "report.json", whole.parents[1] / "first.json")
    ]
    assert without_times(reports[0]) == without_times(reports[1])


@pytest.mark.slow
def test_the_seven_criteria_of_table_2_at_toy_size(workdir: Path) -> None:
    write_toy_configs(workdir)
    rows = yaml.safe_load(find_config("criteria_resnet56_cifar10.yaml").read_text())["chain"][
        "metanetworks"
    ]
    normalize_alpha = {  # as in the paper's table 2
        "max_4": ("max", 4),
        "max_0": ("max", 0),
        "max_2": ("max", 2),
        "max_6": ("max", 6),
        "mean_4": ("mean", 4),
        "none_4": ("none", 4),
        "none_0": ("none", 0),
    }
    assert list(rows) == list(normalize_alpha)
    main(
        [
            *ARGS,
            f"--chain.metanetworks={json.dumps(rows)}",
            "--chain.methods=[none, metanetwork]",
            "--chain.held_out=1",
            "--chain.speed_ups=[2]",
            "--chain.search.how=binary",
            "--chain.overrides={data_models: {model.init_args.seeds: [0, 1, 2]}, "
            "meta_training: {trainer.max_epochs: 1}, "
            "curve: {finetune.epochs: 1}, prune: {finetune_after.epochs: 0}}",
        ]
    )
    runs = workdir / "runs" / "quickstart"
    report = json.loads((runs / "report.json").read_text())
    methods = [f"metanetwork_{name}" for name in rows]
    assert [row["method"] for row in report["results"]["pruned"]] == ["none", *methods]
    assert [row["method"] for row in report["results"]["curves"]] == ["none", *methods]
    assert len(report["results"]["flat_region"].splitlines()) == 7
    assert sorted(path.name for path in runs.glob("meta_training*")) == [
        f"meta_training_max_{alpha}" for alpha in (0, 2, 4, 6)
    ]
    for name, (normalize, alpha) in normalize_alpha.items():
        metanetwork = Path(report["choices"][f"metanetwork_{name}"]["metanetwork"])
        training = yaml.safe_load((workdir / metanetwork.parents[1] / "config.yaml").read_text())
        assert training["model"]["init_args"]["sparsity"]["alpha"] == alpha
        for stage in (
            f"choice_{name}",
            f"networks/seed_0002-metanetwork_{name}/curve",
            f"networks/seed_0002-metanetwork_{name}/prune",
        ):
            config = yaml.safe_load((runs / stage / "config.yaml").read_text())
            assert config["criterion"]["init_args"]["normalize"] == normalize


@pytest.mark.slow
def test_curves_by_epochs_of_finetuning_after_one_metanetwork_and_no_pruning(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy_configs(workdir)
    chain = yaml.safe_load(find_config("finetuning_quickstart.yaml").read_text())["chain"]
    names = ["0_epochs", "1_epoch", "4_epochs"]
    chain["metanetworks"] = {name: chain["metanetworks"][name] for name in names}
    overrides = {**chain["overrides"], "data_models": {"model.init_args.seeds": [0, 1, 2]}}
    main(
        [
            *ARGS,
            f"--chain.metanetworks={json.dumps(chain['metanetworks'])}",
            "--chain.methods=[none, metanetwork]",
            f"--chain.overrides={json.dumps(overrides)}",
            "--chain.speed_ups=[]",
            "--chain.held_out=1",
            "--chain.search.how=binary",
        ]
    )
    runs = workdir / "runs" / "quickstart"
    report = json.loads((runs / "report.json").read_text())
    assert [row["method"] for row in report["results"]["curves"]] == [
        "none",
        *(f"metanetwork_{n}" for n in names),
    ]
    assert not report["pruned"] and not list(runs.rglob("prune")) and (runs / "curve.png").is_file()
    assert [path.name for path in runs.glob("choice*")] == [
        f"choice_{names[0]}"
    ]  # one for all of them
    assert len({choice["metanetwork"] for choice in report["choices"].values()}) == 1
    assert (
        yaml.safe_load((runs / f"choice_{names[0]}" / "config.yaml").read_text())["finetune"][
            "epochs"
        ]
        == 10
    )
    for name in names:
        config = yaml.safe_load(
            (runs / f"networks/seed_0002-metanetwork_{name}/curve/config.yaml").read_text()
        )
        assert (
            config["finetune"]["epochs"] == chain["metanetworks"][name]["curve"]["finetune.epochs"]
        )
    out = capsys.readouterr().out.replace("\n", " ")
    assert out.count("in the flat region") == 1 and "Pruned networks" not in out


@pytest.mark.slow
def test_curves_of_the_metanetworks_of_several_epochs(workdir: Path) -> None:
    write_toy_configs(workdir)
    shipped = yaml.safe_load(find_config("equal_accuracy_quickstart.yaml").read_text())["chain"]
    chosen = {
        epoch: shipped["metanetworks"][name]
        for epoch, name in enumerate(list(shipped["metanetworks"])[:2], 1)
    }
    overrides = {"data_models": {"model.init_args.seeds": [0, 1, 2]}, **shipped["overrides"]}
    overrides["meta_training"] |= {"trainer.max_epochs": 2}
    main(
        [
            *ARGS,
            f"--chain.metanetworks={json.dumps(chosen)}",
            "--chain.methods=[metanetwork]",
            f"--chain.overrides={json.dumps(overrides)}",
            "--chain.speed_ups=[]",
            "--chain.held_out=1",
        ]
    )
    runs = workdir / "runs" / "quickstart"
    assert [path.name for path in runs.glob("meta_training*")] == [
        "meta_training_1"
    ]  # one for both
    report = json.loads((runs / "report.json").read_text())
    for epoch, changes in chosen.items():
        choice = report["choices"][f"metanetwork_{epoch}"]
        assert list(choice["curves"]) == [f"epoch_{epoch:03d}"] and choice["candidates"] == 1
        config = yaml.safe_load(
            (runs / f"networks/seed_0002-metanetwork_{epoch}/curve/config.yaml").read_text()
        )
        assert Path(config["metanetwork"]).name == f"epoch_{epoch:03d}"
        assert config["finetune"]["epochs"] == changes["curve"]["finetune.epochs"]


@pytest.mark.slow
def test_a_network_straight_after_the_metanetwork_can_be_pruned(workdir: Path) -> None:
    write_toy_configs(workdir)
    main(
        [
            *ARGS,
            "--chain.methods=[none, metanetwork]",
            "--chain.held_out=1",
            "--chain.speed_ups=[2]",
            "--chain.overrides={data_models: {model.init_args.seeds: [0, 1, 2]}, "
            "curve: {finetune.epochs: 0}}",
        ]
    )
    runs = workdir / "runs" / "quickstart" / "networks"
    pruned = {
        m: yaml.safe_load((runs / f"seed_0002-{m}/prune/config.yaml").read_text())
        for m in ("none", "metanetwork")
    }
    assert pruned["metanetwork"]["network"].endswith("seed_0002-metanetwork/curve/rewritten")
    assert pruned["none"]["network"].endswith("data_models/networks/seed_0002")


PAPER = [{"table": 8, "row": "ours", "target": 2, "numbers": {"base": 93.51, "speed_up": 2.3}}]


@pytest.mark.slow
def test_three_prunings_of_one_network_beside_the_papers_numbers(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy_configs(workdir)
    initial = {"initial": {"speed_up": 1.2, "finetune": {"epochs": 1}}}
    changes = {
        "data_models": {"model.init_args.seeds": [0, 1, 2, 3], **initial},
        "meta_training": {"trainer.max_epochs": 1, "trainer.callbacks": None},
        "curve": {"finetune.epochs": 1, "grid.points": 2},
        "prune": {"finetune_after.epochs": 1},
    }
    main(
        [
            *ARGS,
            "--chain.repeats=[7, 8, 9]",
            "--chain.held_out=1",
            "--chain.validation=2",
            "--chain.methods=[metanetwork]",
            "--chain.speed_ups=[2]",
            f"--chain.paper={json.dumps(PAPER)}",
            f"--chain.overrides={json.dumps(changes)}",
        ]
    )
    runs = workdir / "runs" / "quickstart"
    stages = {path.parent: json.loads(path.read_text()) for path in runs.rglob("run.json")}
    counted = Counter(facts["command"] for facts in stages.values())
    once = {"experiment": 1, "data_models": 1, "data_model": 1, "fit": 1, "select": 1}
    assert counted == {**once, "curve": 3, "prune": 3}
    repeats = sorted((runs / "networks" / "seed_0003-metanetwork").iterdir())
    assert [path.name for path in repeats] == ["repeat_7", "repeat_8", "repeat_9"]
    for seed, path in zip((7, 8, 9), repeats, strict=True):
        for stage in ("curve", "prune"):
            settings = yaml.safe_load((path / stage / "config.yaml").read_text())
            assert settings["seed_everything"] == settings["data"]["init_args"]["seed"] == seed

    report = json.loads((runs / "report.json").read_text())
    costs = {cost["stage"]: cost["cost"]["seconds"] for cost in report["costs"]}
    pruning = [stages[path / "prune"]["cost"]["seconds"] for path in repeats]
    assert costs["pruning and finetuning, all targets"] == pytest.approx(sum(pruning) / 3)
    assert len({result["accuracy_finetuned"] for result in report["pruned"]}) > 1
    (trained,) = (runs / "data_models" / "work").glob("*/networks/seed_0003")
    base = accuracy(load_network(trained), Digits(fraction=0.2), "test", torch.device("cpu"))
    assert {result["accuracy_base"] for result in report["pruned"]} == {base}
    (row,) = report["results"]["pruned"]
    assert (row["networks"], row["prunings"], row["accuracy_base"]) == (1, 3, base)
    assert row["difference"] == pytest.approx(row["accuracy_finetuned"] - base)
    assert row["macs_pruned"] == pytest.approx(1 - 1 / row["speed_up"], abs=1e-3)
    assert row["accuracy_finetuned_top_5"] is None  # ten classes
    with (runs / "report.csv").open() as file:
        assert next(csv.reader(file)) == list(row)
    with (runs / "paper.csv").open() as file:
        beside = list(csv.DictReader(file))
    assert [(line["quantity"], float(line["paper"])) for line in beside] == [
        ("base", 93.51),
        ("speed_up", 2.3),
    ]
    assert float(beside[0]["ours"]) == pytest.approx(100 * base)
    assert float(beside[1]["difference"]) == pytest.approx(row["speed_up"] - 2.3)
    out = capsys.readouterr().out
    assert "over 3 prunings of 1 held-out network" in out and "Beside the paper's numbers" in out
    choice = report["choices"]["metanetwork"]["curves"]["epoch_001"]
    assert [curve["network"] for curve in choice] == ["seed_0001", "seed_0002"]
