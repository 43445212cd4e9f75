"""What a network learns from another one's scores (Hinton, Vinyals and Dean, 2015)."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from metaprune_pl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A term of the loss that draws a network's scores to those of its teacher.

    Attributes:
        weight: Share of this term in the loss; the rest is the cross-entropy with the labels.
        temperature: Divides the scores of both networks: the higher, the more the classes count
            that the teacher thinks unlikely.
    """

    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ConfigError(f"distillation.weight {self.weight} lies above 0 and up to 1.")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"distillation.temperature is {self.temperature}: it must be finite and above 0."
            )

    def loss(self, logits: Tensor, teacher: Tensor, cross_entropy: Tensor) -> Tensor:
        """Return the loss of a batch.

        The divergence is multiplied by the squared temperature, so that its gradient does not
        shrink with it.

        Args:
            logits: Scores of the network, [B, K].
            teacher: Scores of its teacher, [B, K].
            cross_entropy: Of the network's scores with the labels.
        """
        own, aim = (F.log_softmax(scores / self.temperature, 1) for scores in (logits, teacher))
        divergence = F.kl_div(
            own,
            aim,
            log_target=True,
            reduction="batchmean",
        )
        return (1 - self.weight) * cross_entropy + self.weight * self.temperature**2 * divergence
