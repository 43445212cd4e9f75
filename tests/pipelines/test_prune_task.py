"""`prune_task`: networks that are no classifiers, by a task with a loss and a metric."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from metaprune_pl.__main__ import main
from metaprune_pl.networks import load_network
from metaprune_pl.stages.tasks import LearningTask, Segmentation
from squares import Squares


class Errors(LearningTask):
    """A task of one's own: squared errors of the probability of a square."""

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (network(batch[0]).softmax(1)[:, 1] - batch[1].float()).square().mean()

    def metric(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        errors = (network(batch[0]).softmax(1)[:, 1] - batch[1].float()).square()
        return -errors.mean((1, 2))


def run(folder: Path, task: str, **settings: object) -> list[dict[str, float]]:
    config = {
        "trainer": {"default_root_dir": str(folder), "accelerator": "cpu"},
        "data": {"class_path": "squares.Squares"},
        "network": "squares:net",
        "input_shape": "1,12,12",
        "task": {"class_path": task},
        "pruning": {"step": 0.1},
        "finetune_after": {"epochs": 6, "optimizer": {"name": "adamw", "lr": 0.01}},
        **settings,
    }
    folder.mkdir()
    (folder.parent / "task.yaml").write_text(yaml.safe_dump(config))
    trusted = [f"--trust={name}" for name in ("squares", "squares:net", __name__)]
    main(["prune_task", "--config", str(folder.parent / "task.yaml"), *trusted])
    rows: list[dict[str, float]] = json.loads((folder / "report.json").read_text())
    return rows


def test_segmentation_is_pruned_trained_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run(tmp_path / "run", "Segmentation", speed_ups=[1.5, 2.0])
    shown = capsys.readouterr().out
    assert "Segmentation: test metric" in shown and "compared with masked: the output" in shown
    for row, target in zip(rows, (1.5, 2.0), strict=True):
        assert target <= row["speed_up"] < target + 0.4
        assert row["metric_finetuned"] > 0.9 > row["metric_given"]
        network = load_network(tmp_path / "run" / f"speed_up_{target:g}" / "network")
        images, masks = next(iter(Squares().test_dataloader()))
        shares = Segmentation().metric(network, (images, masks))
        assert float(shares.mean()) == pytest.approx(row["metric_finetuned"], abs=0.05)
    assert rows[1]["parameters"] < rows[0]["parameters"]


def test_a_task_of_ones_own_is_named_by_its_class(tmp_path: Path) -> None:
    (row,) = run(tmp_path / "run", f"{__name__}.Errors")
    assert row["metric_given"] < row["metric_finetuned"] < 0
    assert row["task"] == "Errors"


def test_pixels_that_are_ignored_do_not_count() -> None:
    scores = torch.zeros(1, 2, 2, 2)
    scores[:, 1, 0] = 1.0  # the upper row is of class 1
    masks = torch.tensor([[[1, 255], [1, 0]]])
    shares = Segmentation().metric(nn.Identity(), (scores, masks))
    assert shares.tolist() == pytest.approx([2 / 3])
    upper, lower = math.log(1 + math.e) - 1, math.log(2)
    loss = float(Segmentation().loss(nn.Identity(), (scores, masks)))
    assert loss == pytest.approx((upper + 2 * lower) / 3)
    halves = scores[:, :, ::2, ::2]
    assert Segmentation().metric(nn.Identity(), (halves, masks)).shape == (1,)
