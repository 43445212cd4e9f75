"""The detector: a stored network whose backbone is pruned like any other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from metaprune_pl.errors import NetworkError
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    create_network,
    load_network,
    save_network,
)
from metaprune_pl.networks.detector import num_classes_of
from metaprune_pl.pruning import Magnitude, PruningSettings, count_macs, prune

TINY: dict[str, Any] = {
    "backbone": "timm/resnet18",
    "channels": [8, 16, 24, 32],
    "layers": [1, 1, 1, 1],
    "min_size": 64,
    "max_size": 96,
    "anchor_sizes": [8, 16, 32, 48, 64],
    "head_width": 32,
    "num_classes": 3,
}
"""Arguments of a detector that trains in seconds."""


def test_it_is_the_papers() -> None:
    detector = create_network("faster_rcnn", seed=0, min_size=96, max_size=160)
    body = detector.get_submodule("backbone")
    assert {name for name, _ in body.named_children()} == {
        "conv1",
        "bn1",
        "relu",
        "maxpool",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    }
    classifier = create_network(
        "torchvision/resnet50"
    ).state_dict()  # the metanetwork of a classifier reads it
    own = {name: tuple(value.shape) for name, value in body.state_dict().items()}
    assert own == {
        name: tuple(value.shape)
        for name, value in classifier.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    assert detector.get_submodule("rpn.head.cls_logits").out_channels == 5 * 3
    assert detector.get_submodule("roi_heads.box_head.fc6").in_features == 2048 * 7 * 7
    assert num_classes_of(detector) == 21
    assert detector.get_submodule("roi_heads.box_predictor.bbox_pred").out_features == 4 * 21


@pytest.mark.parametrize("frozen", [True, False])
def test_norms_are_frozen_where_wanted(frozen: bool) -> None:
    detector = create_network("faster_rcnn", **TINY, frozen_norms=frozen)
    kinds = [type(module) for module in detector.modules() if "BatchNorm" in type(module).__name__]
    assert set(kinds) == {FrozenBatchNorm2d if frozen else nn.BatchNorm2d}


def test_a_pruned_backbone_is_stored_and_loaded_with_its_detector(tmp_path: Path) -> None:
    detector, example = (
        create_network("faster_rcnn", seed=0, **TINY).eval(),
        torch.zeros(1, 3, 64, 64),
    )
    backbone, before = detector.get_submodule("backbone"), detector.state_dict()
    macs = count_macs(backbone, example)
    (pruned,) = prune(
        backbone,
        example,
        speed_ups=[2.5],
        criterion=Magnitude(),
        settings=PruningSettings(),
    )
    assert macs / count_macs(pruned, example) >= 2.5
    assert pruned(example).shape == backbone(example).shape  # what the head reads is whole
    detector.backbone = pruned
    card = NetworkCard(
        settings=NetworkSettings(builder="faster_rcnn", arguments=TINY), input_shape=(3, 64, 64)
    )
    save_network(tmp_path / "detector", detector, card)
    again, image = load_network(tmp_path / "detector"), torch.rand(3, 50, 70)
    with torch.no_grad():
        for name, value in again([image])[0].items():
            assert torch.equal(value, detector([image])[0][name])
    assert before["roi_heads.box_head.fc6.weight"].equal(
        again.state_dict()["roi_heads.box_head.fc6.weight"]
    )


def test_a_backbone_without_feature_maps_is_refused() -> None:
    with pytest.raises(NetworkError, match="'cifar_resnet' gives no feature maps"):
        create_network("faster_rcnn", backbone="cifar_resnet", depth=8)
