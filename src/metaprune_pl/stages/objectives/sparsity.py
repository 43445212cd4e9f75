"""The sparsity of rewritten networks: the second term of the loss in the paper's section 4.2."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from metaprune_pl.pruning import Magnitude
from metaprune_pl.pruning import Sparsity as SparsityTerm
from metaprune_pl.stages.objectives.base import Objective, OfWeights, Term
from metaprune_pl.stages.objectives.rewritten import Rewritten


@dataclass(frozen=True, kw_only=True)
class Sparsity(SparsityTerm, Objective):
    """The sparsity term of the pruning groups.

    Attributes:
        criterion: The pruning criterion to make networks easy for.
    """

    name: ClassVar[str] = "sparsity"
    value: ClassVar[str] = "sparsity"
    criterion: Magnitude = field(default_factory=Magnitude)

    def start(self, rewritten: Rewritten) -> Term:
        """Implements `Objective`."""
        groups = rewritten.model.groups
        leaves = rewritten.leaves
        return OfWeights(
            partial(
                self.gradient,
                self.criterion,
                groups,
                leaves,
            )
        )
