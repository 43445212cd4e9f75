"""Statistics, repair and choice of a plan, through the command line at toy size."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny
from metaprune_pl.__main__ import main
from metaprune_pl.data import Digits
from metaprune_pl.networks import load_network
from metaprune_pl.pipelines import pruning_loop
from metaprune_pl.pruning import recalibrate
from metaprune_pl.stages.accuracy import accuracy

CPU = torch.device("cpu")
UNTRAINED = ["--metanetwork=null", "--finetune.epochs=0", "--finetune_after.epochs=0"]
DEFAULT = [*UNTRAINED, "--network=trained/finetuned/network", "--latency_batches=[1]"]
STATISTICS = "--statistics={images: 200}"
REPAIR = "--repair={images: 200}"
FEW = "{rankings: [uniform], ceilings: [0.75], random: 1, images: 100}"
Rows = list[dict[str, Any]]


def run(name: str, *flags: str) -> Rows:
    """Prune without any training unless flags say so, and give the report."""
    main(tiny("prune prune", *DEFAULT, *flags, f"--trainer.default_root_dir={name}"))
    return json.loads(Path(name, "report.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def runs(line: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Rows]]:
    """Train a network and prune it, without any training, in several ways."""
    folder, before = tmp_path_factory.mktemp("recovery"), Path.cwd()
    stored = line / "runs" / "quickstart"
    os.chdir(folder)
    try:
        os.symlink(line / "runs", "runs")
        network = f"--network={stored / 'data_models' / 'networks' / 'seed_0002'}"
        run("trained", network, "--finetune.epochs=8", "--speed_ups=[2]")
        ways = {"default": [], "stale": ["--statistics=stale"], "now": [STATISTICS]}
        reports = {name: run(name, *flags) for name, flags in ways.items()}
        yield {**reports, "repaired": run("repaired", REPAIR)}
    finally:
        os.chdir(before)


@pytest.fixture(autouse=True)
def _there(runs: dict[str, Rows]) -> None:
    """Have each test start after the runs, in their folder."""


def weights(*parts: str) -> dict[str, torch.Tensor]:
    return dict(load_network(Path(*parts)).state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def images(data: Digits) -> list[torch.Tensor]:
    order = data.sample("train", 200)
    return [batch for batch, _ in data.evaluation("train", CPU, order)]


def test_statistics_are_those_of_training_images(runs: dict[str, Rows]) -> None:
    data = Digits(batch_size=50)
    assert sum(map(len, images(data))) == 200
    ways = (runs[name] for name in ("default", "stale", "now"))
    for default, stale, now in zip(*ways, strict=True):
        assert default["accuracy_stale"] is None
        assert default["accuracy_pruned"] == stale["accuracy_pruned"] == now["accuracy_stale"]
        name = f"speed_up_{stale['target']:g}"
        network, found = (
            load_network(Path("stale", name, "network")),
            weights("now", name, "network"),
        )
        assert accuracy(network, data, "test", CPU) == stale["accuracy_pruned"]
        recalibrate(network, images(data))
        assert same(dict(network.state_dict()), found)
        assert accuracy(network, data, "test", CPU) == now["accuracy_pruned"]
        assert now["accuracy_finetuned"] == now["accuracy_pruned"] > stale["accuracy_pruned"]
        first = network.get_submodule("conv1")(torch.cat(images(data))).double()
        torch.testing.assert_close(found["bn1.running_mean"].double(), first.mean((0, 2, 3)))


def test_a_training_that_only_harms_is_thrown_away_and_told(runs: dict[str, Rows]) -> None:
    harm = ["--finetune_after.epochs=1", "--finetune_after.optimizer.lr=5"]
    (row,) = run("harmed", STATISTICS, "--speed_ups=[2]", *harm, "--finetune_after.keep=best")
    assert row["accuracy_finetuned"] == row["accuracy_pruned"] and not row["training_kept"]
    assert "2x: no epoch of the training after pruning" in Path("harmed/report.md").read_text()
    assert runs["default"][0]["training_kept"]  # there was none to throw away


def test_repair_beats_statistics_and_serves_every_budget(runs: dict[str, Rows]) -> None:
    trained = run("tenth", REPAIR, STATISTICS, "--finetune_after.epochs=1")
    for now, repaired, tenth in zip(runs["now"], runs["repaired"], trained, strict=True):
        assert now["accuracy_stale"] == repaired["accuracy_stale"]
        assert now["accuracy_pruned"] <= repaired["accuracy_pruned"]
        assert repaired["accuracy_finetuned"] == repaired["accuracy_pruned"]
        assert repaired["accuracy_pruned"] == tenth["accuracy_pruned"]
        assert tenth["accuracy_pruned"] != tenth["accuracy_finetuned"]
        name = f"speed_up_{now['target']:g}"
        before, after = (weights(way, name, "network") for way in ("stale", "repaired"))
        statistics = [key for key in before if "running" in key]
        assert all(torch.equal(before[key], after[key]) for key in statistics)
        assert not torch.equal(before["fc.weight"], after["fc.weight"])


def test_what_is_interrupted_ends_as_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--repair={images: 40}", "--finetune_after.epochs=1", f"--choice={FEW}"]
    finish, calls = pruning_loop._trained, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return finish(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pruning_loop, "_trained", interrupted)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run("resumed", *flags)
    for row, other in zip(run("whole", *flags), run("resumed", *flags), strict=True):
        assert row["accuracy_finetuned"] == other["accuracy_finetuned"]
        name = f"speed_up_{row['target']:g}"
        assert same(*(weights(way, name, "network") for way in ("whole", "resumed")))


def test_the_plan_is_chosen_that_is_best_on_validation_images() -> None:
    more = FEW.replace("{", "{criteria: [{class_path: Elimination}], ").replace("100", "1000")
    rows = run("chosen", STATISTICS, f"--choice={more}")
    assert {row["plan"].partition(",")[0] for row in rows} <= {
        "magnitude over max",
        "magnitude over mean",
        "elimination over mean",
    }
    data = Digits(batch_size=50)
    for name in ("speed_up_2", "speed_up_3"):
        one, other = (load_network(Path(way, name, "network")) for way in ("now", "chosen"))
        reached = accuracy(other, data, "validation", CPU)
        assert accuracy(one, data, "validation", CPU) <= reached


def test_masks_are_repaired_within_their_zeros() -> None:
    flags = ["--masks.sparsities=[0.7]", "--criterion.normalize=none"]
    (stale,), (repaired,) = run("masked", *flags), run("mask_repair", *flags, REPAIR)
    assert repaired["accuracy_stale"] == stale["accuracy_masked"] < repaired["accuracy_masked"]
    before, after = (weights(way, "masked_0.7", "network") for way in ("masked", "mask_repair"))
    assert all(bool((after[name][before[name] == 0] == 0).all()) for name in before)


def test_curves_have_the_same_networks(runs: dict[str, Rows]) -> None:
    flags = ["--grid.points=2", "--grid.split=test", "--network=trained/finetuned/network"]
    main(tiny("curve curve", *flags, *UNTRAINED[:2], REPAIR, "--trainer.default_root_dir=curve"))
    curve = json.loads(Path("curve", "curve.json").read_text())
    assert curve["points"][-1]["accuracy"] == runs["repaired"][-1]["accuracy_pruned"]


def test_a_rewritten_network_has_statistics_of_its_own() -> None:
    metanetwork = "--metanetwork=runs/quickstart/meta_training/metanetworks"
    run("rewritten_now", metanetwork, STATISTICS, "--speed_ups=[2]")
    run("rewritten_stale", metanetwork, "--speed_ups=[2]")
    network = load_network(Path("rewritten_stale", "rewritten"))
    recalibrate(network, images(Digits(batch_size=50)))
    assert same(dict(network.state_dict()), weights("rewritten_now", "rewritten"))


def test_budgeted_training_is_a_control() -> None:
    flags = ["--budgeted={max_speed_up: 3}", "--finetune.epochs=1", "--speed_ups=[2]"]
    for name, weight in (("budgeted", 0.5), ("distilled", 0.9)):
        (row,) = run(name, *flags, f"--finetune.distillation={{weight: {weight}}}")
        assert row["method"] == "budgeted"
    given, one, other = (
        weights(way, "finetuned", "network") for way in ("trained", "budgeted", "distilled")
    )
    assert len({float(state["fc.weight"].sum()) for state in (given, one, other)}) == 3


@pytest.mark.slow
@pytest.mark.ddp
def test_two_devices_give_what_one_gives() -> None:
    flags = [STATISTICS, f"--choice={FEW}", "--data.init_args.eval_batch_size=50"]
    one, two = run("one", *flags), ["--trainer.devices=2", "--trainer.strategy=ddp", *flags]
    command = tiny("prune prune", *DEFAULT, *two, "--trainer.default_root_dir=two")
    done = subprocess.run(
        [sys.executable, "-m", "metaprune_pl", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for row, other in zip(one, json.loads(Path("two/report.json").read_text()), strict=True):
        assert (row["plan"], row["accuracy_pruned"]) == (other["plan"], other["accuracy_pruned"])
        name = f"speed_up_{row['target']:g}"
        mine, theirs = (weights(way, name, "network") for way in ("one", "two"))
        for key, value in mine.items():
            torch.testing.assert_close(value, theirs[key], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("criterion", ["Energy", "Elimination", "UnitTaylor"])
def test_importances_of_images_are_criteria(criterion: str) -> None:
    (row,) = run(criterion, f"--criterion={criterion}", STATISTICS, "--speed_ups=[2]")
    assert row["speed_up"] >= 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([REPAIR, "--pruning.pruner=depgraph"], "set both to null"),
        (["--budgeted={}", "--metanetwork=somewhere"], "they are two methods"),
        (["--choice={}", "--masks.sparsities=[0.5]"], "plans are of channels"),
        (["--statistics={images: 0}"], "at least 1"),
        (["--repair={images: 3}"], "at least 4"),
    ],
)
def test_what_does_not_go_together_is_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("refused", *flags)
    assert message in capsys.readouterr().err
