"""Batches of an image set that is held in memory, the same after a resume and on any number of ranks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
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

    Lightning stores `state_dict` in checkpoints, but gives it back only in the middle of an epoch; our Trainer calls
    `set_epoch` at the start of each.
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

    def remaining(self) -> Iterator[int]:
        """Count the batches that are left of the epoch; all of the next one where it was finished."""
        if self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0
        for index in range(self.position, len(self)):
            self.position = index + 1
            yield index


class TensorLoader(Resumable):
    """An iterable over batches, with random access.

    Shuffling and augmentation follow from (seed, epoch) alone. In training, rank r of W serves every W-th batch from
    the r-th on; otherwise every W-th image. So W ranks together see what one process sees.

    Args:
        images: uint8 [n, C, H, W].
        labels: int64 [n].
        batch_size: Images per batch and rank.
        train: Shuffle, and drop the incomplete last batch; otherwise serve every image once, in order.
        seed: Seed of the order and of the draws.
        rank: Number of this process.
        ranks: Number of processes.

    Raises:
        ConfigError: There are fewer images than one batch on each rank takes.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, *, batch_size: int, train: bool, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        super().__init__()
        self.images, self.labels = (images, labels) if train else (images[rank::ranks], labels[rank::ranks])
        self.batch_size, self.train, self.seed, self.rank, self.ranks = batch_size, train, seed, rank, ranks
        if train and len(images) < batch_size * ranks:
            raise ConfigError(
                f"batch_size {batch_size} on {ranks} device(s) needs {batch_size * ranks} training images; "
                f"there are {len(images)}. Take a smaller batch_size, among the data's init_args."
            )
        self._order: tuple[int, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        if self.train:
            return len(self.images) // (self.batch_size * self.ranks)
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Serve the rest of the epoch; a whole one where the last was finished."""
        for index in self.remaining():
            yield self.batch(self.epoch, index * self.ranks + self.rank if self.train else index)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return one batch of an epoch; in training, batches are counted over all ranks."""
        order, draws = self._shuffled(epoch)
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        return Batch(self.images[chosen], self.labels[chosen], draws[chosen])

    def _shuffled(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Order of the images, [n], and the draws of each, [n, 3]."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            count = len(self.images)
            order = torch.randperm(count, generator=generator) if self.train else torch.arange(count)
            self._order = epoch, order, torch.rand(count, 3, generator=generator)
        return self._order[1], self._order[2]
