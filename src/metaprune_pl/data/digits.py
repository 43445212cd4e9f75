"""scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels, part of the installed package."""

import torch

from metaprune_pl.data.augmentation import Augmentation
from metaprune_pl.data.memory import ImageSet, MemoryImages, Splits
from metaprune_pl.errors import ConfigError


class Digits(MemoryImages):
    """Handwritten digits, 8x8, one channel, ten classes.

    1,000 for training, 397 for validation, 400 for the test.

    The split is the same for every seed.

    Args:
        classes: Digits of each class, such as [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]] for a data set of
            even and odd ones; other digits are left out. None is a class for each.
        image_size: Pixels of a side, a multiple of 8: each of the digits' own is repeated.
        fraction: Share of the training images that is used, class by class: the same ones
            for every seed.
        batch_size: Most training images that a device takes at once.
        eval_batch_size: Images per batch and device in validation and test.
        global_batch: Training images of a step over all devices; None is `batch_size`.
        augmentation: What is done to training images.
        seed: Seed of order and augmentation.

    Raises:
        ConfigError: Fewer than two classes, a digit in two of them, a size that is no multiple of
            8, or a share that is not between 0 and 1.
    """

    def __init__(
        self,
        *,
        classes: list[list[int]] | None = None,
        image_size: int = 8,
        fraction: float = 1.0,
        batch_size: int = 50,
        eval_batch_size: int = 500,
        global_batch: int | None = None,
        augmentation: Augmentation = Augmentation(shift=1),  # noqa: B008  (frozen)
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            global_batch=global_batch,
            augmentation=augmentation,
            fraction=fraction,
            seed=seed,
        )
        if image_size < 8 or image_size % 8:
            raise ConfigError(f"data.image_size is {image_size}; digits have a multiple of 8.")
        self.image_size = image_size
        self.classes = [[digit] for digit in range(10)] if classes is None else classes
        digits = [digit for digits in self.classes for digit in digits]
        known = set(digits) <= {*range(10)} and len(set(digits)) == len(digits)
        if len(self.classes) < 2 or not all(self.classes) or not known:
            raise ConfigError(
                f"data.classes {classes}: give two or more lists of digits, each digit once at "
                "most."
            )

    @property
    def class_names(self) -> list[str]:
        """The digits of each class."""
        return ["".join(map(str, digits)) for digits in self.classes]

    def load(self) -> Splits:
        """Return the images."""
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).reshape(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
        for dim in (2, 3):
            images = images.repeat_interleave(self.image_size // 8, dim)
        labels = torch.from_numpy(digits).long()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        parts = order.split([1000, 397, 400])
        return Splits(*(self._relabelled(ImageSet(images[p], labels[p])) for p in parts))

    def _relabelled(self, part: ImageSet) -> ImageSet:
        """Return the images whose digits are in a class, with its index as label."""
        label_of = torch.full((10,), -1)
        for label, digits in enumerate(self.classes):
            label_of[digits] = label
        labels = label_of[part.labels]
        return ImageSet(part.images, labels).pick((labels >= 0).nonzero().flatten())
