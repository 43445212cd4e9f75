"""A report that one looks at: one HTML file that loads nothing, and the same as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from metaprune_pl.files import write_text
from metaprune_pl.records import read_record
from metaprune_pl.reports.chart import HEIGHT, LEFT, WIDTH, Chart
from metaprune_pl.reports.next_step import command_line
from metaprune_pl.reports.text import Grid


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Widths of a network's layers, before and after.

    Attributes:
        name: Name of the network.
        layers: Layer to its output channels, before and after.
    """

    name: str
    layers: Mapping[str, tuple[int, int]]

    @property
    def widest(self) -> int:
        """Channels of the widest layer."""
        return max(before for before, _ in self.layers.values())


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a report says.

    Attributes:
        title: What it is of.
        sentences: What follows from it; the first is the recommendation.
        charts: Pictures.
        grids: Tables.
        widths: Widths of pruned networks.
    """

    title: str
    sentences: Sequence[str]
    charts: Sequence[Chart] = ()
    grids: Sequence[Grid] = ()
    widths: Sequence[Widths] = field(default_factory=list)


def write_page(page: Page, folder: Path) -> None:
    """Write `report.html` and `report.md` to a run's folder, with the command that repeats it."""
    values = {
        "page": page,
        "command": _command(folder),
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
    }
    for name in ("report.html", "report.md"):
        write_text(folder / name, _template(name).render(values))


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("metaprune_pl.reports"),
        autoescape=name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"{name}.jinja")


def _command(folder: Path) -> str | None:
    """Return the command that repeats a run, where its settings are kept."""
    run, config = folder / "run.json", folder / "config.yaml"
    if not run.is_file() or not config.is_file():
        return None
    facts = read_record(dict[str, Any], run)
    return command_line(facts["command"], "--config", config, "--out", Path(f"{folder}.again"))
