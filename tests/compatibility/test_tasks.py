"""Networks of other tasks: segmentation, video, audio, the backbone of a detector."""

from typing import Any

import pytest
import torch
from torchvision import models

from helpers import randomize
from metaprune_pl import prune
from metaprune_pl.errors import TraceError
from metaprune_pl.graphs import trace
from metaprune_pl.pruning import Magnitude, PruningSettings, SpeedUp, count_macs, examine

_NO_WEIGHTS: dict[str, Any] = {"weights_backbone": None, "num_classes": 5}
TASKS: dict[str, tuple[tuple[int, ...], dict[str, Any], tuple[str, ...]]] = {
    "lraspp_mobilenet_v3_large": ((3, 64, 64), _NO_WEIGHTS, ("out",)),
    "deeplabv3_mobilenet_v3_large": ((3, 64, 64), _NO_WEIGHTS, ("out",)),
    "fcn_resnet50": ((3, 64, 64), {**_NO_WEIGHTS, "aux_loss": True}, ("out", "aux")),
    "r3d_18": ((3, 4, 32, 32), {}, ("",)),
    "mc3_18": ((3, 4, 32, 32), {}, ("",)),
}
"""Shape of an input, arguments, and paths of the outputs."""


DETECTORS = ("retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "fasterrcnn_resnet50_fpn")


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_of_a_detector_the_backbone_is_pruned(name: str) -> None:
    detector = randomize(models.get_model(name, weights=None, weights_backbone=None))
    image = torch.zeros(1, 3, 320, 320)
    with pytest.raises(TraceError, match=r"Its `backbone` is a part that can be pruned by itself"):
        trace(detector, image)
    before = count_macs(detector.backbone, image)
    features = [value.shape for value in detector.backbone(image).values()]
    detector.backbone = prune(detector.backbone, 2.0, example=image)
    assert before / count_macs(detector.backbone, image) >= 2
    assert [value.shape for value in detector.backbone(image).values()] == features
    (answer,) = detector(image)
    assert answer["boxes"].shape[1] == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_pruned_to_2x_all_outputs_equal_the_masked_ones(name: str) -> None:
    shape, arguments, outputs = TASKS[name]
    network, example = randomize(models.get_model(name, **arguments)), torch.zeros(1, *shape)
    unpruned = examine(network, example)
    target = SpeedUp(value=2.0, settings=PruningSettings(step=0.1))
    criterion = Magnitude(normalize="mean")
    (result,) = SpeedUp.reach([target], network, unpruned, criterion)
    assert 2.0 <= count_macs(network, example) / count_macs(result.network, example) < 2.1
    assert result.comparison is not None
    assert result.comparison.outputs == outputs and result.comparison.difference < 1e-5
    assert unpruned.graph.unfollowed == ()
