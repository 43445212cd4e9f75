"""What a metanetwork is trained for: a class each, in a file each."""

from metaprune_pl.stages.objectives.accuracy import Accuracy
from metaprune_pl.stages.objectives.adapted import Adapted
from metaprune_pl.stages.objectives.base import MeanLoss, Objective, OfWeights, Term
from metaprune_pl.stages.objectives.budgeted import Budgeted
from metaprune_pl.stages.objectives.rewritten import (
    BatchNormMode,
    DataModel,
    Rewritten,
    load_data_model,
)
from metaprune_pl.stages.objectives.sparsity import Sparsity

__all__ = [
    "Accuracy",
    "Adapted",
    "BatchNormMode",
    "Budgeted",
    "DataModel",
    "MeanLoss",
    "Objective",
    "OfWeights",
    "Rewritten",
    "Sparsity",
    "Term",
    "load_data_model",
]
