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
        models: Numbers of the data models that this device takes in the step, in turn.
        part: Which of them these images are for.
        last: Whether the big batch ends here.
    """

    images: Tensor
    labels: Tensor
    draws: Tensor
    models: tuple[int, ...]
    part: int
    last: bool


class DataModelZoo(LightningDataModule):
    """Data models to meta-train on, and images.

    An epoch takes every data model through `rounds` big batches, in an order drawn anew for each
    round. A step takes `models_per_step` data models at once: several devices take different ones,
    or share one where there are fewer; a device that takes several has them one after the other,
    and their gradients are averaged. Each data model sees `batch_size` x `micro_batches` images on
    each device that takes it.

    Args:
        images: The images. Its batch size is that of a micro-batch.
        data_models: Folder of stored networks, one folder each.
        held_out: The last this many of them, by name, are not used for training.
        micro_batches: Micro-batches of a data model in a step on each device.
        rounds: Steps of each data model in an epoch.
        models_per_step: Data models in a step; a multiple of the number of devices, or a divisor of
            it.

    Raises:
        ConfigError: A number is below 1, `held_out` is negative, or `models_per_step` does not fit.
    """

    def __init__(
        self,
        images: ImageDataModule,
        *,
        data_models: str,
        held_out: int = 0,
        micro_batches: int = 1,
        rounds: int = 1,
        models_per_step: int = 1,
    ) -> None:
        super().__init__()
        if min(micro_batches, rounds, models_per_step) < 1 or held_out < 0:
            raise ConfigError(
                "data: micro_batches, rounds and models_per_step are at least 1, held_out at "
                "least 0."
            )
        self.images = images
        self.data_models = Path(data_models)
        self.held_out, self.micro_batches, self.rounds = held_out, micro_batches, rounds
        self.models_per_step = models_per_step

    @property
    def models(self) -> list[Path]:
        """Folders of the data models to train on.

        Raises:
            DataError: There are none.
        """
        found = sorted(path.parent for path in self.data_models.glob("*/network.json"))
        if len(found) <= self.held_out:
            raise DataError(
                f"'{self.data_models}' has {len(found)} data models and {self.held_out} are held "
                "out: none is left to "
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
            self.images.train_loader(),
            models=len(self.models),
            micro_batches=self.micro_batches,
            rounds=self.rounds,
            models_per_step=self.models_per_step,
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

    A step is a row of parts, `micro_batches` long, over all ranks; each rank has the same number of
    parts, and each data model of the step the same number of neighbouring ones.

    Args:
        images: Training images; its ranks are this loader's ranks.
        models: Number of data models.
        micro_batches: Micro-batches of a part.
        rounds: Steps of each data model in an epoch.
        models_per_step: Data models in a step.

    Raises:
        ConfigError: Ranks or data models cannot be shared out evenly.
    """

    def __init__(
        self,
        images: ImageLoader,
        *,
        models: int,
        micro_batches: int,
        rounds: int,
        models_per_step: int = 1,
    ) -> None:
        super().__init__()
        ranks = images.order.ranks
        if models_per_step % ranks and ranks % models_per_step:
            raise ConfigError(
                f"data.models_per_step {models_per_step} and {ranks} devices: one must divide the "
                "other."
            )
        if models * rounds % models_per_step:
            raise ConfigError(
                f"data.models_per_step {models_per_step} does not divide {models} models x "
                f"{rounds} rounds."
            )
        self.images, self.models, self.micro_batches, self.rounds = (
            images,
            models,
            micro_batches,
            rounds,
        )
        self.models_per_step, self.parts = models_per_step, max(1, models_per_step // ranks)

    def __len__(self) -> int:
        """Micro-batches of this rank in an epoch."""
        return self.models * self.rounds // self.models_per_step * self.parts * self.micro_batches

    def __iter__(self) -> Iterator[MetaBatch]:
        """Serve the rest of the epoch; a whole one where the last was finished."""
        left, order = self.remaining(), self.images.order
        models, begun = self._order(self.epoch), self.epoch * len(self) * order.ranks
        per_pass = order.count // order.batch_size
        served = self.images.serve(divmod(begun + self._number(index), per_pass) for index in left)
        for index, batch in zip(left, served, strict=True):
            self.position = index + 1
            step, part, micro_batch = self._place(index)
            first = step * self.models_per_step + order.rank * self.models_per_step // order.ranks
            last = part == self.parts - 1 and micro_batch == self.micro_batches - 1
            yield MetaBatch(
                *batch, models=tuple(models[first : first + self.parts]), part=part, last=last
            )

    def _place(self, index: int) -> tuple[int, int, int]:
        """Step, part on this rank, and micro-batch of the part."""
        part, micro_batch = divmod(index, self.micro_batches)
        return part // self.parts, part % self.parts, micro_batch

    def _number(self, index: int) -> int:
        """Number of a micro-batch among those of all ranks in an epoch."""
        step, part, micro_batch = self._place(index)
        parts = (
            step * self.images.order.ranks * self.parts + self.images.order.rank * self.parts + part
        )
        return parts * self.micro_batches + micro_batch

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.images.order.seed * 1_000_003 + epoch)
        return torch.cat(
            [torch.randperm(self.models, generator=generator) for _ in range(self.rounds)]
        ).tolist()
