"""Images per second of the input pipeline, beside torchvision's transforms in a DataLoader.

Run with `python -m tests.benchmarks.input_pipeline`. Both shuffle 50,000 images of 32x32, shift
them by up to 4 pixels, mirror half, and give normalised float32 batches.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from metaprune_pl.data import Augmentation, ImageSet, Splits
from metaprune_pl.data.memory import MemoryImages

PIXELS = np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, 50_000)


class Ours(MemoryImages):
    """The images as CIFAR's data modules hold them."""

    def load(self) -> Splits:
        """Return the images as every part."""
        part = ImageSet(
            torch.from_numpy(PIXELS).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(LABELS)
        )
        return Splits(part, part, part)


class PerImage(Dataset[Any]):
    """The images as torchvision's CIFAR10 gives them, one by one."""

    def __init__(self) -> None:
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
            ]
        )

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(PIXELS[index])), int(LABELS[index])


Epoch = Callable[[], Iterable[Any]]


def ours(batch_size: int) -> Epoch:
    """Epochs of the data module's batches."""
    data = Ours(
        batch_size=batch_size,
        eval_batch_size=500,
        augmentation=Augmentation(shift=4, flip=True),
        seed=0,
    )
    _ = data.normalization
    loader = data.train_loader()
    return lambda: (data.finish(batch, train=True) for batch in loader)


def theirs(batch_size: int) -> Epoch:
    """Epochs of a DataLoader with two workers."""
    loader = DataLoader(
        PerImage(), batch_size, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True
    )
    return lambda: loader


def rate(epoch: Epoch, batch_size: int, repeats: int) -> float:
    """Images per second of the best of several epochs, after one to warm up."""
    best = 0.0
    for number in range(repeats + 1):
        start, batches = time.perf_counter(), 0
        for images, _ in epoch():
            assert images.shape == (batch_size, 3, 32, 32)
            batches += 1
        if number:
            best = max(best, batches * batch_size / (time.perf_counter() - start))
    return best


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--threads", type=int, default=1, help="of ours; more than one pays on an idle machine only"
    )
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"images/s, ours with {args.threads} thread(s)\n batch  torchvision, 2 workers          "
        "ours  ratio"
    )
    for batch_size in (128, 500):
        slow, fast = (rate(make(batch_size), batch_size, args.repeats) for make in (theirs, ours))
        print(f"{batch_size:>6}  {slow:>22,.0f}  {fast:>12,.0f}  {fast / slow:.1f}x", flush=True)


if __name__ == "__main__":
    main()
