"""The accuracy of rewritten networks: the first term of the loss in the paper's section 4.2."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from metaprune_pl.stages.objectives.base import MeanLoss, Objective, Term
from metaprune_pl.stages.objectives.rewritten import Rewritten


@dataclass(frozen=True, kw_only=True)
class Accuracy(Objective):
    """Mean cross-entropy of a big batch."""

    name: ClassVar[str] = "accuracy"
    value: ClassVar[str] = "loss"

    def start(self, rewritten: Rewritten) -> Term:
        """Implements `Objective`."""

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(rewritten.logits(images), labels)

        return MeanLoss(rewritten.leaves, loss)
