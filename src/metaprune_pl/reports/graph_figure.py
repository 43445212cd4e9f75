"""A picture of a network's graph.

Layers as bars from the image to the classes, and what joins them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from metaprune_pl.pruning import PruningGroups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAYS, ALONE = "#c9c9c9", "#9db8d2"
"""Colours of channels that cannot be pruned, and of those that no other layer shares."""
LONGEST_ROW = 44
"""Columns of a row at most."""
COLUMN, HEAD = 0.42, 0.95
"""Width of a column and height of title and legend, inches."""
LEGEND = (
    "Bars: a layer's channels. One colour: pruned together; blue-grey: pruned alone; grey: cannot "
    "be pruned.",
    "Lines lead to the next layer, arcs are shortcuts, concatenations and branches, dotted arcs "
    "channel gates.",
)
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One neuron group as it is drawn.

    Attributes:
        name: Its name.
        size: Number of neurons.
        row: Row of the picture, from above.
        x: Column in the row.
        y: Height of its middle above the row's line.
        height: Its height; its area grows with the number of neurons.
        colors: From below, pieces of the bar (share of its height) and their colours: one for each
            pruning group.
    """

    name: str
    size: int
    row: int
    x: float
    y: float
    height: float
    colors: tuple[tuple[float, str], ...]


def draw_graph(groups: PruningGroups, title: str) -> "Figure":
    """Draw the graph of a network.

    Each neuron group is a bar, at its depth from the left; rows continue below. Bars of one colour
    are pruned together. Straight lines lead to the next layer, arcs above to later ones, dotted
    ones back (channel gates).
    """
    from matplotlib.figure import Figure

    bars, edges = lay_out(groups), _edges(groups)
    rows, columns = 1 + max(bar.row for bar in bars), 1 + max(bar.x for bar in bars)
    names = max(len(_short(bar.name)) for bar in bars)
    tall = [
        2 * max(abs(bar.y) + bar.height / 2 for bar in bars if bar.row == row)
        for row in range(rows)
    ]
    above = [0.3] * rows
    for source, target, _ in edges:
        last = columns if bars[target].row > bars[source].row else bars[target].x
        above[bars[source].row] = max(above[bars[source].row], _rise(abs(last - bars[source].x)))
    height = sum(tall) + sum(above) + rows * (0.3 + 0.062 * names)
    width = max(7.0, COLUMN * (columns + 0.9))
    figure = Figure(figsize=(width, height + HEAD), dpi=130)
    axes: Axes = figure.add_axes((0.0, 0.0, 1.0, height / (height + HEAD)))
    axes.set_xlim(-0.9, width / COLUMN - 0.9)
    axes.set_ylim(0, height)
    axes.axis("off")
    middles, top = [], height
    for row in range(rows):
        middles.append(top - above[row] - tall[row] / 2)
        top -= above[row] + tall[row] + 0.3 + 0.062 * names
    style = {
        "color": "#333333",
        "lw": 0.8,
        "alpha": max(0.2, min(0.9, 12 / len(edges) ** 0.5)),
        "zorder": 2,
    }
    page = _Page(axes=axes, middles=middles, tall=tall, columns=columns, style=style)
    for source, target, _ in edges:
        page.draw_edge(bars[source], bars[target])
    for bar in bars:
        page.draw_bar(bar)
    page.draw_names(bars)
    for line, (text, size) in enumerate(((title, 11), (LEGEND[0], 7), (LEGEND[1], 7))):
        weight = "bold" if line == 0 else "normal"
        y = 1 - (0.25 + 0.26 * line - 0.07 * (line > 1)) / (height + HEAD)
        figure.text(
            0.2 / width, y, text, fontsize=size, va="center", weight=weight, color="#222222"
        )
    return figure


def lay_out(groups: PruningGroups) -> list[Bar]:
    """Place every neuron group: depth to the right, groups of one depth above each other.

    Long networks are drawn in several rows.
    """
    graph = groups.graph
    depth = _depths(groups)
    per_row = _row_length(1 + max(depth))
    colors = _colors(groups)
    unit = 0.9 / max(group.size for group in graph.groups) ** 0.5
    heights = [max(0.14, unit * group.size**0.5) for group in graph.groups]
    bars = []
    for number, group in enumerate(graph.groups):
        column = [other for other in range(len(depth)) if depth[other] == depth[number]]
        total = sum(heights[other] for other in column) + 0.22 * (len(column) - 1)
        under = sum(heights[other] + 0.22 for other in column if other > number)
        units = groups.unit[group.start : group.stop]
        shown = torch.where(groups.prunable[units], groups.group[units], -1)
        pieces, counts = torch.unique_consecutive(shown, return_counts=True)
        bars.append(
            Bar(
                name=group.name,
                size=group.size,
                row=depth[number] // per_row,
                x=depth[number] % per_row,
                y=under + heights[number] / 2 - total / 2,
                height=heights[number],
                colors=tuple(
                    (count / group.size, colors[piece] if piece >= 0 else STAYS)
                    for piece, count in zip(pieces.tolist(), counts.tolist(), strict=True)
                ),
            )
        )
    return bars


