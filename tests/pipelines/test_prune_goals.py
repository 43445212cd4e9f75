"""`prune` to what a person wants: a size, an accuracy, further targets; what it leaves behind."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from metaprune_pl.__main__ import main
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.pruning import count_parameters
from metaprune_pl.reports import Pruned
from metaprune_pl.reports.writing import read_report

NET = ["--arguments={depth: 8, width: 8}", "--data=Digits", "--finetune.epochs=0"]
QUICK = [*NET, "--latency_batches=[1]", "--trainer.enable_progress_bar=false"]
PRUNE = ["prune", "cifar_resnet", *QUICK]


def report(folder: str) -> list[dict]:
    results: list[dict] = json.loads(Path(folder, "report.json").read_text())
    return results


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one target, to which another was added."""
    folder = tmp_path_factory.mktemp("goals")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main([*PRUNE, "--finetune_after.epochs=1", "--speed_up=1.5"])
        before = Path("runs/cifar_resnet_pruned/speed_up_1.5/result.json").stat().st_mtime_ns
        main([*PRUNE, "--finetune_after.epochs=1", "--speed_ups=1.5,2"])
        after = Path("runs/cifar_resnet_pruned/speed_up_1.5/result.json").stat().st_mtime_ns
    assert before == after  # what was there is not made again
    return folder / "runs" / "cifar_resnet_pruned"


def test_another_target_is_added_to_a_finished_run(run: Path) -> None:
    assert [row["target"] for row in report(str(run))] == [1.5, 2.0]
    assert json.loads((run / "report.old-1" / "report.json").read_text())[0]["target"] == 1.5


@pytest.fixture
def copied(run: Path, workdir: Path) -> Path:
    """The same run, in the current folder."""
    shutil.copytree(run, "runs/cifar_resnet_pruned")
    return Path("runs/cifar_resnet_pruned")


def damage(file: Path, content: str | None) -> None:
    """Remove a file, or write something else to it."""
    file.unlink() if content is None else file.write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "targets"),
    [
        ("network/weights.safetensors", None, "1.5,2"),
        ("network/weights.safetensors", "half", "1.5,2,3"),
        ("network/network.json", "{}", "1.5,2"),
        ("result.json", "[]", "1.5,2,3"),
    ],
)
def test_a_damaged_target_is_told_before_another_is_made(
    name: str, content: str | None, targets: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copied / "speed_up_2" / name, content)
    with pytest.raises(SystemExit):
        main([*PRUNE, "--finetune_after.epochs=1", f"--speed_ups={targets}"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"Remove '{copied}/speed_up_2', and the same command makes it again." in error
    assert not (copied / "speed_up_3").exists()


def test_a_target_that_was_removed_is_made_again(copied: Path) -> None:
    shutil.rmtree(copied / "speed_up_2")
    main([*PRUNE, "--finetune_after.epochs=1", "--speed_ups=1.5,2"])
    assert read_card(copied / "speed_up_2" / "network").record["speed_up"] >= 2


@pytest.mark.parametrize("content", [None, "[{", "[]"])
def test_a_damaged_report_is_made_anew(
    content: str | None, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied / "speed_up_2/result.json").stat().st_mtime_ns
    damage(copied / "report.json", content)
    main([*PRUNE, "--finetune_after.epochs=1", "--speed_ups=1.5,2"])
    assert [row["target"] for row in report(str(copied))] == [1.5, 2.0]
    assert (copied / "speed_up_2/result.json").stat().st_mtime_ns == before
    assert "other settings" not in capsys.readouterr().err


def test_one_network_of_each_target_is_left(run: Path) -> None:
    networks = {str(path.parent.relative_to(run)) for path in run.rglob("network.json")}
    assert networks == {"source", "speed_up_1.5/network", "speed_up_2/network"}
    assert not list(run.rglob("*.ckpt"))


def test_what_images_are_made_of_travels_with_the_network(run: Path) -> None:
    told = read_card(run / "speed_up_2" / "network").preprocessing
    assert told is not None and told.classes == list("0123456789") and len(told.mean) == 1


def test_the_page_loads_nothing_and_has_the_numbers_of_the_report(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "http" not in page and "<script" not in page and "src=" not in page
    ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    text = (run / "report.md").read_text()
    for row in report(str(run)):
        for told in (page, text):
            assert f"{100 * row['accuracy_finetuned']:.2f}" in told
            assert f"{row['speed_up']:.2f}x" in told
            for before, after in row["widths"].values():
                assert f"{after} of {before}" in page
    assert f"metaprune prune --config {run.relative_to(run.parents[1])}/config.yaml" in page


def test_a_size(workdir: Path) -> None:
    main([*PRUNE, "--finetune_after.epochs=0", "--size=40KB", "--out=run"])
    (row,) = report("run")
    network = load_network(f"run/speed_up_{row['target']:g}/network")
    size = 4 * count_parameters(network)
    assert 30_000 < size <= 40_000
    assert f"{size / 1000:.2f} kB" in Path("run/report.md").read_text()


def test_the_largest_speed_up_that_keeps_the_accuracy(
    workdir: Path,
) -> None:
    main([*PRUNE, "--finetune_after.epochs=1", "--max_drop=60%", "--goal.trials=3", "--out=run"])
    (row,) = report("run")
    trials = json.loads(Path("run/trials.json").read_text())
    given = trials.pop("1")
    kept = [float(speed_up) for speed_up, value in trials.items() if value >= given - 0.6]
    assert row["target"] == max(kept) and len(trials) == 3


def test_a_time(workdir: Path) -> None:
    main([*PRUNE, "--finetune_after.epochs=0", "--latency=0.8", "--latency_batch=128", "--out=run"])
    (row,) = report("run")
    assert row["target"] == 1.25 and row["macs"] > 0
    assert Path("run/speed_up_1.25/network/network.json").is_file()


def test_a_time_is_one_number_in_what_it_was_asked_in(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--finetune_after.epochs=0", "--repair=null", "--latency=0.8", "--out=run"]
    main([*PRUNE, *quick, "--runtime=onnx", "--latency_batch=128"])
    (row,) = report("run")
    times = row["latency_unpruned"]["128"], row["latency"]["128"]
    assert row["speed_up"] == times[0] / times[1] and row["runtime"] == "ONNX Runtime"
    output = capsys.readouterr()
    counted = "milliseconds, batch 128 in ONNX Runtime"
    assert f"{row['speed_up']:.2f}x in {counted}, batch 1 " in output.err
    assert "1.25x is 0.8 of the unpruned network's" in output.out
    assert "cifar_resnet to 0.8 of the time, before the training" in output.out
    assert "ms here, batch 1 in ONNX Runtime" in output.out
    results = read_report(Path("run"), Pruned)
    assert Pruned.table(results).columns[-1] == "ms, batch 128 in ONNX Runtime"
