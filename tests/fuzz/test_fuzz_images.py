"""Odd images: each is read right, or refused in one line; nothing hangs, and no file is touched.

`METAPRUNE_FUZZ=500` tries as many mutations instead of a few.
"""

import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from metaprune_pl.data.files import read_image
from metaprune_pl.errors import DataError

MUTATIONS = int(os.environ.get("METAPRUNE_FUZZ", "60"))
KINDS = [
    ("JPEG", "RGB", {"quality": 90}),
    ("JPEG", "CMYK", {}),
    ("JPEG", "L", {"progressive": True}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {}),
    ("PNG", "1", {}),
    ("PNG", "I;16", {}),
    ("GIF", "P", {}),
    ("BMP", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "F", {}),
    ("TIFF", "I;16", {"compression": "tiff_deflate"}),
    ("PPM", "RGB", {}),
    ("WEBP", "RGB", {"lossless": True}),
]


def encoded(kind: str, mode: str, options: dict[str, object]) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    grey = pixels[:, :, 0]
    wide = {"I;16": grey.astype(np.uint16) * 257, "F": grey.astype(np.float32) / 255}
    image = Image.fromarray(wide[mode]) if mode in wide else Image.fromarray(pixels).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    extra = {"exif": exif} if kind in {"JPEG", "PNG", "WEBP"} else {}
    with io.BytesIO() as file:
        image.save(file, kind, **options, **extra)
        return file.getvalue()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change, drop, repeat or swap a few bytes."""
    new = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(new) or 1)
        size = rng.choice([1, 1, 2, 4, 16])
        way = rng.randrange(5)
        if way == 0:
            new[at : at + size] = rng.randbytes(size)
        elif way == 1:
            new[at : at + size] = rng.choice([b"\xff", b"\0", b"\x7f"]) * size
        elif way == 2:
            del new[at : at + size]
        elif way == 3:
            new[at:at] = new[at : at + size]
        else:
            del new[max(at, 1) :]
    return bytes(new)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "mode", "options"), KINDS, ids=[f"{k}-{m}" for k, m, _ in KINDS])
def test_a_damaged_image_is_read_or_refused_in_one_line(
    kind: str, mode: str, options: dict[str, object], tmp_path: Path
) -> None:
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("Pillow without WebP")
    rng, data = random.Random(f"{kind} {mode}"), encoded(kind, mode, options)
    path = tmp_path / "image.png"
    for number in range(MUTATIONS):
        path.write_bytes(mutated(data, rng) if number else data)
        before, wanted = listing(tmp_path), rng.choice(["RGB", "L"])
        try:
            image = read_image(path, wanted)
        except DataError as error:
            assert number, "the undamaged image is refused"
            assert len(str(error).splitlines()) == 1 and str(path) in str(error)
        else:
            assert image.mode == wanted and np.asarray(image).dtype == np.uint8
        assert listing(tmp_path) == before
