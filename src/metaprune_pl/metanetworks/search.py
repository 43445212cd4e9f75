"""The search for a metanetwork among those of all epochs (paper, D.1.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metaprune_pl.errors import ConfigError
from metaprune_pl.metanetworks.storage import epoch_of, stored_metanetworks


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How metanetworks are searched.

    Attributes:
        how: `binary` starts in the middle and goes to later epochs, which make networks easier to
            prune, as long as the flat region of the curve keeps its accuracy; `all` draws every
            curve.
        drop: How much lower than the networks' own validation accuracy that of the flat region may
            be.
        target: Accuracy that the flat region has to keep, instead of `drop`.
        epochs: Meta-training epochs to choose from; None is all.
    """

    how: Literal["binary", "all"] = "binary"
    drop: float = 0.02
    target: float | None = None
    epochs: list[int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1 or not (self.target is None or 0 < self.target <= 1):
            raise ConfigError(
                "search: drop and target are shares of the images, such as 0.02 and 0.93."
            )

    def floor(self, own: float) -> float:
        """Return the accuracy to keep, where that of the networks themselves is `own`."""
        return own - self.drop if self.target is None else self.target

    def among(self, folder: str | None) -> list[Path]:
        """Return the metanetworks of a folder to choose from.

        Raises:
            ConfigError: No folder is given, or it has none of these epochs.
            StorageError: There is no metanetwork in it.
        """
        if folder is None:
            raise ConfigError("set metanetwork to the folder of the metanetworks to choose from.")
        stored = stored_metanetworks(folder)
        if self.epochs is None:
            return stored
        chosen = [path for path in stored if epoch_of(path) in self.epochs]
        if not chosen:
            raise ConfigError(f"search.epochs: '{folder}' holds no metanetwork of these epochs.")
        return chosen

    def count_kept(self, count: int, keeps: Callable[[int], bool]) -> int:
        """Return after how many epochs accuracy is no longer kept.

        `binary` asks at most log2(count) + 1 times.

        Args:
            count: Number of epochs.
            keeps: Whether the metanetwork of an epoch, counted from 0, keeps accuracy.
        """
        if self.how == "all":
            answers = [keeps(index) for index in range(count)]
            return answers.index(False) if False in answers else count
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if keeps(middle) else (low, middle)
        return low
