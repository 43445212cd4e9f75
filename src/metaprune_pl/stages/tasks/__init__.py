"""What networks learn that are no classifiers, a class each, which a config names as `task`."""

from metaprune_pl.stages.tasks.base import LearningTask
from metaprune_pl.stages.tasks.detection import Detection
from metaprune_pl.stages.tasks.segmentation import Segmentation

__all__ = ["Detection", "LearningTask", "Segmentation"]
