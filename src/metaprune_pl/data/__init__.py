"""Images and data models, held in memory as tensors and served in batches that resume exactly.

Letters in shapes: B images per batch, C channels, H and W height and width.
"""

from metaprune_pl.data.digits import Digits
from metaprune_pl.data.folder import ImageFolder
from metaprune_pl.data.images import Augmentation, ImageDataModule, ImageSet, Splits
from metaprune_pl.data.loader import Batch, TensorLoader
from metaprune_pl.data.zoo import DataModelZoo, MetaBatch

__all__ = [
    "Augmentation", "Batch", "DataModelZoo", "Digits", "ImageDataModule", "ImageFolder", "ImageSet", "MetaBatch",
    "Splits", "TensorLoader",
]  # fmt: skip
