"""A network that was compressed in a notebook."""

from dataclasses import dataclass
from html import escape

from metaprune_pl.pruning.cost.timing import Timing
from metaprune_pl.reports.text import count, decimal, milliseconds, percent


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """What a network was, and what it is now.

    Attributes:
        macs: Multiply-accumulates for one image, before and after.
        parameters: Numbers of parameters, before and after.
        accuracy: Test accuracy, before and after training.
        times: Of a forward pass here, before and after.
        batch: Images of that pass.
    """

    macs: tuple[int, int]
    parameters: tuple[int, int]
    accuracy: tuple[float, float]
    times: tuple[Timing, Timing]
    batch: int

    def rows(self) -> list[tuple[str, ...]]:
        """Return what there is to say, before and after."""
        before, after = self.times
        now = milliseconds(after.median, after.spread, after.gain_over(before))
        return [
            ("test accuracy (%)", *(percent(value) for value in self.accuracy)),
            ("multiply-accumulates", *(count(value) for value in self.macs)),
            ("parameters", *(count(value) for value in self.parameters)),
            (f"ms, batch {self.batch}", decimal(before.median, before.spread), now),
        ]

    def html(self) -> str:
        """Return a table for a notebook."""
        head = "<tr><th></th><th>before</th><th>after</th></tr>"
        cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self.rows())
        return f"<table>{head}{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
