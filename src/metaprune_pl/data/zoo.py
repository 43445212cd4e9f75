"""A folder of data models, and the big batches that meta-training takes them through."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from metaprune_pl.data.images import ImageDataModule
from metaprune_pl.data.loader import Batch, ImageLoader, Resumable
from metaprune_pl.errors import ConfigError, DataError


class MetaBatch(NamedTuple):
    """One micro-batch of a big batch.

    Attributes:
        images: [B, C, H, W]; uint8 from the loader, normalised after the transfer.
        labels: int64 [B].
        draws: Random numbers of the augmentation, [B, 3].
        model: Number of the data model.
        last: Whether the big batch ends here.
    """

    images: Tensor
    labels: Tensor
    draws: Tensor
    model: int
    last: bool


class DataModelZoo(LightningDataModule):
    """Data models to meta-train on, and images.

    An epoch takes every data model through `rounds` big batches, in an order drawn anew for each round. A big batch is
    `batch_size` x `micro_batches` x devices images.

    Args:
        images: The images. Its batch size is that of a micro-batch.
        data_models: Folder of stored networks, one folder each.
        held_out: The last this many of them, by name, are not used for training.
        micro_batches: Micro-batches of a big batch on each device.
        rounds: Big batches of each data model in an epoch.

    Raises:
        ConfigError: A number is below 1, or `held_out` is negative.
    """

    def __init__(
        self,
        images: ImageDataModule,
        *,
        data_models: str,
        held_out: int = 0,
        micro_batches: int = 1,
        rounds: int = 1,
    ) -> None:
        super().__init__()
        if min(micro_batches, rounds) < 1 or held_out < 0:
            raise ConfigError("data: micro_batches and rounds are at least 1, held_out at least 0.")
        self.images = images
        self.data_models = Path(data_models)
        self.held_out, self.micro_batches, self.rounds = held_out, micro_batches, rounds

    @property
    def models(self) -> list[Path]:
        """Folders of the data models to train on.

        Raises:
            DataError: There are none.
        """
        found = sorted(path.parent for path in self.data_models.glob("*/network.json"))
        if len(found) <= self.held_out:
            raise DataError(
                f"'{self.data_models}' has {len(found)} data models and {self.held_out} are held out: none is left to "
                "train on. Make more with `metaprune data_models --config data_quickstart.yaml`."
            )
        return found[: len(found) - self.held_out]

    def prepare_data(self) -> None:
        """Prepare the images."""
        self.images.prepare_data()

    def setup(self, stage: str) -> None:
        """Load the images."""
        self.images.trainer = self.trainer
        self.images.setup(stage)

    def train_dataloader(self) -> "MetaLoader":
        """Lightning's hook."""
        return MetaLoader(
            self.images.train_loader(), models=len(self.models), micro_batches=self.micro_batches, rounds=self.rounds
        )

    def val_dataloader(self) -> ImageLoader:
        """Validation images, for the first data model."""
        return self.images.val_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment and normalise the images of a batch on the device."""
        if not isinstance(batch, MetaBatch):
            return self.images.on_after_batch_transfer(batch, dataloader_idx)
        images, labels = self.images.finish(Batch(*batch[:3]), train=True)
        return batch._replace(images=images, labels=labels)


class MetaLoader(Resumable):
    """Micro-batches in the order of meta-training, the same after a resume and on any number of ranks.

    Args:
        images: Training images; its ranks are this loader's ranks.
        models: Number of data models.
        micro_batches: Micro-batches of a big batch on each rank.
        rounds: Big batches of each data model in an epoch.
    """

    def __init__(self, images: ImageLoader, *, models: int, micro_batches: int, rounds: int) -> None:
        super().__init__()
        self.images, self.models, self.micro_batches, self.rounds = images, models, micro_batches, rounds

    def __len__(self) -> int:
        """Micro-batches of this rank in an epoch."""
        return self.models * self.rounds * self.micro_batches

    def __iter__(self) -> Iterator[MetaBatch]:
        """Serve the rest of the epoch; a whole one where the last was finished."""
        order, left = self.images.order, self.remaining()
        models, begun = self._order(self.epoch), self.epoch * len(self)
        numbers = ((begun + index) * order.ranks + order.rank for index in left)
        served = self.images.serve(divmod(number, order.count // order.batch_size) for number in numbers)
        for index, batch in zip(left, served, strict=True):
            self.position = index + 1
            step, micro_batch = divmod(index, self.micro_batches)
            yield MetaBatch(*batch, model=models[step], last=micro_batch == self.micro_batches - 1)

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.images.order.seed * 1_000_003 + epoch)
        return torch.cat([torch.randperm(self.models, generator=generator) for _ in range(self.rounds)]).tolist()
