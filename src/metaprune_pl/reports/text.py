"""Tables and numbers for people."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table

from metaprune_pl.pruning.cost.parameters import BYTES_EACH

LONGEST = 22
"""Characters of a cell that stays in one line; longer ones may break between words."""
UNITS = {"G": 1e9, "M": 1e6, "k": 1e3}


@dataclass(frozen=True)
class Grid:
    """A table of texts, for the console and for pages.

    Attributes:
        title: What it is of.
        columns: Their names; the first is of text, the others of numbers.
        rows: A cell for each column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give tables as wide as the console: where it is narrow, a column for each row."""
        width = options.max_width
        yield from (grid._table(width) for grid in self._within(width))

    def _within(self, width: int) -> list["Grid"]:
        """Return this grid or, of as many of its rows at a time as fit, columns for them."""
        grids = [self]
        for most in range(len(self.rows), 0, -1):
            if all(grid._least <= width for grid in grids):
                break
            starts = range(0, len(self.rows), most)
            grids = [self._turned(self.rows[start : start + most]) for start in starts]
        return grids

    def _turned(self, rows: Sequence[Sequence[str]]) -> "Grid":
        first, *columns = self.columns
        turned = [[name, *(row[i] for row in rows)] for i, name in enumerate(columns, 1)]
        title = self.title if rows[0] is self.rows[0] else ""
        return Grid(title, [first, *(row[0] for row in rows)], turned)

    @property
    def _cells(self) -> list[list[str]]:
        """The cells of each column."""
        return [[row[index] for row in self.rows] for index in range(len(self.columns))]

    @property
    def _least(self) -> int:
        """Width in which no word and no number breaks."""
        columns = zip(self.columns, self._cells, strict=True)
        return _framed(_width(name, cells) for name, cells in columns)

    def _table(self, width: int) -> Table:
        table = Table(title=self.title, title_justify="left")
        columns = list(zip(self.columns, self._cells, strict=True))
        natural = _framed(max(map(cell_len, [name, *cells])) for name, cells in columns)
        tight = self._least <= width < natural
        for index, (name, cells) in enumerate(columns):
            side: JustifyMethod = "right" if index else "left"
            fixed = tight and all(cell_len(cell) <= LONGEST for cell in cells)
            own = _width(name, cells) if fixed else None
            table.add_column(name, justify=side, overflow="fold", width=own)
        for row in self.rows:
            table.add_row(*row)
        return table


def _width(name: str, cells: Sequence[str]) -> int:
    """Return how wide a column is at least: its name may break between words, so may long cells."""
    words = (cell_len(word) for text in (name, *cells) for word in text.split())
    return max([0, *words, *(min(cell_len(cell), LONGEST) for cell in cells)])


def _framed(widths: Iterable[int]) -> int:
    """Return the width of a table with its lines and the space beside them."""
    return 1 + sum(width + 3 for width in widths)


class Line(str):
    """A sentence with a command to copy, which no console breaks."""


Part: TypeAlias = Grid | str
"""What a person sees of a result: a table, or sentences."""


def percent(mean: float, spread: float | None = None) -> str:
    """Write a share in per cent, with its spread."""
    return decimal(100 * mean, None if spread is None else 100 * spread)


def decimal(mean: float, spread: float | None = None) -> str:
    """Write a number with its spread."""
    if spread is None:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {spread:.2f}"


def count(value: float) -> str:
    """Write a large number with a unit."""
    for unit, size in UNITS.items():
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def weight_size(parameters: int) -> str:
    """Write the size of so many parameters as they are stored."""
    return f"{count(BYTES_EACH * parameters)}B"


def milliseconds(median: float, spread: float, gain: float | None) -> str:
    """Write a measured time, and how many times faster it is; None within the spread."""
    factor = "within the spread" if gain is None else f"{gain:.2f}x"
    return f"{decimal(median, spread)} ({factor})"
