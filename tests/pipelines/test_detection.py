"""Detection through the command line at toy size.

Train, prune the backbone 2.5x with and without metanetwork, mAP.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import QUIET
from helpers import masked_logits
from metaprune_pl.__main__ import main
from metaprune_pl.data import VOC
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.pruning import Magnitude, PruningSettings, plan, prunable_groups
from metaprune_pl.reports import Detected, read_json
from metaprune_pl.reports.writing import read_report
from metaprune_pl.stages import DetectorTraining
from metaprune_pl.stages.task_training import task_scores
from metaprune_pl.stages.tasks import Detection
from scenes import draw_voc

pytestmark = pytest.mark.slow
EXAMPLE = torch.zeros(1, 3, 128, 128)
SETTINGS = """
seed_everything: 1
trainer: {accelerator: cpu, gradient_clip_val: 10.0}
data: {class_path: VOC, init_args: {root: drawn, batch_size: 4, workers: 0, validation_share: 0.2}}
detection:
  arguments:           # a deep stem has 3x3 kernels only, which the quickstart's metanetwork reads
    {backbone: timm/resnet18, channels: [8, 16, 24, 32], layers: [1, 1, 1, 1],
    stem_type: deep, stem_width: 8, min_size: 128, max_size: 192,
    anchor_sizes: [32, 40, 44, 48, 52], head_width: 32}
  statistics: stale
  training: {epochs: 4, optimizer: {name: adamw, lr: 0.003, schedule: constant}}
  finetune: {epochs: 1, optimizer: {name: adamw, lr: 0.001, schedule: constant}}
  finetune_after: {epochs: 1, optimizer: {name: adamw, lr: 0.001, schedule: constant}}
