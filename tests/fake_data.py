"""Small made-up data sets in the formats of the real ones."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def pixels(count: int, seed: int = 0, side: int = 32) -> np.ndarray:
    """Random images, uint8 [count, side, side, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def fake_cifar(root: Path, classes: int = 10, per_class: int = 6) -> None:
    """Write CIFAR-10's five training files and its test file, or CIFAR-100's two files.

    Images are numbered.
    """
    folder = root / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    names = (
        [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
        if classes == 10
        else ["train", "test"]
    )
    folder.mkdir(parents=True)
    for seed, name in enumerate(names):
        labels = [n % classes for n in range(classes * per_class)]
        data = pixels(len(labels), seed).transpose(0, 3, 1, 2).reshape(-1, 3072)
        content = {
            "data": data,
            "labels" if classes == 10 else "fine_labels": labels,
            "batch_label": name,
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def fake_svhn(root: Path, per_class: int = 6) -> None:
    """Write SVHN's two files; the digit 0 is stored as 10."""
    root.mkdir(parents=True, exist_ok=True)
    labels = np.array([n % 10 + 1 for n in range(10 * per_class)], np.uint8)[:, None]
    for seed, name in enumerate(("train", "test")):
        savemat(
            root / f"{name}_32x32.mat",
            {"X": pixels(len(labels), seed).transpose(1, 2, 3, 0), "y": labels},
        )


def fake_folders(
    root: Path, classes: int = 3, per_class: int = 6, test: str = "val", side: int = 40
) -> None:
    """Write PNG and JPEG images of several sizes, one grey, into folders like those of ImageNet."""
    for part in ("train", test):
        for label in range(classes):
            place = root / part / f"n{label:08d}"
            place.mkdir(parents=True)
            for n, image in enumerate(pixels(per_class, label, side + 4 * label)):
                picture = Image.fromarray(image[: side - 2 * (n % 3)])
                picture = picture.convert("L") if n == 0 else picture
                picture.save(place / (f"{n}.png" if n % 2 else f"{n}.JPEG"))
