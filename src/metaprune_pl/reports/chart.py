"""Lines and points as coordinates of a picture, which a template draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 640
HEIGHT = 360
LEFT = 56
BOTTOM = 44
MARGIN = 16
TICKS = 5
COLORS = ("#1f6feb", "#d1242f", "#57606a", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#0a7ea4")


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one colour.

    Attributes:
        name: What they are of.
        points: x, y and what is said of each.
        line: Whether a line joins them.
    """

    name: str
    points: Sequence[tuple[float, float, str]]
    line: bool = True


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A point where it is drawn."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A series where it is drawn."""

    name: str
    color: str
    dots: list[Dot]
    path: str


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark of an axis, in the picture."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture of several series.

    Attributes:
        x_label: What is to the right.
        y_label: What is upwards.
        series: The series.
    """

    x_label: str
    y_label: str
    series: Sequence[Series]

    def drawn(self) -> list[Drawn]:
        """Return the series in coordinates of the picture."""
        result = []
        colors = self.legend()
        for series in self.series:
            dots = [Dot(x=self._x(x), y=self._y(y), text=text) for x, y, text in series.points]
            path = " ".join(f"{dot.x:.1f},{dot.y:.1f}" for dot in dots) if series.line else ""
            color = colors[series.name]
            result.append(Drawn(name=series.name, color=color, dots=dots, path=path))
        return result

    def legend(self) -> dict[str, str]:
        """Return the colour of each name; several series may have one name."""
        names = dict.fromkeys(series.name for series in self.series)
        return {name: COLORS[index % len(COLORS)] for index, name in enumerate(names)}

    def x_ticks(self) -> list[Tick]:
        """Return the marks of the lower axis."""
        return [Tick(at=self._x(value), text=f"{value:g}") for value in _marks(*self._range(0))]

    def y_ticks(self) -> list[Tick]:
        """Return the marks of the left axis, which is of percent."""
        marks = [value for value in _marks(*self._range(1)) if 0 <= value <= 100]
        return [Tick(at=self._y(value), text=f"{value:g}") for value in marks]

    def _range(self, axis: int) -> tuple[float, float]:
        values = [float(point[axis]) for series in self.series for point in series.points]
        low, high = min(values), max(values)
        pad = 0.05 * (high - low) or 0.5
        if axis == 1:
            pad = max(pad, 2.5 - (high - low) / 2)  # a tenth of a point is no cliff
        return low - pad, high + pad

    def _x(self, value: float) -> float:
        low, high = self._range(0)
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - MARGIN)

    def _y(self, value: float) -> float:
        low, high = self._range(1)
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - MARGIN)


def _marks(low: float, high: float) -> list[float]:
    """Return round numbers between two, a handful."""
    rough = (high - low) / TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [round(index * step, 10) for index in range(first, math.floor(high / step) + 1)]
