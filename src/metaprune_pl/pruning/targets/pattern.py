"""N of every M weights stay, the layout that sparse tensor cores take (2:4)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from metaprune_pl.errors import ConfigError, PruningError
from metaprune_pl.pruning.targets.base import Masks
from metaprune_pl.pruning.targets.masks import MaskTarget


@dataclass(frozen=True, kw_only=True)
class Pattern(MaskTarget):
    """The N most important of each M weights that follow each other along the input channels stay.

    Attributes:
        keep: N.
        of: M.
    """

    keep: int
    of: int

    def __post_init__(self) -> None:
        if not 0 < self.keep < self.of:
            raise _no_pattern(self.text)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the pattern of `N:M`.

        Raises:
            ConfigError: The text is none.
        """
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None:
            raise _no_pattern(text)
        return cls(keep=int(match[1]), of=int(match[2]))

    @property
    def label(self) -> str:
        """The pattern itself."""
        return self.text

    @property
    def text(self) -> str:
        """What is asked for, as a config has it."""
        return f"{self.keep}:{self.of}"

    def masks(
        self, scores: Mapping[str, Tensor], dimensions: Mapping[str, tuple[int, int]]
    ) -> Masks:
        """Keep N of each M weights, where M divides the inputs: see `MaskTarget.masks`."""
        kept = {}
        for name, (dim, groups) in dimensions.items():
            if scores[name].shape[dim] // groups % self.of == 0:
                kept[name] = pattern_mask(
                    scores[name],
                    self.keep,
                    self.of,
                    dim,
                )
        if not kept:
            raise PruningError(
                f"no layer of the network has input channels that {self.of} divides, "
                f"as {self.text} needs."
            )
        return Masks(kept=kept, dense=tuple(sorted(dimensions.keys() - kept.keys())))


def _no_pattern(text: str) -> ConfigError:
    return ConfigError(f"masks.patterns: '{text}' is no pattern N:M with 0 < N < M, such as '2:4'.")


def pattern_mask(scores: Tensor, keep: int, of: int, dim: int) -> Tensor:
    """Mark the `keep` largest of each `of` entries that follow each other along a dimension.

    Of equals the first.
    """
    moved = scores.movedim(dim, -1)
    grouped = moved.reshape(-1, of)
    order = torch.argsort(
        grouped,
        dim=1,
        descending=True,
        stable=True,
    )
    mask = torch.zeros_like(grouped, dtype=torch.bool).scatter(1, order[:, :keep], True)
    return mask.reshape(moved.shape).movedim(-1, dim)
