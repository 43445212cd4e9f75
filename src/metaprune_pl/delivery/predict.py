"""A small program that reads an image, runs a delivered file and names the class."""

from pathlib import Path

from metaprune_pl.delivery.base import Format
from metaprune_pl.files import check_new, write_text

PILLOW = "\nfrom PIL"
HEAD = '''"""Names the class of the image whose file is named behind it (needs {packages})."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

path = str(Path(__file__).with_name({file}))
'''
TAIL = '''

def read(image_path):
    """Return an image as the network reads it: float32 [1, C, H, W]."""
    channels, height, width = facts["input_shape"]
    told = facts["preprocessing"]
    try:
        image = ImageOps.exif_transpose(Image.open(image_path))
        image = image.convert("L" if channels == 1 else "RGB")
    except OSError as error:
        sys.exit(f"{image_path} is no image that can be read: {error}")
    if told["crop"]:
        scale = max(height / image.height, width / image.width) / told["crop"]
        sides = round(image.width * scale), round(image.height * scale)
        image = image.resize(sides, Image.Resampling.BILINEAR)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    else:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32).reshape(height, width, channels) / 255
    pixels = (pixels - np.float32(told["mean"])) / np.float32(told["std"])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit(f"usage: python {sys.argv[0]} IMAGE, the file of an image")
    scores = run(read(sys.argv[1]))[0]
    shares = np.exp(scores - scores.max())
    best = int(scores.argmax())
    names = facts["preprocessing"]["classes"] or range(len(scores))
    print(f"{names[best]} ({100 * shares[best] / shares.sum():.1f} %)")
'''


def script_beside(file: Path, kind: Format) -> Path:
    """Return where the program of a delivered file lies."""
    return file.with_name(f"predict_{file.stem}_{kind.name}.py")


def check_script(file: Path, kind: Format) -> None:
    """Refuse to replace a program of a person's own by that of a delivered file.

    Raises:
        StorageError: There is another one.
    """
    script = script_beside(file, kind)
    if not script.is_file() or script.read_bytes() != _program(file, kind).encode():
        check_new(script)


def write_predict(file: Path, kind: Format) -> Path:
    """Write the program beside a delivered file, and return where it is."""
    script = script_beside(file, kind)
    write_text(script, _program(file, kind))
    return script


def _program(file: Path, kind: Format) -> str:
    assert kind.example is not None
    imports, _, code = kind.example.partition("\n")
    packages = f"numpy, pillow, {imports.removeprefix('import ')}"
    head = HEAD.format(packages=packages, file=ascii(file.name))
    return head.replace(PILLOW, "\n" + imports + PILLOW) + code + TAIL
