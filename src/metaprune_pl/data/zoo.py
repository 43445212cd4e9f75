"""A folder of data models, and the big batches that meta-training takes them through."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from metaprune_pl.data.batches import device_batch
from metaprune_pl.data.images import ImageDataModule
from metaprune_pl.data.loader import Batch, ImageLoader, Order, Resumable
from metaprune_pl.errors import ConfigError, DataError, did_you_mean
from metaprune_pl.files import by_number


class MetaBatch(NamedTuple):
    """One micro-batch of a big batch.

    Attributes:
        images: [B, C, H, W]; uint8 from the loader, normalised after the transfer.
        labels: int64 [B].
        draws: Random numbers of the augmentation, [B, 3].
        models: Indices of the data models that this device takes in the step, in turn.
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
    round. A step takes `models_per_step` data models at once, and each of them sees an equal share
    of the big batch, on however many devices: several devices take different data models, or share
    one where there are fewer; a device that takes several has them one after the other. Gradients
    are averaged over the data models.

    Args:
        images: The images. Its batch size is the most that a device takes at once.
        data_models: Folder of stored networks, one folder each.
        held_out: The last this many of them, by number, are for a report: nothing learns from them.
        validation: The last this many before those are to choose metanetworks by.
        only: Names of the data models that count; None is all in the folder. `held_out` and
            `validation` are the last of these.
        big_batch: Images of a step, over all devices and its data models; None is one batch for
            each data model.
        micro_batches: Older name: `big_batch` is `micro_batches` batches for each data model.
        rounds: Steps of each data model in an epoch.
        models_per_step: Data models in a step; a multiple of the number of devices, or a divisor of
            it.

    Raises:
        ConfigError: A number is below 1, `held_out` or `validation` is negative, or there are both
            `big_batch` and `micro_batches`.
    """

    def __init__(
        self,
        images: ImageDataModule,
        *,
        data_models: str,
        held_out: int = 0,
        validation: int = 0,
        only: list[str] | None = None,
        big_batch: int | None = None,
        micro_batches: int | None = None,
        rounds: int = 1,
        models_per_step: int = 1,
    ) -> None:
        super().__init__()
        numbers = {"rounds": rounds, "models_per_step": models_per_step}
        numbers |= {"big_batch": big_batch or 1, "micro_batches": micro_batches or 1}
        if min(numbers.values()) < 1 or 0 in (big_batch, micro_batches):
            raise ConfigError(f"data: {', '.join(numbers)} are at least 1.")
        if min(held_out, validation) < 0:
            raise ConfigError("data: held_out and validation are at least 0.")
        each = images.batch_size * (micro_batches or 1) * models_per_step
        if big_batch and micro_batches:
            raise ConfigError(
                f"data: give big_batch ({big_batch}) alone; micro_batches {micro_batches} is the "
                f"older way to say {each} (batch_size x micro_batches x models_per_step)."
            )
        self.images = images
        self.data_models = Path(data_models)
        self.held_out, self.validation = held_out, validation
        self.only = only
        self.rounds = rounds
        self.big_batch = big_batch or each
        self.models_per_step = models_per_step

    @property
    def models(self) -> list[Path]:
        """Folders of the data models to train on.

        Raises:
            DataError: There are none.
        """
        return self._parts()[0]

    @property
    def models_to_choose_by(self) -> list[Path]:
        """Folders of the data models that metanetworks are chosen by."""
        return self._parts()[1]

    def _parts(self) -> tuple[list[Path], list[Path]]:
        """Return the data models to train on, and those to choose by."""
        there = (path.parent for path in self.data_models.glob("*/network.json"))
        folders = sorted(there, key=by_number)
        if self.only is not None:
            folders = self._named(folders, self.only)
        kept = self.held_out + self.validation
        if len(folders) <= kept:
            source = f"'{self.data_models}'" if self.only is None else "data.only"
            raise DataError(
                f"{source} has {len(folders)} data models, of which {kept} are held out or for "
                "the choice: none is left to train on. Make more with `metaprune data_models "
                "--config data_quickstart.yaml`, or lower data.held_out and validation."
            )
        learn, end = len(folders) - kept, len(folders) - self.held_out
        return folders[:learn], folders[learn:end]

    def _named(self, folders: Sequence[Path], names: Sequence[str]) -> list[Path]:
        chosen = [folder for folder in folders if folder.name in names]
        if missing := sorted({*names} - {folder.name for folder in chosen}):
            known = [folder.name for folder in folders]
            raise DataError(
                f"'{self.data_models}' has no data model '{missing[0]}'."
                f"{did_you_mean(missing[0], known)}"
            )
        if not chosen:
            raise DataError("data.only: name at least one data model.")
        return chosen

    def prepare_data(self) -> None:
        """Prepare the images."""
        self.images.prepare_data()

    def setup(self, stage: str) -> None:
        """Load the images."""
        self.images.trainer = self.trainer
        self.images.count("train")

    def train_dataloader(self) -> "MetaLoader":
        """Lightning's hook."""
        return self.train_loader()

    def train_loader(self) -> "MetaLoader":
        """Return the micro-batches for this process.

        Raises:
            ConfigError: A big batch or data models cannot be shared out evenly.
        """
        rank, ranks = self.images.rank_of
        shares = max(ranks, self.models_per_step)
        largest = self.images.batch_size
        size = device_batch(
            self.big_batch,
            shares=shares,
            largest=largest,
            setting="big_batch",
        )
        order = Order(
            self.images.count("train"),
            batch_size=size,
            step=largest,  # images are gone through in whole batches, whatever the devices
            train=True,
            seed=self.images.seed,
            rank=rank,
            ranks=ranks,
        )
        return MetaLoader(
            self.images.loader("train", order),
            models=len(self.models),
            micro_batches=self.big_batch // (shares * size),
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
    """Micro-batches in the order of meta-training.

    They are the same after a resume, and hold the same images on any number of ranks.

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
        self.images = images
        self.models = models
        self.micro_batches = micro_batches
        self.rounds = rounds
        self.models_per_step = models_per_step
        self.parts = max(1, models_per_step // ranks)

    def __len__(self) -> int:
        """Micro-batches of this rank in an epoch."""
        return self.models * self.rounds // self.models_per_step * self.parts * self.micro_batches

    def __iter__(self) -> Iterator[MetaBatch]:
        """Serve the rest of the epoch; a whole one where the last was finished."""
        left = self.remaining()
        order = self.images.order
        models = self._order(self.epoch)
        begun = self.epoch * len(self) * order.ranks
        starts = ((begun + self._index(index)) * order.batch_size for index in left)
        served = self.images.serve(divmod(start, order.used) for start in starts)
        for index, batch in zip(left, served, strict=True):
            self.position = index + 1
            step, part, micro_batch = self._position_of(index)
            first = step * self.models_per_step + order.rank * self.models_per_step // order.ranks
            last = part == self.parts - 1 and micro_batch == self.micro_batches - 1
            chosen = tuple(models[first : first + self.parts])
            yield MetaBatch(
                *batch,
                models=chosen,
                part=part,
                last=last,
            )

    def _position_of(self, index: int) -> tuple[int, int, int]:
        """Step, part on this rank, and micro-batch of the part."""
        part, micro_batch = divmod(index, self.micro_batches)
        return part // self.parts, part % self.parts, micro_batch

    def _index(self, index: int) -> int:
        """Index of a micro-batch among those of all ranks in an epoch."""
        step, part, micro_batch = self._position_of(index)
        order = self.images.order
        parts = (step * order.ranks + order.rank) * self.parts + part
        return parts * self.micro_batches + micro_batch

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.images.order.seed * 1_000_003 + epoch)
        return torch.cat(
            [torch.randperm(self.models, generator=generator) for _ in range(self.rounds)]
        ).tolist()
