"""PASCAL VOC 2007 (Everingham et al., 2010).

Images of any size, and the boxes of the objects on them.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from xml.etree import ElementTree

import torch
from torch import Tensor
from torchvision.datasets import VOCDetection
from torchvision.transforms.v2.functional import pil_to_tensor

from metaprune_pl.data.batches import SteppedDataModule
from metaprune_pl.data.files import check_shares, read_image, share
from metaprune_pl.data.images import Split
from metaprune_pl.data.loader import Order
from metaprune_pl.data.stream import Reader, StreamLoader
from metaprune_pl.errors import DataError
from metaprune_pl.files import at_home

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The objects, numbered from 1; 0 is the background."""


class Scenes(NamedTuple):
    """A batch of images with objects.

    Attributes:
        images: uint8 [3, H, W] each as read, float32 of 0 to 1 as the detector sees them.
        targets: For each image `boxes` float32 [n, 4] (left, top, right, bottom in pixels),
            `labels` int64 [n], and `iscrowd` int64 [n], 1 for an object that is marked difficult,
            which is neither learnt nor counted.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]


class VOC(SteppedDataModule):
    """VOC 2007: a share of `trainval` is the validation set, the rest is trained on.

    `test` is the test set.

    Training images are mirrored at random; the detector resizes and normalises all.

    Args:
        root: Folder with `VOCdevkit/VOC2007`, or where it shall be.
        download: Fetch what is missing.
        validation_share: Share of `trainval` kept for validation, always the same images.
        batch_size: Most training images that a device takes at once.
        eval_batch_size: Images per batch and device in validation and test.
        global_batch: Training images of a step over all devices; None is `batch_size`.
        workers: Processes that read images, at most one per core; 0 reads in the training process.
        seed: Seed of order and mirroring.

    Raises:
        ConfigError: The share is not between 0 and 1, or a batch size is below 1.
    """

    num_classes = len(CLASSES) + 1

    def __init__(
        self,
        *,
        root: str = "datasets",
        download: bool = False,
        validation_share: float = 0.05,
        batch_size: int = 2,
        eval_batch_size: int = 4,
        global_batch: int | None = None,
        workers: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            global_batch=global_batch,
            seed=seed,
        )
        check_shares(validation_share=validation_share)
        self.root = at_home(root)
        self.download = download
        self.validation_share = validation_share
        self.workers = min(workers, len(os.sched_getaffinity(0)))
        self._parts: dict[Split, list[tuple[str, str]]] = {}

    @property
    def parts(self) -> dict[Split, list[tuple[str, str]]]:
        """Files of each part, image and description, found when first asked for.

        Raises:
            DataError: They are missing or cannot be fetched.
        """
        if not self._parts:
            known = self._files("trainval")
            test = self._files("test")
            validation, train = share(
                torch.zeros(len(known), dtype=torch.long), self.validation_share
            )
            self._parts = {
                "train": [known[i] for i in train.tolist()],
                "validation": [known[i] for i in validation.tolist()],
                "test": test,
            }
        return self._parts

    def _files(self, part: str) -> list[tuple[str, str]]:
        listed = self.root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / f"{part}.txt"
        missing = not listed.is_file()
        if missing and not self.download:
            raise DataError(
                f"no VOC 2007 in '{self.root}': there is no '{listed}'. Set "
                "data.init_args.download to true, or unpack "
                "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar of the PASCAL VOC site "
                "there."
            )
        try:
            listed_images = VOCDetection(self.root, "2007", part, download=missing)
        except (OSError, RuntimeError, URLError) as error:
            raise DataError(
                f"cannot fetch VOC 2007 to '{self.root}': {error}. Unpack its files there."
            ) from error
        return list(zip(listed_images.images, listed_images.targets, strict=True))

    def prepare_data(self) -> None:
        """Find or fetch the images on one process, before the others look for them."""
        self.count("train")

    def setup(self, stage: str) -> None:
        """Find the images, and divide the steps of a fit over the devices."""
        self.count("train")
        if stage == "fit":
            self.divide_steps()

    def count(self, split: Split) -> int:
        """Return the number of images of a part."""
        return len(self.parts[split])

    def loader(self, split: Split, sample: int | None = None) -> StreamLoader:
        """Return batches of a part in order, or of so many of its images."""
        size = self.eval_batch_size
        order = Order(self.count(split), batch_size=size, train=False, sample=sample)
        return self._loader(split, order)

    def _loader(self, split: Split, order: Order) -> StreamLoader:
        return StreamLoader(_SceneReader(self.parts[split], order), self.workers)

    def train_dataloader(self) -> StreamLoader:
        """Lightning's hook; images shuffled and mirrored."""
        return self._loader("train", self.train_order(self.count("train")))

    def val_dataloader(self) -> StreamLoader:
        """Lightning's hook; all images on each device, as `AveragePrecision` asks for."""
        return self.loader("validation")

    def test_dataloader(self) -> StreamLoader:
        """Lightning's hook; all images on each device."""
        return self.loader("test")

    def on_after_batch_transfer(self, batch: Scenes, dataloader_idx: int) -> Scenes:
        """Bring images to 0 to 1 on the device."""
        return batch._replace(images=[image / 255 for image in batch.images])

    def evaluation(
        self, split: Split, device: torch.device, sample: int | None = None
    ) -> Iterator[Scenes]:
        """Give a part of the data, or so many of its images, on a device, in order."""
        batch: Any
        for batch in self.loader(split, sample):
            targets = [
                {name: value.to(device) for name, value in target.items()}
                for target in batch.targets
            ]
            yield self.on_after_batch_transfer(
                Scenes([image.to(device) for image in batch.images], targets), 0
            )


class _SceneReader(Reader):
    """Reads images and their descriptions; mirrors them in training."""

    def __init__(self, files: list[tuple[str, str]], order: Order) -> None:
        super().__init__(order)
        self.files = files

    def read(self, indices: Tensor, draws: Tensor) -> Scenes:
        mirrored = (draws[:, 0] < 0.5).tolist() if self.order.train else [False] * len(indices)
        scenes = [
            self._scene(self.files[i], mirror)
            for i, mirror in zip(indices.tolist(), mirrored, strict=True)
        ]
        return Scenes([image for image, _ in scenes], [target for _, target in scenes])

    def _scene(self, files: tuple[str, str], mirror: bool) -> tuple[Tensor, dict[str, Tensor]]:
        pixels = read_image(Path(files[0]), exif=False)  # boxes are those of the file as it lies
        image = pil_to_tensor(pixels)
        target = read_objects(Path(files[1]))
        if mirror:
            left, top, right, bottom = target["boxes"].unbind(1)
            width = image.shape[2]
            image, target["boxes"] = (
                image.flip(2),
                torch.stack([width - right, top, width - left, bottom], 1),
            )
        return image, target


def read_objects(path: Path) -> dict[str, Tensor]:
    """Read the objects on an image: see `Scenes.targets`.

    Pixels of the file count from 1, both ends included.

    Raises:
        DataError: The file is missing or damaged, or has an object that is none of the 20.
    """
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
        corners = [
            [float(o.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")]
            for o in objects
        ]
        labels = [CLASSES.index(o.findtext("name", "").strip()) + 1 for o in objects]
        difficult = [int(o.findtext("difficult", "0")) for o in objects]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(
            f"cannot read the objects in {path}: {error}. Replace or remove it."
        ) from error
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4) - torch.tensor(
        [1.0, 1.0, 0.0, 0.0]
    )
    return {
        "boxes": boxes,
        "labels": torch.tensor(labels).long(),
        "iscrowd": torch.tensor(difficult).long(),
    }
