"""The accuracy of rewritten networks after some finetuning, to first order."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from metaprune_pl.errors import ConfigError
from metaprune_pl.stages.objectives.base import Gradient, MeanLoss, Objective, Term
from metaprune_pl.stages.objectives.rewritten import Rewritten


@dataclass(frozen=True, kw_only=True)
class Adapted(Objective):
    """Mean cross-entropy of a big batch after some steps of gradient descent on its first part.

    The gradient for the weights after the steps stands for that for the weights before them
    (first-order MAML: Finn et al. 2017, section 5.2), so steps cost no memory.

    Attributes:
        steps: Micro-batches at the front, of a step each; the others give the loss.
        lr: Learning rate of the steps.
    """

    name: ClassVar[str] = "adapted"
    value: ClassVar[str] = "adapted_loss"
    steps: int = 2
    lr: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.lr < math.inf:
            raise ConfigError(
                f"Adapted: steps is {self.steps} and lr {self.lr}; they are at least 1, and above "
                "0 and finite."
            )

    def start(self, rewritten: Rewritten) -> Term:
        """Implements `Objective`."""
        return Adaptation(rewritten, self.steps, self.lr)


class Adaptation(MeanLoss):
    """A rewritten network that takes steps before its loss counts.

    Args:
        rewritten: The data model with its new weights.
        steps: Micro-batches that are a step each.
        lr: Learning rate.
    """

    def __init__(self, rewritten: Rewritten, steps: int, lr: float) -> None:
        adapted = {
            name: v.detach().clone().requires_grad_() for name, v in rewritten.leaves.items()
        }

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(rewritten.logits(images, adapted), labels)

        super().__init__(adapted, loss)
        self.left = steps
        self.lr = lr

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Implements `Term`."""
        super().add(images, labels)
        if self.left:
            self.left -= 1
            with torch.no_grad():
                torch._foreach_add_(list(self.leaves.values()), self.total, alpha=-self.lr)
            self.total, self.losses = [], []

    def result(self) -> tuple[Gradient, Tensor]:
        """Implements `Term`.

        Raises:
            ConfigError: All micro-batches went into steps.
        """
        if not self.losses:
            raise ConfigError(
                "Adapted: a big batch has no micro-batches after its steps; lower steps, or "
                "batch_size of the images."
            )
        return super().result()
