"""A figure of a network's graph.

Layers are bars from the image to the classes, with their connections.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metaprune_pl.pruning import PruningGroups
from metaprune_pl.reports.graph_layout import Bar, connected, lay_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#333333"
COLUMN = 0.42
"""Width of a column, inches."""
HEAD = 0.95
"""Height of title and legend, inches."""
HALF_BAR = 0.3
"""Half the width of a bar, columns."""
LEGEND = (
    "Bars: a layer's channels. One colour: pruned together; blue-grey: pruned alone; grey: cannot "
    "be pruned.",
    "Lines lead to the next layer, arcs are shortcuts, concatenations and branches, dotted arcs "
    "channel gates.",
)
Point = tuple[float, float]


def draw_graph(groups: PruningGroups, title: str) -> "Figure":
    """Draw the graph of a network.

    Each neuron group is a bar, at its depth from the left; rows continue below. Bars of one colour
    are pruned together. Straight lines lead to the next layer, arcs above to later ones, dotted
    ones back (channel gates).
    """
    from matplotlib.figure import Figure

    bars = lay_out(groups)
    edges = connected(groups)
    columns = 1 + max(bar.x for bar in bars)
    rows = _row_heights(bars, edges, columns)
    height = rows.total
    width = max(7.0, COLUMN * (columns + 0.9))
    figure = Figure(figsize=(width, height + HEAD), dpi=130)
    axes: Axes = figure.add_axes((0.0, 0.0, 1.0, height / (height + HEAD)))
    axes.set_xlim(-0.9, width / COLUMN - 0.9)
    axes.set_ylim(0, height)
    axes.axis("off")
    opacity = 12 / len(edges) ** 0.5
    style = {
        "color": INK,
        "lw": 0.8,
        "alpha": max(0.2, min(0.9, opacity)),
        "zorder": 2,
    }
    page = _Page(
        axes=axes, middles=rows.middles(), tallest=rows.tallest, columns=columns, style=style
    )
    for source, target in edges:
        page.draw_edge(bars[source], bars[target])
    for bar in bars:
        page.draw_bar(bar)
    page.draw_names(bars)
    _write_head(figure, title)
    return figure


def _write_head(figure: "Figure", title: str) -> None:
    """Write the title and the two lines of the legend."""
    width, height = figure.get_size_inches()
    lines = (
        (title, 11, "bold", 0.25),
        (LEGEND[0], 7, "normal", 0.51),
        (LEGEND[1], 7, "normal", 0.7),
    )
    for text, size, weight, below_top in lines:
        figure.text(
            0.2 / width,
            1 - below_top / height,
            text,
            fontsize=size,
            weight=weight,
            va="center",
            color="#222222",
        )


@dataclass(frozen=True, kw_only=True)
class _RowHeights:
    """Heights of the rows, inches.

    Attributes:
        tallest: The tallest column of bars of each row.
        arcs: Room for arcs above the bars of each row.
        names: Room for names below the bars of any row.
    """

    tallest: list[float]
    arcs: list[float]
    names: float

    @property
    def total(self) -> float:
        """Height of all rows."""
        return sum(self.tallest) + sum(self.arcs) + len(self.tallest) * self.names

    def middles(self) -> list[float]:
        """Height of the middle of each row above the foot of the figure."""
        middles = []
        top = self.total
        for tallest, arcs in zip(self.tallest, self.arcs, strict=True):
            middles.append(top - arcs - tallest / 2)
            top -= arcs + tallest + self.names
        return middles


def _row_heights(
    bars: Sequence[Bar], edges: Sequence[tuple[int, int]], columns: float
) -> _RowHeights:
    rows = 1 + max(bar.row for bar in bars)
    tallest = [0.0] * rows
    for bar in bars:
        reach = abs(bar.y) + bar.height / 2
        tallest[bar.row] = max(tallest[bar.row], 2 * reach)
    arcs = [0.3] * rows
    for source, target in edges:
        start = bars[source]
        end = bars[target]
        last = columns if end.row > start.row else end.x
        rise = _rise(abs(last - start.x))
        arcs[start.row] = max(arcs[start.row], rise)
    longest = max(len(_short(bar.name)) for bar in bars)
    return _RowHeights(tallest=tallest, arcs=arcs, names=0.3 + 0.062 * longest)


def _rise(distance: float) -> float:
    """Height of an arc over so many columns."""
    return 0.3 if distance <= 1 else min(1.1, 0.36 + 0.035 * distance)


@dataclass(frozen=True, kw_only=True)
class _Page:
    """Draws on axes whose rows are known.

    Attributes:
        axes: What is drawn on, a column wide and an inch high for each unit.
        middles: Height of the middle of each row.
        tallest: Height of the tallest column of bars of each row.
        columns: Columns of a row.
        style: Of lines.
    """

    axes: "Axes"
    middles: Sequence[float]
    tallest: Sequence[float]
    columns: float
    style: dict[str, Any]

    def draw_bar(self, bar: Bar) -> None:
        """Draw a neuron group with its size on it."""
        middle = self._middle(bar)
        bottom = middle - bar.height / 2
        for share, color in bar.colors:
            height = share * bar.height
            self._rectangle(
                bar,
                bottom,
                height,
                color=color,
                lw=0,
                zorder=3,
            )
            bottom += height
        bottom = middle - bar.height / 2
        self._rectangle(
            bar,
            bottom,
            bar.height,
            fill=False,
            ec=INK,
            lw=0.5,
            zorder=4,
        )
        box = {"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.75}
        self.axes.text(
            bar.x,
            middle,
            str(bar.size),
            fontsize=5,
            ha="center",
            va="center_baseline",
            zorder=5,
            bbox=box,
        )

    def draw_edge(self, source: Bar, target: Bar) -> None:
        """Draw a connection.

        One into a later row runs along the top to the right and comes in on the left.
        """
        distance = target.x - source.x
        if source.row == target.row and distance == 1:
            self._line(self._right(source), self._left(target))
        elif source.row == target.row:
            self._draw_arc(source, target)
        elif target.row == source.row + 1 and distance == 1 - self.columns:
            self._line(self._right(source), (self.columns - 0.4, self.middles[source.row]))
            self._line((-0.6, self.middles[target.row]), self._left(target))
        else:
            self._draw_detour(source, target)

    def _draw_arc(self, source: Bar, target: Bar) -> None:
        """Draw an arc within a row, dotted where it leads back."""
        start = self._top(source)
        end = self._top(target)
        distance = target.x - source.x
        level = self._level(source.row, abs(distance))
        bulge = (8 * level - start[1] - end[1]) / 6  # the middle of the arc is at that level
        back = {"ls": ":", "lw": 1.1} if distance <= 0 else {}
        self._curve(
            start,
            (start[0], bulge),
            (end[0], bulge),
            end,
            **back,
        )

    def _draw_detour(self, source: Bar, target: Bar) -> None:
        """Draw a connection above the bars: to the right, along rows in between, from the left."""
        right = self.columns - 0.4
        left = -0.6
        x, top = self._top(source)
        level = self._level(source.row, self.columns - source.x)
        self._curve(
            (x, top),
            (x, level),
            (x, level),
            (x + 1.2, level),
        )
        self._line((x + 1.2, level), (right, level))
        for row in range(source.row + 1, target.row):
            level = self._level(row, self.columns)
            self._line((left, level), (right, level))
        x, top = self._top(target)
        level = self._level(target.row, target.x)
        self._line((left, level), (x - 1.2, level))
        self._curve(
            (x - 1.2, level),
            (x, level),
            (x, level),
            (x, top),
        )

    def draw_names(self, bars: Sequence[Bar]) -> None:
        """Write the names below each column."""
        columns: dict[tuple[int, float], list[str]] = {}
        for bar in bars:
            columns.setdefault((bar.row, bar.x), []).append(_short(bar.name))
        for (row, x), names in columns.items():
            if len(names) > 4:
                names = [*names[:3], f"and {len(names) - 3} more"]
            y = self.middles[row] - self.tallest[row] / 2 - 0.08
            self.axes.text(
                x,
                y,
                "\n".join(names),
                fontsize=6,
                rotation=90,
                ha="center",
                va="top",
                linespacing=1.0,
            )

    def _middle(self, bar: Bar) -> float:
        return self.middles[bar.row] + bar.y

    def _left(self, bar: Bar) -> Point:
        return bar.x - HALF_BAR, self._middle(bar)

    def _right(self, bar: Bar) -> Point:
        return bar.x + HALF_BAR, self._middle(bar)

    def _top(self, bar: Bar) -> Point:
        return bar.x, self._middle(bar) + bar.height / 2

    def _level(self, row: int, distance: float) -> float:
        """Height at which an arc over so many columns of a row runs."""
        return self.middles[row] + self.tallest[row] / 2 + 0.85 * _rise(distance)

    def _rectangle(self, bar: Bar, bottom: float, height: float, **style: Any) -> None:
        from matplotlib.patches import Rectangle

        corner = (bar.x - HALF_BAR, bottom)
        self.axes.add_patch(Rectangle(corner, 2 * HALF_BAR, height, **style))

    def _line(self, start: Point, end: Point) -> None:
        self.axes.plot([start[0], end[0]], [start[1], end[1]], **self.style)

    def _curve(self, *points: Point, **style: Any) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        path = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        self.axes.add_patch(PathPatch(path, fill=False, **{**self.style, **style}))


def _short(name: str) -> str:
    """Return the end of a path, at most 36 characters.

    Whole parts are left out, unless they hold the only index of the layer.
    """
    rest = name
    while len(rest) > 36 and "." in rest:
        rest = rest.partition(".")[2]
    indexed = any(letter.isdigit() for letter in name)
    if indexed and not any(letter.isdigit() for letter in rest):
        rest = name
    return rest if len(rest) <= 36 else f"…{rest[-35:]}"
