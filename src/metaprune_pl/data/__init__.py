"""Images and data models, served in batches that resume exactly.

Letters in shapes: B images per batch, C channels, H and W height and width, K classes.
"""

from metaprune_pl.data.augmentation import Augmentation, Mixing
from metaprune_pl.data.cifar_svhn import CIFAR10, CIFAR100, SVHN
from metaprune_pl.data.digits import Digits
from metaprune_pl.data.folder import ImageFolder
from metaprune_pl.data.images import ImageDataModule, Normalization
from metaprune_pl.data.loader import Batch, ImageLoader, TensorLoader
from metaprune_pl.data.memory import ImageSet, Splits
from metaprune_pl.data.network_zoo import NetworkZoo
from metaprune_pl.data.stream import ImageNet, StreamedImageFolder
from metaprune_pl.data.voc import VOC
from metaprune_pl.data.zoo import DataModelZoo, MetaBatch

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "SVHN",
    "VOC",
    "Augmentation",
    "Batch",
    "DataModelZoo",
    "Digits",
    "ImageDataModule",
    "ImageFolder",
    "ImageLoader",
    "ImageNet",
    "ImageSet",
    "MetaBatch",
    "Mixing",
    "NetworkZoo",
    "Normalization",
    "Splits",
    "StreamedImageFolder",
    "TensorLoader",
]