def _row_length(depth: int) -> int:
    rows = -(-depth // LONGEST_ROW)
    return -(-depth // rows)


def _owners(groups: PruningGroups) -> torch.Tensor:
    return torch.repeat_interleave(torch.tensor([group.size for group in groups.graph.groups]))


def _edges(groups: PruningGroups) -> list[tuple[int, int, bool]]:
    """Pairs of neuron groups that are connected, source first, and whether it is an identity."""
    owner = _owners(groups)
    found: dict[tuple[int, int], bool] = {}
    for connection in groups.graph.connections:
        targets = owner[connection.target].unique().tolist()
        for source in owner[connection.source].unique().tolist():
            for target in targets:
                found[source, target] = (
                    found.get((source, target), True) and connection.parameter is None
                )
    return [
        (source, target, identity)
        for (source, target), identity in found.items()
        if source != target
    ]


def _depths(groups: PruningGroups) -> list[int]:
    """Longest way from the image to each neuron group, against no gate's direction."""
    sources: dict[int, list[int]] = {}
    for source, target, _ in _edges(groups):
        sources.setdefault(target, []).append(source)
    depth: list[int] = []
    for number in range(len(groups.graph.groups)):
        depth.append(
            1
            + max(
                (depth[source] for source in sources.get(number, []) if source < number), default=-1
            )
        )
    return depth


def _colors(groups: PruningGroups) -> dict[int, str]:
    """A colour for each pruning group that several neuron groups share."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    pairs = torch.unique(torch.stack([groups.group[groups.unit], _owners(groups)]), dim=1)
    times = torch.bincount(pairs[0], minlength=len(groups.names)).tolist()
    palette = [colormaps["tab10"](index) for index in (0, 1, 2, 3, 4, 5, 6, 8, 9)]
    colors, used = {}, 0
    for number, count in enumerate(times):
        colors[number] = to_hex(palette[used % len(palette)]) if count > 1 else ALONE
        used += count > 1
    return colors


def _rise(distance: float) -> float:
    """Height of an arc over so many columns."""
    return 0.3 if distance <= 1 else min(1.1, 0.36 + 0.035 * distance)


@dataclass(frozen=True, kw_only=True)
class _Page:
    """Where things are drawn: the heights of the rows' middles and of the tallest bars in them."""

    axes: "Axes"
    middles: Sequence[float]
    tall: Sequence[float]
    columns: float
    style: dict[str, Any]

    def draw_bar(self, bar: Bar) -> None:
        from matplotlib.patches import Rectangle

        bottom = self.middles[bar.row] + bar.y - bar.height / 2
        frame = Rectangle(
            (bar.x - 0.3, bottom), 0.6, bar.height, fill=False, ec="#333333", lw=0.5, zorder=4
        )
        for share, color in bar.colors:
            self.axes.add_patch(
                Rectangle(
                    (bar.x - 0.3, bottom), 0.6, share * bar.height, color=color, lw=0, zorder=3
                )
            )
            bottom += share * bar.height
        self.axes.add_patch(frame)
        box = {"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.75}
        y = self.middles[bar.row] + bar.y
        self.axes.text(
            bar.x,
            y,
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
        start, end = (source.x, self._top(source)), (target.x, self._top(target))
        distance = target.x - source.x
        if source.row == target.row and distance == 1:
            self._line(
                (source.x + 0.3, self._middle(source)), (target.x - 0.3, self._middle(target))
            )
        elif source.row == target.row:
            level = self._level(source.row, abs(distance))
            back = {"ls": ":", "lw": 1.1} if distance <= 0 else {}
            bulge = (8 * level - start[1] - end[1]) / 6  # its middle is at that level
            self._curve(start, (start[0], bulge), (end[0], bulge), end, **back)
        elif target.row == source.row + 1 and distance == 1 - self.columns:
            right, left = self.columns - 0.4, -0.6
            self._line((source.x + 0.3, self._middle(source)), (right, self.middles[source.row]))
            self._line((left, self.middles[target.row]), (target.x - 0.3, self._middle(target)))
        else:
            level = self._level(source.row, self.columns - source.x)
            self._curve(start, (start[0], level), (start[0], level), (start[0] + 1.2, level))
            self._line((start[0] + 1.2, level), (self.columns - 0.4, level))
            for row in range(source.row + 1, target.row):
                self._line(
                    (-0.6, self._level(row, self.columns)),
                    (self.columns - 0.4, self._level(row, self.columns)),
                )
            level = self._level(target.row, target.x)
            self._line((-0.6, level), (end[0] - 1.2, level))
            self._curve((end[0] - 1.2, level), (end[0], level), (end[0], level), end)

    def draw_names(self, bars: Sequence[Bar]) -> None:
        """Write the names below each column."""
        columns: dict[tuple[int, float], list[str]] = {}
        for bar in bars:
            columns.setdefault((bar.row, bar.x), []).append(_short(bar.name))
        for (row, x), names in columns.items():
            names = names if len(names) <= 4 else [*names[:3], f"and {len(names) - 3} more"]
            y = self.middles[row] - self.tall[row] / 2 - 0.08
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

    def _top(self, bar: Bar) -> float:
        return self.middles[bar.row] + bar.y + bar.height / 2

    def _level(self, row: int, distance: float) -> float:
        return self.middles[row] + self.tall[row] / 2 + 0.85 * _rise(distance)

    def _line(self, start: Point, end: Point) -> None:
        self.axes.plot([start[0], end[0]], [start[1], end[1]], **self.style)

    def _curve(self, *points: Point, **style: Any) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        path = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        self.axes.add_patch(PathPatch(path, fill=False, **{**self.style, **style}))


def _short(name: str) -> str:
    """The end of a path, at most 36 characters.

    Whole parts where they tell a number of the layer.
    """
    rest = name
    while len(rest) > 36 and "." in rest:
        rest = rest.partition(".")[2]
    if any(letter.isdigit() for letter in name) > any(letter.isdigit() for letter in rest):
        rest = name
    return rest if len(rest) <= 36 else f"…{rest[-35:]}"
