"""scikit-learn's digits: 1,797 real handwritten digits of 8x8 pixels, part of the installed package."""

import torch

from metaprune_pl.data.augmentation import Augmentation
from metaprune_pl.data.memory import ImageSet, MemoryImages, Splits


class Digits(MemoryImages):
    """Handwritten digits, 8x8, one channel, ten classes: 1,000 for training, 397 for validation, 400 for the test.

    The split is the same for every seed.

    Args:
        batch_size: Training images per batch and device.
        eval_batch_size: Images per batch and device in validation and test.
        augmentation: What is done to training images.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self,
        *,
        batch_size: int = 50,
        eval_batch_size: int = 500,
        augmentation: Augmentation = Augmentation(shift=1),  # noqa: B008  (frozen)
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, augmentation=augmentation, seed=seed)

    def load(self) -> Splits:
        """Return the images."""
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).reshape(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
        labels = torch.from_numpy(digits).long()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        return Splits(*(ImageSet(images[part], labels[part]) for part in order.split([1000, 397, 400])))
