"""What every objective of meta-training is: a class with settings, log names and a gradient."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from metaprune_pl.stages.objectives.rewritten import Rewritten

Gradient = dict[str, Tensor]


class Term(ABC):
    """One objective for one rewritten network during one big batch."""

    def add(  # noqa: B027  (not every term needs images)
        self, images: Tensor, labels: Tensor
    ) -> None:
        """Take in a micro-batch.

        Args:
            images: [B, C, H, W].
            labels: [B].
        """

    @abstractmethod
    def result(self) -> tuple[Gradient, Tensor]:
        """Return the gradient for the new weights by name, and the value to log.

        It is called once, at the end of the big batch. The gradient may be changed in place.
        """


class MeanLoss(Term):
    """The mean of a loss over the micro-batches, each of which is differentiated at once.

    Args:
        leaves: The new weights by name.
        loss: Loss of a micro-batch, given its images and labels.
    """

    def __init__(self, leaves: Gradient, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.leaves = leaves
        self.loss = loss
        self.losses: list[Tensor] = []
        self.total: list[Tensor] = []

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Implements `Term`."""
        loss = self.loss(images, labels)
        self.losses.append(loss.detach())
        leaves = list(self.leaves.values())
        gradient = torch.autograd.grad(
            loss,
            leaves,
            allow_unused=True,
            materialize_grads=True,
        )
        if self.total:
            torch._foreach_add_(self.total, gradient)
        else:  # cloned: autograd may give two parameters the same tensor
            self.total = [own.clone() for own in gradient]

    def result(self) -> tuple[Gradient, Tensor]:
        """Implements `Term`."""
        torch._foreach_div_(self.total, len(self.losses))
        gradient = dict(zip(self.leaves, self.total, strict=True))
        return gradient, torch.stack(self.losses).mean()


class OfWeights(Term):
    """A term of the new weights alone.

    Args:
        compute: Computes gradient and value.
    """

    def __init__(self, compute: Callable[[], tuple[Gradient, Tensor]]) -> None:
        self.compute = compute

    def result(self) -> tuple[Gradient, Tensor]:
        """Implements `Term`."""
        return self.compute()


class Objective(ABC):
    """What rewritten networks should be good at.

    An objective is a frozen dataclass of its settings, in a file of its own in this folder. Its
    gradient reaches the metanetwork together with those of all others, in one backward pass.
    """

    name: ClassVar[str]
    """The norm of its gradient is logged as `train/gradient_NAME`."""

    value: ClassVar[str]
    """Its value is logged as `train/VALUE`."""

    @abstractmethod
    def start(self, rewritten: Rewritten) -> Term:
        """Begin a big batch of one data model.

        Args:
            rewritten: The data model with its new weights. What an objective decides once per big
                batch, such as what to prune, it decides here.
        """
