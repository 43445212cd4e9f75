"""Steps of as many images on any number of devices."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from lightning.pytorch import LightningDataModule

from metaprune_pl.data.loader import Order
from metaprune_pl.errors import ConfigError


def device_batch(images: int, *, shares: int, largest: int, setting: str) -> int:
    """Return how many images a device takes at once, so that a step has as many as were asked for.

    Args:
        images: Images of a step, over all devices.
        shares: Equal shares of them: one for each device, or for each of its data models.
        largest: Most images that a device takes at once.
        setting: Name of the setting that `images` comes from.

    Returns:
        The largest number of at most `largest` that divides a share.

    Raises:
        ConfigError: There is none that is at least half as large as it might be.
    """
    size = _equal_batches(images, shares, largest)
    if size:
        return size
    fewer = _first_fitting(iter(range(images - 1, 0, -1)), shares, largest)
    more = _first_fitting(count(images + 1), shares, largest)
    raise ConfigError(
        f"data: {setting} {images} on {shares} devices (or data models of a step) does not divide "
        f"into equal batches of at most {largest} images (batch_size); take "
        f"{f'{fewer} or {more}' if fewer else more}."
    )


def _equal_batches(images: int, shares: int, largest: int) -> int:
    """Size of the batches that a share is divided into, 0 where they would be too small."""
    share, rest = divmod(images, shares)
    if rest:
        return 0
    most = min(share, largest)
    sizes = range(most, (most - 1) // 2, -1)
    return next((size for size in sizes if share % size == 0), 0)


def _first_fitting(numbers: Iterator[int], shares: int, largest: int) -> int:
    return next((n for n in numbers if _equal_batches(n, shares, largest)), 0)


class SteppedDataModule(LightningDataModule):
    """Base of data modules whose steps take `global_batch` images, on however many devices.

    In a fit they tell the Trainer how many batches of a device make a step
    (`accumulate_grad_batches`). What works on a device's batch alone still sees fewer images where
    there are more devices: batch norms without `--trainer.sync_batchnorm true`, and mixing.

    Args:
        batch_size: Most training images that a device takes at once.
        eval_batch_size: Images per batch and device in validation and test.
        global_batch: Training images of a step over all devices; None is `batch_size`, times
            `trainer.accumulate_grad_batches` where the Trainer has that.
        seed: Seed of order and augmentation.

    Raises:
        ConfigError: A number is below 1.
    """

    def __init__(
        self, *, batch_size: int, eval_batch_size: int, global_batch: int | None, seed: int
    ) -> None:
        super().__init__()
        if min(batch_size, eval_batch_size, global_batch or 1) < 1 or global_batch == 0:
            raise ConfigError(
                "data: batch_size, eval_batch_size and global_batch must be at least 1."
            )
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.global_batch = global_batch
        self.seed = seed
        self._first_step: int | None = None

    @property
    def step_images(self) -> int:
        """Training images of a step over all devices, as given, or as the first fit had them."""
        return self.global_batch or self._first_step or self.batch_size

    @property
    def rank_of(self) -> tuple[int, int]:
        """Index of this process, and number of all."""
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)

    def train_order(self, images: int) -> Order:
        """Return the order of so many training images for this process.

        Raises:
            ConfigError: They are fewer than a step takes, or a step is no equal batches.
        """
        rank, ranks = self.rank_of
        return Order(
            images,
            batch_size=self._device_batch(ranks),
            step=self.step_images,
            train=True,
            seed=self.seed,
            rank=rank,
            ranks=ranks,
        )

    def _device_batch(self, ranks: int) -> int:
        return device_batch(
            self.step_images,
            shares=ranks,
            largest=self.batch_size,
            setting="global_batch",
        )

    def divide_steps(self) -> None:
        """Tell the Trainer of a fit how many batches of a device make a step.

        Raises:
            ConfigError: It has another number of its own.
        """
        trainer: Any = self.trainer
        asked = self.batch_size * trainer.accumulate_grad_batches
        if self._first_step is None:
            self._first_step = asked
        batches = trainer.accumulate_grad_batches
        ranks = trainer.world_size
        divided = self.step_images // (self._device_batch(ranks) * ranks)
        if batches not in (1, divided) and asked != self.step_images:
            raise ConfigError(
                f"data.global_batch is {self.step_images}, and trainer.accumulate_grad_batches "
                f"{batches} would make {asked}: leave out the latter, it follows from the former."
            )
        trainer.accumulate_grad_batches = divided
