"""A data set in the form of VOC 2007, drawn by the tests: coloured rectangles on grey."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

COLOURS = {"aeroplane": (230, 40, 40), "bus": (40, 60, 230)}


def draw_voc(root: Path, *, trainval: int = 12, test: int = 6) -> None:
    """Draw images with one or two objects each, of 60 to 80 pixels a side."""
    base = root / "VOCdevkit" / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for part, start, count in (("trainval", 0, trainval), ("test", 1000, test)):
        names = [f"{number:06d}" for number in range(start, start + count)]
        (base / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names) + "\n")
        for index, name in enumerate(names):
            _draw(base, name, index, generator)


def _draw(base: Path, name: str, index: int, generator: torch.Generator) -> None:
    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    width, height = between(60, 80), between(60, 80)
    image = Image.new("RGB", (width, height), (128, 128, 128))
    described = ""
    for number, (kind, colour) in enumerate(
        list(COLOURS.items())[index % 2 :] + list(COLOURS.items())[: index % 2]
    ):
        if number and index % 3:
            break
        w, h = between(18, 28), between(18, 28)
        left, top = (
            between(0, width // 2 - w) if number else width - w - between(0, 2),
            between(0, height - h),
        )
        left = max(left, 0)
        ImageDraw.Draw(image).rectangle((left, top, left + w - 1, top + h - 1), fill=colour)
        described += (
            f"<object><name>{kind}</name><difficult>0</difficult>"
            f"<bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
            f"<xmax>{left + w}</xmax><ymax>{top + h}</ymax></bndbox></object>"
        )
    image.save(base / "JPEGImages" / f"{name}.jpg", quality=95)
    (base / "Annotations" / f"{name}.xml").write_text(f"<annotation>{described}</annotation>")
