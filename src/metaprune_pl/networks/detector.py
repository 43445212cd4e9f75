"""Faster R-CNN (Ren et al., 2015) on one feature map.

A backbone of convolutions, proposals, and a head of two layers.

The backbone is a network like every other, `detector.backbone`: images [B, 3, H, W] -> features [B,
C, h, w]. Its output channels are read by the head, and pruning leaves all of them.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torchvision.models import ResNet
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from metaprune_pl.errors import NetworkError
from metaprune_pl.networks.frozen_norms import freeze_batch_norms

_ROI = 7
"""Rows and columns that a region is pooled to."""


def faster_rcnn(
    *,
    backbone: str = "torchvision/resnet50",
    num_classes: int = 21,
    min_size: int = 800,
    max_size: int = 1333,
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512),
    head_width: int = 1024,
    frozen_norms: bool = True,
    **arguments: Any,
) -> nn.Module:
    """Build torchvision's Faster R-CNN without a feature pyramid (paper, F.4).

    Args:
        backbone: Builder of the backbone: a ResNet of torchvision, whose pooling and classifier are
            left out, a network of timm, or a function of your own that gives feature maps.
        num_classes: Classes, and the background.
        min_size: Pixels that the shorter side of an image is resized to.
        max_size: Pixels that the longer side may have then.
        anchor_sizes: Sides of the anchors in pixels; each has the aspect ratios 1:2, 1:1 and 2:1.
        head_width: Neurons of both layers of the head.
        frozen_norms: Whether the backbone's batch norms stay as they are in training: a batch has
            few images.
        arguments: Keyword arguments of the backbone's builder, such as `weights`.

    Raises:
        NetworkError: The backbone cannot be built, or gives no feature maps.
    """
    features = _features(backbone, arguments)
    if frozen_norms:
        freeze_batch_norms(features)
    channels = int(features.out_channels)
    detector: Any = FasterRCNN(
        features,
        min_size=min_size,
        max_size=max_size,
        rpn_anchor_generator=AnchorGenerator((tuple(anchor_sizes),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=_ROI, sampling_ratio=2),
        box_head=TwoMLPHead(channels * _ROI**2, head_width),
        box_predictor=FastRCNNPredictor(head_width, num_classes),
    )
    detector.input_size = (3, min_size, min_size)
    return detector  # type: ignore[no-any-return]


def _features(backbone: str, arguments: dict[str, Any]) -> Any:
    """Build a backbone; its attribute `out_channels` is the number of its output channels."""
    from metaprune_pl.networks.create import create_network  # which knows this module as a builder

    if backbone.startswith("timm/"):
        arguments = {"num_classes": 0, "global_pool": "", **arguments}
    network: Any = create_network(backbone, **arguments)
    if isinstance(network, ResNet):
        layers = [
            (name, layer)
            for name, layer in network.named_children()
            if name not in {"avgpool", "fc"}
        ]
        network = nn.Sequential(OrderedDict(layers))
    with torch.no_grad():
        output = network.eval()(torch.zeros(1, 3, 64, 64))
    if not isinstance(output, torch.Tensor) or output.dim() != 4:
        raise NetworkError(
            f"the backbone '{backbone}' gives no feature maps [B, C, h, w]. Take a ResNet of "
            "torchvision, a network of "
            "timm, or a function of your own that gives them."
        )
    network.out_channels = output.shape[1]
    return network.train()


def is_detector(network: nn.Module) -> bool:
    """Whether a network is one of torchvision's Faster R-CNNs."""
    return isinstance(network, FasterRCNN)


def num_classes_of(detector: nn.Module) -> int:
    """Return the number of classes of a detector, with the background."""
    scores = detector.get_submodule("roi_heads.box_predictor.cls_score")
    assert isinstance(scores, nn.Linear)
    return scores.out_features
