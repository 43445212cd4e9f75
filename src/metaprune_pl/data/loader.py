"""Batches of images, the same after a resume and on any number of ranks."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from metaprune_pl.errors import ConfigError


class Batch(NamedTuple):
    """Images as stored, and the random numbers that their augmentation will use.

    Attributes:
        images: uint8 [B, C, H, W].
        labels: int64 [B].
        draws: Uniform in [0, 1), [B, 3].
    """

    images: Tensor
    labels: Tensor
    draws: Tensor


class Resumable(ABC):
    """An iterable over the batches of an epoch that knows where it stands.

    Lightning stores `state_dict` in checkpoints, but gives it back only in the middle of an epoch;
    our Trainer calls `set_epoch` at the start of each.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.position = 0

    @abstractmethod
    def __len__(self) -> int:
        """Batches of this rank in an epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, unless it has begun already."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Where the iteration stands."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from where another loader stood."""
        self.epoch, self.position = state["epoch"], state["position"]

    def remaining(self) -> range:
        """Return the batches that are left of the epoch.

        All of the next one where it was finished.
        """
        if self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0
        return range(self.position, len(self))


class Order:
    """Which images are in which batch, and the random numbers of each image.

    All follows from (seed, epoch). In training, an epoch has whole steps, which take their images
    in order, and the rest is dropped; otherwise each rank serves every W-th image once, in order.

    Args:
        count: Number of images n.
        batch_size: Images per batch and rank.
        train: Shuffle.
        step: Training images of a step, over all ranks; None is a batch on each rank.
        seed: Seed of the order and of the draws.
        rank: Index of this process.
        ranks: Number of processes W.
        sample: Largest number of images that are served without training, evenly spread over all.

    Raises:
        ConfigError: There are fewer images than a step takes.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        train: bool,
        step: int | None = None,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        sample: int | None = None,
    ) -> None:
        step = step or batch_size * ranks
        if train and count < step:
            raise ConfigError(
                f"data: a step needs {step} training images; there are {count}. Take a smaller "
                "batch_size or global_batch, among the data's init_args."
            )
        self.count, self.batch_size, self.train, self.seed = count, batch_size, train, seed
        self.rank, self.ranks = rank, ranks
        self.sampled = count if sample is None else min(count, sample)
        self.used = count // step * step
        """Training images of an epoch."""
        self._order: tuple[int, Tensor, Tensor] | None = None

    @property
    def batches(self) -> int:
        """Batches of this rank in an epoch."""
        if self.train:
            return self.used // (self.batch_size * self.ranks)
        return -(-len(range(self.rank, self.sampled, self.ranks)) // self.batch_size)

    def chosen(self, epoch: int, first: int) -> tuple[Tensor, Tensor]:
        """Return the indices of a batch's images, [B], and the draws of each, [B, 3].

        Args:
            epoch: Index of the epoch.
            first: How many of its images lie before the batch. Where training images end within
                the batch, the next epoch goes on.
        """
        order, draws = self._shuffled(epoch)
        last = first + self.batch_size
        indices = order[first : min(last, self.used) if self.train else last]
        chosen = indices, draws[indices]
        if not self.train or last <= self.used:
            return chosen
        order, draws = self._shuffled(epoch + 1)
        indices = order[: last - self.used]
        return torch.cat([chosen[0], indices]), torch.cat([chosen[1], draws[indices]])

    def _shuffled(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Order of the images and the draws of all, [n, 3]."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            every = torch.randperm(self.count, generator=generator)
            own = torch.arange(self.rank, self.sampled, self.ranks)
            order = every if self.train else own * self.count // max(1, self.sampled)
            self._order = epoch, order, torch.rand(self.count, 3, generator=generator)
        return self._order[1], self._order[2]


class ImageLoader(Resumable):
    """An iterable over the batches of an epoch, with access to any batch of any epoch.

    In training, rank r of W serves every W-th batch from the r-th on; otherwise every W-th image.
    So W ranks together see what one process sees.

    Args:
        order: Which images are in which batch.
    """

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return self.order.batches

    def __iter__(self) -> Iterator[Batch]:
        """Serve the rest of the epoch, a whole one where the last was finished.

        Evaluation starts from the front.
        """
        order = self.order
        rank, ranks = (order.rank, order.ranks) if order.train else (0, 1)
        if not order.train:
            self.position = 0
        left, epoch = self.remaining(), self.epoch
        starts = ((epoch, (index * ranks + rank) * order.batch_size) for index in left)
        for index, batch in zip(left, self.serve(starts), strict=True):
            self.position = index + 1
            yield batch

    @abstractmethod
    def serve(self, starts: Iterable[tuple[int, int]]) -> Iterator[Batch]:
        """Serve the batches that start there: (epoch, images before), as `Order` counts them."""


class TensorLoader(ImageLoader):
    """Batches of images in memory.

    Args:
        images: uint8 [n, C, H, W].
        labels: int64 [n].
        order: Which images are in which batch.
    """

    def __init__(self, images: Tensor, labels: Tensor, order: Order) -> None:
        super().__init__(order)
        self.images, self.labels = images, labels

    def serve(self, starts: Iterable[tuple[int, int]]) -> Iterator[Batch]:
        """Serve the batches that start there."""
        for epoch, first in starts:
            indices, draws = self.order.chosen(epoch, first)
            yield Batch(self.images.index_select(0, indices), self.labels[indices], draws)
