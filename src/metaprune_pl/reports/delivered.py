"""A network that was written as a file for other programs."""

from dataclasses import dataclass
from pathlib import Path

from metaprune_pl.reports.next_step import shell_line
from metaprune_pl.reports.text import Grid, Line, Part


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A file, and how it compares with the network that it came from.

    Attributes:
        file: Where it is.
        format: Its format.
        program: What ran it for the comparison.
        bytes: Its size.
        images: Number of images that both were run on.
        source: Where these come from; None is random ones.
        difference: Largest difference of scores, as a share of the largest score; None where there
            was nothing to run the file with.
        missing: Package that is needed to run the file, and not installed.
        script: A small program that names the class of an image; None where there is none.
    """

    file: str
    format: str
    program: str
    bytes: int
    images: int
    source: str | None
    difference: float | None
    missing: str | None = None
    script: str | None = None

    def tables(self) -> list[Part]:
        """Return what a person sees."""
        rows = [(self.file, f"{self.bytes / 1e6:.2f} MB", self._compared)]
        parts: list[Part] = [Grid("Exported", ["file", "size", "check"], rows)]
        if self.script is not None:
            line = shell_line("python", Path(self.script), "IMAGE.jpg")
            parts.append(Line(f"Name the class of an image: {line}"))
        return parts

    @property
    def _compared(self) -> str:
        if self.difference is None:
            return f"not compared: {self.missing} is not installed"
        images = "random images" if self.source is None else f"images of {self.source}"
        return (
            f"{self.program} and the network agree on {self.images} {images} to "
            f"{self.difference:.1e}"
        )
