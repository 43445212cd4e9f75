"""The mean average precision of a few boxes, counted by hand.

And what is no detector or no boxes.
"""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from metaprune_pl.data import VOC, Digits
from metaprune_pl.data.voc import Scenes
from metaprune_pl.errors import ConfigError, TrainingError
from metaprune_pl.networks import create_network
from metaprune_pl.stages import DetectorTraining, OptimizerSettings
from metaprune_pl.stages.detection import AveragePrecision, check_detector


def boxes(*corners: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(corners).reshape(-1, 4)


def precision(
    found: Tensor, scores: list[float], true: Tensor, difficult: list[int] | None = None
) -> tuple[float, float]:
    metric = AveragePrecision()
    given = {
        "boxes": found,
        "scores": torch.tensor(scores),
        "labels": torch.ones(len(found), dtype=torch.long),
    }
    target = {"boxes": true, "labels": torch.ones(len(true), dtype=torch.long)}
    target["iscrowd"] = torch.tensor(difficult or [0] * len(true)).long()
    metric.update([given], [target])
    return metric.summary()


LEFT, RIGHT = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)


def test_one_of_two_objects_found_has_half_the_recall() -> None:
    found = boxes(LEFT, (80.0, 80.0, 90.0, 90.0))
    expected = pytest.approx(51 / 101)  # precision 1 at the recalls 0, 0.01, ..., 0.5
    assert precision(found, [0.9, 0.8], boxes(LEFT, RIGHT)) == (expected, expected)


def test_a_false_box_before_the_true_one_halves_the_precision() -> None:
    found = boxes((80.0, 80.0, 90.0, 90.0), LEFT)
    assert precision(found, [0.9, 0.8], boxes(LEFT)) == (pytest.approx(0.5), pytest.approx(0.5))


def test_an_overlap_of_0_62_counts_up_to_0_6() -> None:
    found = boxes((0.0, 0.0, 10.0, 6.2))
    assert precision(found, [0.9], boxes(LEFT)) == (pytest.approx(0.3), pytest.approx(1.0))


def test_a_difficult_object_is_neither_missed_nor_found_in_vain() -> None:
    true = boxes(LEFT, RIGHT)
    assert precision(boxes(LEFT), [0.9], true, [0, 1]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert precision(boxes(RIGHT, LEFT), [0.9, 0.8], true, [0, 1]) == (
        pytest.approx(1.0),
        pytest.approx(1.0),
    )


def test_nothing_to_find_is_no_precision() -> None:
    assert precision(boxes(LEFT), [0.9], boxes()) == (0.0, 0.0)


def test_what_does_not_fit_is_refused() -> None:
    tiny = {
        "backbone": "timm/resnet18",
        "channels": [8, 8, 8, 8],
        "layers": [1, 1, 1, 1],
        "head_width": 8,
    }
    with pytest.raises(ConfigError, match="the network is a CifarResNet, no detector"):
        check_detector(create_network("cifar_resnet", depth=8), VOC())
    with pytest.raises(ConfigError, match="set data to VOC"):
        check_detector(create_network("faster_rcnn", **tiny), Digits())
    with pytest.raises(ConfigError, match=r"tells 5 classes apart, .* and the data have 21"):
        check_detector(create_network("faster_rcnn", **tiny, num_classes=5), VOC())


class RunAway(nn.Module):
    """A detector whose loss is not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {"loss_classifier": self.weight.sum(), "loss_box_reg": self.weight.sum() * torch.nan}


def test_a_loss_that_is_not_a_number_stops_the_training() -> None:
    stage = DetectorTraining.__new__(DetectorTraining)
    LightningModule.__init__(stage)
    stage.network, stage.optimizer = RunAway(), OptimizerSettings(lr=0.25)
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    trainer = SimpleNamespace(strategy=strategy, default_root_dir="run", current_epoch=2)
    stage._trainer = trainer  # type: ignore[assignment]
    stage.log_dict = lambda *args, **options: None  # type: ignore[method-assign]
    stage.check_finite()
    target = {name: torch.zeros(1, 4) for name in ("boxes", "labels")}
    scenes = Scenes(torch.zeros(1, 3, 8, 8), [{**target, "iscrowd": torch.zeros(1)}])
    stage.training_step(scenes, 0)
    with pytest.raises(TrainingError, match=r"in 'run': .* epoch 3.* \(optimizer.lr is 0.25\)"):
        stage.check_finite()
