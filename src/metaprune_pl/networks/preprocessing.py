"""What is done to an image before a network reads it, which travels with the network."""

import math
from dataclasses import dataclass, field

from metaprune_pl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From the pixels of an image to what a network reads, and from its scores to a class.

    Attributes:
        mean: Of each channel, for pixels in [0, 1]; it is taken off.
        std: The deviation of each channel, which is divided by after that.
        crop: Share of the resized image that the middle which is taken has (timm's `crop_pct`);
            None resizes both sides, whatever the image's proportions.
        classes: Names of the classes, in the order of the scores; empty where they are not known.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float | None = None
    classes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if not finite or len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ConfigError("mean and std have a finite number for each channel, std above 0.")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ConfigError(f"crop is {self.crop}: it lies between 0 and 1.")
