"""What every result of a pruned network has in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from metaprune_pl.files import read_json
from metaprune_pl.records import as_record
from metaprune_pl.reports.text import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Result(ABC):
    """What was measured of one network for one target.

    Attributes:
        figure_name: File of the figure of several results; None where there is none.
    """

    figure_name: ClassVar[str | None] = None

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of this result among those of a run."""

    @property
    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What the stored network remembers of it."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """What was asked for, for TensorBoard."""

    @property
    @abstractmethod
    def axis(self) -> float:
        """What results lie over in TensorBoard, in hundredths: speed-up, or share that is left."""

    @property
    @abstractmethod
    def values(self) -> Mapping[str, float]:
        """What came out, for TensorBoard."""

    def row(self) -> dict[str, Any]:
        """Return this result's row of a table on disk."""
        return asdict(self)

    def gained(self, folder: Path) -> str:
        """Say in one sentence where the network is, and what it has gained."""
        return f"The network is in {folder}."

    @classmethod
    @abstractmethod
    def table(cls, results: Sequence[Self]) -> Grid:
        """Return the table of a run's results for the console."""

    @classmethod
    def notes(cls, results: Sequence[Self]) -> list[str]:
        """Return sentences that belong under the table."""
        return []

    @classmethod
    def figure(cls, results: Sequence[Self]) -> "Figure":
        """Draw a run's results."""
        raise NotImplementedError

    @classmethod
    def from_plain(cls, data: Any, file: Path) -> Self:
        """Return the result of its plain values.

        Args:
            data: The values.
            file: Where they come from, for errors.

        Raises:
            StorageError: They are something else.
        """
        return as_record(cls, data, file)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a result that was stored.

        Raises:
            StorageError: The file is missing or damaged.
        """
        return cls.from_plain(read_json(file), file)
