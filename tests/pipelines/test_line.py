"""The line by hand: fit, fit, curve, prune on real digits, by commands at toy size."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from conftest import tiny
from metaprune_pl.__main__ import main
from metaprune_pl.data import Digits
from metaprune_pl.graphs import trace
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.networks import (
    create_network,
    load_network,
    read_card,
)
from metaprune_pl.networks.widths import narrow_layers
from metaprune_pl.pruning import count_macs, count_parameters
from metaprune_pl.reports import Curve, Experiment, Pruned
from metaprune_pl.reports.tables import experiment_tables
from metaprune_pl.reports.writing import read_report
from metaprune_pl.stages.accuracy import accuracy, accuracy_before

RUNS = Path("runs/quickstart")


@pytest.fixture
def runs(line: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(line)
    return RUNS


def test_each_seed_is_stored_with_its_facts(runs: Path) -> None:
    for seed in range(5):
        card = read_card(runs / "data_models" / "networks" / f"seed_{seed:04d}")
        assert card.record["seed"] == seed and 0 <= card.record["validation_accuracy"] <= 1
        assert (card.settings.builder, card.input_shape) == ("cifar_resnet", (1, 8, 8))


def test_the_metanetwork_is_stored_after_each_epoch(runs: Path) -> None:
    folders = sorted(path.name for path in (runs / "meta_training" / "metanetworks").iterdir())
    assert folders == ["epoch_001", "epoch_002"]
    cards = [
        runs / "meta_training" / "metanetworks" / name / "metanetwork.json" for name in folders
    ]
    engines = {json.loads(card.read_text())["record"]["engine"] for card in cards}
    assert engines == {"plain"}  # too small for the C++ engine, wherever its library lies
    pruned = read_card(runs / "prune" / "speed_up_2" / "network")
    assert pruned.record["engine"] == "plain"
    first, last = (
        load_metanetwork(runs / "meta_training" / "metanetworks" / name) for name in folders
    )
    newest = load_metanetwork(runs / "meta_training" / "metanetworks")
    values = [dict(m.named_parameters())["layers.0.sender.0.weight"] for m in (first, last, newest)]
    assert torch.equal(values[1], values[2]) and not torch.equal(values[0], values[1])


@pytest.mark.parametrize("stage", ["data_models/work/*", "meta_training", "prune/finetuned"])
def test_checkpoints_load_without_unpickling_code(stage: str, runs: Path) -> None:
    (path,) = runs.glob(f"{stage}/checkpoints/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["state_dict"] and checkpoint["optimizer_states"]


def test_the_curve_is_written_as_json_csv_and_picture(runs: Path) -> None:
    curve = Curve.from_json(runs / "curve" / "curve.json")
    assert (curve.method, curve.network, curve.split, len(curve.points)) == (
        "metanetwork",
        "seed_0003",
        "test",
        4,
    )
    speed_ups = [point.speed_up for point in curve.points]
    assert speed_ups[0] == pytest.approx(1) and all(
        s >= g for s, g in zip(speed_ups, (1, 1.66, 2.33, 3), strict=True)
    )
    with (runs / "curve" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [point.accuracy for point in curve.points]
    assert (runs / "curve" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_shows_the_curve_and_the_results(runs: Path) -> None:
    curve = Curve.from_json(runs / "curve" / "curve.json")
    events = EventAccumulator(str(runs / "curve"))
    events.Reload()
    scalars = events.Scalars("accuracy_over_speed_up_percent")
    assert [event.step for event in scalars] == [
        round(100 * point.speed_up) for point in curve.points
    ]
    assert [event.value for event in scalars] == pytest.approx(
        [point.accuracy for point in curve.points]
    )
    assert "accuracy over speed-up" in events.Tags()["images"]
    assert {"finetuned/train/loss", "finetuned/lr-SGD"} <= set(events.Tags()["scalars"])
    training = EventAccumulator(str(runs / "data_models"))
    training.Reload()
    (work,) = (path.name for path in (runs / "data_models" / "work").iterdir())
    names = {f"work/{work}/{name}" for name in ("train/loss", "val/accuracy")}
    assert names <= set(training.Tags()["scalars"])
    rows = sorted(path.name for path in (runs / "prune" / "tensorboard").iterdir())
    assert rows == ["speed_up_2", "speed_up_3"]
    row = EventAccumulator(str(runs / "prune" / "tensorboard" / "speed_up_2"))
    row.Reload()
    names = {"test_accuracy_finetuned", "difference", "macs_pruned", "milliseconds_batch_1"}
    assert {f"result/{name}" for name in names} <= set(row.Tags()["scalars"])
    assert "_hparams_/session_start_info" in row.PluginTagToContent("hparams")


def measured_accuracy(folder: Path) -> float:
    return accuracy(load_network(folder), Digits(), "test", torch.device("cpu"))


def test_the_report_tells_what_the_stored_networks_are(runs: Path) -> None:
    results = json.loads((runs / "prune" / "report.json").read_text())
    given = runs / "data_models" / "networks" / "seed_0003"
    assert {result["accuracy_given"] for result in results} == {measured_accuracy(given)}
    assert {result["accuracy_before"] for result in results} == {
        measured_accuracy(runs / "prune/finetuned/network")
    }
    assert [result["target"] for result in results] == [2, 3]
    unpruned = load_network(given)
    example = torch.zeros(1, 1, 8, 8)
    for result in results:
        network = load_network(runs / "prune" / f"speed_up_{result['target']:g}" / "network")
        assert (
            result["speed_up"]
            == count_macs(unpruned, example) / count_macs(network, example)
            >= result["target"]
        )
        assert result["parameters"] == count_parameters(network)
        folder = runs / "prune" / f"speed_up_{result['target']:g}"
        assert not (folder / "pruned").exists()  # one network is left of each target
        assert result["accuracy_finetuned"] == measured_accuracy(folder / "network")
        assert set(result["latency"]) == {"1", "256"} and min(result["latency"].values()) > 0
        assert (
            result["latency_unpruned"] == results[0]["latency_unpruned"]
        )  # measured in turn with all results


def test_a_network_that_guesses_and_layers_with_hardly_a_channel_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments = {"depth": 8, "width": 4, "num_classes": 10, "in_channels": 1}
    network = create_network("cifar_resnet", seed=0, **arguments).eval()
    nn.init.zeros_(network.get_parameter("fc.weight"))
    before = accuracy_before(network, network, {}, Digits(), torch.device("cpu"))
    given = before.given
    assert before.base.top_1 == given == before.ready < 0.12
    assert f"classifies {100 * given:.1f} % of the test images, hardly better" in caplog.text
    wide, narrow = (nn.Sequential(nn.Linear(8, width), nn.Linear(width, 10)) for width in (64, 6))
    assert narrow_layers(wide, narrow) == "'0' (6 of 64 channels)"
    assert narrow_layers(wide, nn.Sequential(nn.Linear(8, 7), nn.Linear(7, 10))) == ""


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_breaks_no_word_and_no_number(runs: Path, width: int) -> None:
    results = read_report(runs / "prune", Pruned)
    tables = experiment_tables(Experiment(pruned=results))
    for grid in [Pruned.table(results), Pruned.table([*results, *results]), *tables]:
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(grid)
        printed = console.export_text()
        assert max(map(len, printed.splitlines())) <= width
        texts = [*grid.columns, *(cell for row in grid.rows for cell in row)]
        assert all(word in printed for text in texts for word in text.split())


def test_a_pruned_network_is_pruned_further_and_not_as_far_as_it_is(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    flags = [
        f"--network={runs}/prune/speed_up_2/network",
        "--metanetwork=null",
        "--finetune.epochs=0",
    ]
    prune = tiny("prune prune", *flags, "--finetune_after.epochs=0", "--latency_batches=[]")
    with pytest.raises(SystemExit):
        main([*prune, "--speed_ups=[2, 3]", f"--trainer.default_root_dir={tmp_path}/again"])
    assert re.search(
        r"error: speed-up 2x: the network is at 2\.\d\dx already\. Speed-ups",
        capsys.readouterr().err,
    )
    assert not (tmp_path / "again").exists()
    main([*prune, "--speed_ups=[3]", f"--trainer.default_root_dir={tmp_path}/further"])
    assert "speed-ups count from the network before any pruning" in caplog.text
    assert json.loads((tmp_path / "further" / "report.json").read_text())[0]["speed_up"] >= 3


def test_each_network_is_one_point_of_a_curve(runs: Path, tmp_path: Path) -> None:
    grid = [
        "--grid.points=40",
        "--grid.max_speed_up=1.3",
        "--finetune.epochs=0",
        "--metanetwork=null",
    ]
    main(tiny("curve curve", *grid, f"--trainer.default_root_dir={tmp_path}/curve"))
    macs = [point.macs for point in Curve.from_json(tmp_path / "curve" / "curve.json").points]
    assert len(macs) < 40 and macs == sorted(
        set(macs), reverse=True
    )  # 4 channels have not so many widths


def test_a_pruned_network_gives_the_recorded_accuracy_in_a_new_process(runs: Path) -> None:
    code = (
        "import sys, torch; from metaprune_pl.networks import load_network, read_card\n"
        "from metaprune_pl.data import Digits\n"
        "network = load_network(sys.argv[1]); data = Digits()\n"
        "hits = [(network(x).argmax(1) == y) for x, y in data.evaluation('test', "
        "torch.device('cpu'))]\n"
        "print(torch.cat(hits).sum().item() / 400, read_card(sys.argv[1]).record['test_accuracy'])"
    )
    folder = str(runs / "prune" / "speed_up_2" / "network")
    result = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    )
    measured, recorded = result.stdout.split()
    assert measured == recorded


def test_test_and_validate_evaluate_a_stored_network(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs / "prune" / "speed_up_2" / "network"
    model = [
        "--model=Finetuning",
        f"--model.network={folder}",
        "--model.optimizer={}",
        "--data=Digits",
    ]
    main(["test", *model, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"])
    recorded = read_card(folder).record["test_accuracy"]
    printed = re.search(r"test/accuracy\s+│\s+([\d.]+)", capsys.readouterr().out)
    assert printed is not None and float(printed[1]) == pytest.approx(recorded)


def test_finished_runs_are_not_run_again(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    for stage in ("data_models data", "fit meta", "curve curve", "prune prune"):
        main(tiny(stage))
        assert "is finished; it is not run again" in capsys.readouterr().err.replace("\n", " ")
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()} == before


def test_the_saved_config_is_the_run(runs: Path) -> None:
    config = yaml.safe_load((runs / "prune" / "config.yaml").read_text())
    assert config["finetune_after"]["epochs"] == 2 and config["speed_ups"] == [2.0, 3.0]


def test_another_data_model_makes_it_another_run(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(tiny("curve curve", "--network=runs/quickstart/data_models/networks/seed_0004"))
    assert "holds another run" in capsys.readouterr().err


def test_inspect_answers_in_text_and_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(runs / "data_models" / "networks" / "seed_0000")
    main(["inspect", folder])
    assert "layer1.0.conv1" in capsys.readouterr().out
    main(["inspect", folder, "--json"])
    found = json.loads(capsys.readouterr().out)
    network = load_network(folder)
    graph = trace(network, torch.zeros(1, 1, 8, 8))
    assert (found["neurons"], found["edges"]) == (graph.num_nodes, graph.num_edges)
    assert (found["covered"], found["outside"], list(found["stays"])) == (1.0, {}, ["input", "fc"])
    assert sum(group["units"] for group in found["groups"]) == 4 + 4 + 8 + 8 + 16 + 16


def test_inspect_says_how_far_a_network_is_pruned(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs / "prune" / "speed_up_2" / "network"
    main(["inspect", str(folder)])
    assert (
        f"{read_card(folder).record['speed_up']:.2f}x; `prune` counts from"
        in capsys.readouterr().out
    )


def test_a_network_by_name_is_finetuned(workdir: Path) -> None:
    network = "network: cifar_resnet, arguments: {depth: 8, width: 4}"
    model = f"{{class_path: Finetuning, init_args: {{{network}, optimizer: {{lr: 0.1}}}}}}"
    main(
        [
            "fit",
            "--data=Digits",
            f"--model={model}",
            "--trainer.max_epochs=1",
            "--trainer.accelerator=cpu",
        ]
    )
    card = read_card("runs/unnamed/network")
    assert (card.input_shape, card.settings.arguments["num_classes"]) == ((1, 8, 8), 10)
    start = create_network("cifar_resnet", seed=0, **card.settings.arguments)
    assert not torch.equal(load_network("runs/unnamed/network").conv1.weight, start.conv1.weight)


def test_a_network_by_name_with_a_state_is_pruned_like_a_stored_one(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = load_network(runs / "data_models" / "networks" / "seed_0004")
    monkeypatch.chdir(tmp_path)
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in stored.state_dict().items()}},
        "state.pth",
    )
    by_name = [
        "--network=cifar_resnet",
        "--arguments={depth: 8, width: 4}",
        "--state=state.pth",
        "--metanetwork=null",
    ]
    main(
        tiny(
            "prune prune",
            *by_name,
            "--finetune.epochs=0",
            "--finetune_after.epochs=0",
            "--speed_ups=[2]",
        )
    )
    source = tmp_path / "runs/quickstart/prune/source"
    assert read_card(source).settings.arguments == {
        "depth": 8,
        "width": 4,
        "num_classes": 10,
        "in_channels": 1,
    }
    assert torch.equal(load_network(source)(torch.ones(1, 1, 8, 8)), stored(torch.ones(1, 1, 8, 8)))
    (result,) = json.loads((tmp_path / "runs/quickstart/prune/report.json").read_text())
    assert result["network"] == "cifar_resnet" and result["speed_up"] >= 2
