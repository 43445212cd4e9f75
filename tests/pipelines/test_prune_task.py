"""`prune_task`: networks that are no classifiers, by a task with a loss and a metric."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from metaprune_pl.__main__ import main
from metaprune_pl.errors import ConfigError
from metaprune_pl.networks import load_network
from metaprune_pl.stages.tasks import LearningTask, Segmentation
from scenes import draw_voc
from squares import Squares, net


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
    trusted = [f"--trust={name}" for name in ("squares", "squares:net", "squares:normed", __name__)]
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


def test_batch_norms_have_the_statistics_of_the_training_batches(tmp_path: Path) -> None:
    still = {"epochs": 0}
    images = torch.cat([batch for batch, _ in Squares().train_dataloader()])
    for folder, statistics in (("now", {"images": 64}), ("stale", "stale")):
        run(
            tmp_path / folder,
            "Segmentation",
            network="squares:normed",
            statistics=statistics,
            finetune_after=still,
        )
    now, stale = (
        load_network(tmp_path / name / "speed_up_2" / "network") for name in ("now", "stale")
    )
    with torch.no_grad():
        means = now.get_submodule("0")(images).mean((0, 2, 3))
    assert torch.allclose(now.get_buffer("1.running_mean"), means, atol=1e-6)
    assert not stale.get_buffer("1.running_mean").any()


def test_a_target_is_reached_in_rounds(tmp_path: Path) -> None:
    after = {"epochs": 1, "optimizer": {"name": "adamw", "lr": 0.01}}
    (row,) = run(tmp_path / "run", "Segmentation", rounds=2, finetune_after=after)
    assert row["speed_up"] >= 2
    between = load_network(tmp_path / "run" / "speed_up_2" / "round_1" / "pruned")
    widths = [
        network.get_parameter("0.weight").shape[0]
        for network in (net(), between, load_network(tmp_path / "run" / "speed_up_2" / "network"))
    ]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 3


def test_of_a_detector_the_backbone_is_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_voc(tmp_path / "drawn", trainval=4, test=2)
    tiny = {"backbone": "timm/resnet18", "channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}
    tiny |= {"min_size": 64, "max_size": 96, "head_width": 8}
    data = {"root": str(tmp_path / "drawn"), "workers": 0, "validation_share": 0.25}
    (row,) = run(
        tmp_path / "run",
        "Detection",
        data={"class_path": "VOC", "init_args": data},
        network="faster_rcnn",
        arguments=tiny,
        input_shape=None,
        finetune_after={"epochs": 0},
        statistics={"images": 2},
    )
    detector = load_network(tmp_path / "run" / "speed_up_2" / "network")
    assert row["speed_up"] >= 2 and 0 <= row["metric_finetuned"] <= 1
    assert row["parameters"] == sum(p.numel() for p in detector.parameters())


def test_a_task_without_a_metric_says_so() -> None:
    class Silent(LearningTask):
        def loss(self, network: nn.Module, batch: object) -> Tensor:
            return torch.zeros(())

    with pytest.raises(ConfigError, match=r"Silent has no `metric`\. Write that, or `scores`"):
        Silent().scores(nn.Identity(), [0])


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
