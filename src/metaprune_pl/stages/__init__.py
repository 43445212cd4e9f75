"""The trainings, one thin LightningModule each: data models, metanetwork, finetuning, detectors."""

from metaprune_pl.stages.accuracy_prediction import AccuracyPrediction
from metaprune_pl.stages.budgeted_training import BudgetedTraining
from metaprune_pl.stages.data_models import DataModelTraining
from metaprune_pl.stages.detection import DetectorTraining
from metaprune_pl.stages.distillation import Distillation
from metaprune_pl.stages.finetuning import Finetuning
from metaprune_pl.stages.guided_sparsity import GuidedSparsity
from metaprune_pl.stages.meta_training import MetaTraining
from metaprune_pl.stages.optimizers import OptimizerSettings

__all__ = [
    "AccuracyPrediction",
    "BudgetedTraining",
    "DataModelTraining",
    "DetectorTraining",
    "Distillation",
    "Finetuning",
    "GuidedSparsity",
    "MetaTraining",
    "OptimizerSettings",
]
