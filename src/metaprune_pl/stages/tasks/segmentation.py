"""Semantic segmentation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaprune_pl.networks.examples import tensors_of
from metaprune_pl.stages.tasks.base import LearningTask


@dataclass(frozen=True, kw_only=True)
class Segmentation(LearningTask):
    """A class for each pixel; batches are images [B, C, H, W] and masks of classes [B, H, W].

    Scores are the network's output, or the first of several (`out`, `logits`), at any resolution.

    Attributes:
        ignored: Class of pixels that do not count.
    """

    ignored: int = 255

    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        """Mean cross-entropy of the pixels: see `LearningTask.loss`."""
        images, masks = batch
        return F.cross_entropy(_scores(network, images, masks), masks, ignore_index=self.ignored)

    def metric(self, network: nn.Module, batch: Any) -> Tensor:
        """Share of the pixels of each image whose class is right: see `LearningTask.metric`."""
        images, masks = batch
        counts = masks != self.ignored
        right = (_scores(network, images, masks).argmax(1) == masks) & counts
        shares: Tensor = right.sum((1, 2)) / counts.sum((1, 2)).clamp(min=1)
        return shares


def _scores(network: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
    """Scores of each class at each pixel of the masks, [B, K, H, W]."""
    output = network(images)
    named = output if isinstance(output, Mapping) else {}
    scores = named.get("out", named.get("logits"))
    if not isinstance(scores, torch.Tensor):
        scores = next(tensor for _, tensor in tensors_of(output))
    if scores.shape[2:] == masks.shape[1:]:
        return scores
    return F.interpolate(scores, masks.shape[1:], mode="bilinear", align_corners=False)