"""


def detect(folder: str, line: Path, *flags: str) -> list[Detected]:
    """Run with a metanetwork that has learnt from classifiers."""
    metanetwork = line / "runs" / "quickstart" / "meta_training" / "metanetworks"
    main(
        [
            "detect",
            "--config=detection.yaml",
            f"--trainer.default_root_dir={folder}",
            f"--detection.metanetwork={metanetwork}",
            *QUIET,
            *flags,
        ]
    )
    return [Detected(**row) for row in read_json(Path(folder, "report.json"))]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detection")
    draw_voc(folder / "drawn", trainval=16, test=6)
    (folder / "detection.yaml").write_text(SETTINGS)
    return folder


@pytest.fixture(scope="module")
def whole(drawn: Path, line: Path) -> list[Detected]:
    """A run that nobody interrupts, in the folder `whole`."""
    before = Path.cwd()
    os.chdir(drawn)
    try:
        return detect("whole", line)
    finally:
        os.chdir(before)


@pytest.fixture(autouse=True)
def _there(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(drawn)
    yield


def average_precision(detector: nn.Module, data: VOC) -> tuple[float, ...]:
    return tuple(task_scores(detector, Detection(), data, torch.device("cpu")))


def loss_of(detector: nn.Module) -> float:
    """Loss on all training images; the choice of proposals is always the same."""
    data, total = VOC(root="drawn", validation_share=0.2, workers=0), 0.0
    torch.manual_seed(0)
    with torch.no_grad():
        for images, targets in data.evaluation("train", torch.device("cpu")):
            total += float(sum(detector.train()(images, targets).values()))
    return total


def backbone_macs(detector: nn.Module) -> int:
    """Multiply-accumulates of the backbone, counted layer by layer from the outputs."""
    total = 0

    def add(module: nn.Conv2d, inputs: Any, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    backbone = detector.get_submodule("backbone")
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)  # type: ignore[arg-type]
    with torch.no_grad():
        backbone(EXAMPLE)
    return total


def test_training_lowers_the_loss_and_all_are_in_the_report(whole: list[Detected]) -> None:
    assert loss_of(load_network("whole/trained/network")) < 0.7 * loss_of(
        load_network("whole/source")
    )
    assert [(d.method, d.target) for d in whole] == [
        ("origin", 1.0),
        ("none", 2.5),
        ("metanetwork", 2.5),
    ]
    assert all(0 <= d.average_precision <= d.average_precision_50 <= 1 for d in whole)
    assert Path("whole/report.csv").is_file()
    trained, rewritten = (
        load_network(f"whole/{name}").state_dict()
        for name in ("trained/network", "metanetwork/rewritten")
    )
    changed = {name for name, value in trained.items() if not torch.equal(value, rewritten[name])}
    assert changed and all(name.startswith("backbone.") for name in changed)


def test_backbones_are_2_5_times_as_fast_by_another_count(whole: list[Detected]) -> None:
    unpruned = backbone_macs(load_network("whole/trained/network"))
    for result in whole[1:]:
        pruned = backbone_macs(load_network(f"whole/{result.method}/speed_up_2.5/network"))
        assert unpruned / pruned == pytest.approx(result.speed_up)
        assert unpruned / pruned >= 2.5
        assert result.macs == pruned


@pytest.mark.parametrize("method", ["none", "metanetwork"])
def test_pruned_is_masked(whole: list[Detected], method: str) -> None:
    dense = load_network(f"whole/{method}/finetuned/network").get_submodule("backbone")
    pruned = load_network(f"whole/{method}/speed_up_2.5/pruned").get_submodule("backbone")
    groups = prunable_groups(dense, EXAMPLE)
    (kept,) = plan(
        groups, dense.state_dict(), Magnitude(), PruningSettings(), [whole[0].macs / 2.5]
    )
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        after = pruned(images)
        assert after.shape[1] == 32
        assert torch.allclose(after, masked_logits(dense, groups.graph, kept, images), atol=1e-4)


def test_the_precision_in_the_report_is_the_stored_detectors(whole: list[Detected]) -> None:
    data = VOC(root="drawn", workers=0)
    stored = load_network("whole/none/speed_up_2.5/network")
    assert average_precision(stored, data) == (
        whole[1].average_precision,
        whole[1].average_precision_50,
    )
    assert read_card("whole/none/speed_up_2.5/network").record["speed_up"] == whole[1].speed_up


class Knowing(nn.Module):
    """A detector that is told all objects."""

    def __init__(self, data: VOC) -> None:
        super().__init__()
        self.answers = [
            target
            for batch in data.evaluation("test", torch.device("cpu"))
            for target in batch.targets
        ]

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        told, self.answers = self.answers[: len(images)], self.answers[len(images) :]
        return [
            {"boxes": t["boxes"], "labels": t["labels"], "scores": torch.ones(len(t["labels"]))}
            for t in told
        ]


def test_frozen_statistics_and_layers_of_a_backbone_are_of_now(
    whole: list[Detected], line: Path
) -> None:
    steps = ("training", "finetune", "finetune_after")
    flags = [f"--detection.{step}.epochs=0" for step in steps]
    flags += ["--detection.network=whole/trained/network", "--detection.arguments={}"]
    flags += ["--detection.metanetwork=null"]
    detect("stale", line, *flags)
    detect("now", line, *flags, "--detection.statistics={images: 8}")
    detect("repaired", line, *flags, "--detection.repair={images: 8}")
    for result in read_report(Path("now"), Detected)[1:]:
        stored = load_network("stale/none/speed_up_2.5/network")
        assert result.average_precision_stale == average_precision(stored, VOC(root="drawn"))[0]
    stale, now, repaired = (
        load_network(f"{way}/none/speed_up_2.5/network") for way in ("stale", "now", "repaired")
    )
    changed = {
        way: {
            name
            for name, value in stale.state_dict().items()
            if not torch.equal(value, other.state_dict()[name])
        }
        for way, other in (("now", now), ("repaired", repaired))
    }
    assert {name.rpartition(".")[2] for name in changed["now"]} == {"running_mean", "running_var"}
    assert {name.rpartition(".")[2] for name in changed["repaired"]} == {"weight"}
    assert all(name.startswith("backbone.") for names in changed.values() for name in names)
    kinds = [[type(module) for module in network.modules()] for network in (stale, now)]
    assert kinds[0] == kinds[1]


def test_who_knows_all_objects_has_a_precision_of_one() -> None:
    data = VOC(root="drawn", workers=0, eval_batch_size=4)
    assert average_precision(Knowing(data), data) == (1.0, 1.0)


class Killed(BaseException):
    """Not an error that anything would handle."""


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_is_not(
    whole: list[Detected], line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = DetectorTraining.training_step
    for steps in (
        5,
        11,
        10,
    ):  # in the training, in the finetuning without and in the last with a metanetwork
        count = 0

        def dying(self: Any, batch: Any, batch_idx: int, steps: int = steps) -> Any:
            nonlocal count
            count += 1
            if count > steps:
                raise Killed
            return step(self, batch, batch_idx)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(DetectorTraining, "training_step", dying)
            detect("stopped", line)
    again = detect("stopped", line)
    for one, other in zip(whole, again, strict=True):
        assert (one.average_precision, one.average_precision_pruned, one.macs) == (
            other.average_precision,
            other.average_precision_pruned,
            other.macs,
        )
    for path in ("none/speed_up_2.5/network", "metanetwork/speed_up_2.5/network"):
        one, other = (load_network(f"{run}/{path}").state_dict() for run in ("whole", "stopped"))
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_finished_run_is_found_again(
    whole: list[Detected],
    line: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(DetectorTraining, "training_step", None)
    assert detect("whole", line) == whole
    assert "whole is finished; it is not run again" in capsys.readouterr().err


@pytest.mark.ddp
def test_two_devices_train_one_detector() -> None:
    flags = [
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        "--data.init_args.batch_size=2",
        "--detection.training.epochs=1",
        "--detection.finetune.epochs=0",
        "--detection.finetune_after.epochs=0",
        "--trainer.default_root_dir=two",
        *QUIET,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "metaprune_pl", "detect", "--config=detection.yaml", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    _, pruned = (Detected(**row) for row in read_json(Path("two/report.json")))
    stored = load_network("two/none/speed_up_2.5/network")
    alone = average_precision(stored, VOC(root="drawn"))
    assert (pruned.average_precision, pruned.average_precision_50) == pytest.approx(alone)
    checkpoint = torch.load("two/trained/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 13 // 2  # batches are of all devices together
