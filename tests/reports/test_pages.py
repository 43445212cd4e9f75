"""Pages of results: whole HTML that loads nothing, with the numbers of report.json."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from metaprune_pl.reports import Curve, CurvePoint, Experiment, Masked, Pruned
from metaprune_pl.reports.chart import Chart, Series
from metaprune_pl.reports.comparison import Comparison
from metaprune_pl.reports.events import Events
from metaprune_pl.reports.page import write_page
from metaprune_pl.reports.pages import page_of_comparison, page_of_results
from metaprune_pl.reports.tables import experiment_tables
from metaprune_pl.reports.uncertainty import said_difference, standard_error
from metaprune_pl.reports.writing import write_result

ODD = 'net <b> & "two"'
"""A name that would break a page that did not escape it."""


def pruned(target: float, **others: Any) -> Pruned:
    return Pruned(
        **{
            "network": ODD,
            "method": "none",
            "target": target,
            "speed_up": target + 0.02,
            "macs": int(2e7 / target),
            "parameters": int(1e6 / target),
            "accuracy_given": 0.87,
            "accuracy_before": 0.87,
            "accuracy_stale": 0.61,
            "accuracy_pruned": 0.81,
            "accuracy_finetuned": 0.89,
            "widths": {"conv<1>": (64, 40), "conv2": (128, 128)},
            "latency": {"1": 2.0, "32": 40.0},
            "latency_unpruned": {"1": 4.0, "32": 41.0},
            "latency_spread": {"1": 0.1, "32": 3.0},
            "latency_unpruned_spread": {"1": 0.2, "32": 1.0},
            "latency_gain": {"1": 2.0, "32": None},
            "test_images": 200,
            **others,
        }
    )


def masked(target: str) -> Masked:
    return Masked(
        network=ODD,
        method="none",
        target=target,
        left=0.5,
        parameters=1000,
        dense=["conv1"],
        accuracy_given=0.87,
        accuracy_before=0.8,
        accuracy_masked=0.75,
        accuracy_finetuned=0.86,
    )


def experiment(over: float = 0.9) -> Experiment:
    points = [
        CurvePoint(speed_up=x, accuracy=y, macs=1000, parameters=100)
        for x, y in ((1.0, over), (2.0, over - 0.01), (4.0, 0.5))
    ]
    curves = [
        Curve(network=ODD, method=method, split="test", points=points)
        for method in ("none", "metanetwork")
    ]
    results = [pruned(2.0), pruned(2.0, method="metanetwork", accuracy_finetuned=0.88)]
    return Experiment(curves=curves, pruned=results)


class Reader(HTMLParser):
    """Reads a page strictly: each element is closed in its turn, and no attribute comes twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)) and tag not in {"script", "link", "img", "iframe"}
        self.links += [str(value) for name, value in attrs if name in {"src", "href", "srcset"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data


def read(folder: Path) -> Reader:
    """Read a folder's page, which must load nothing."""
    text = (folder / "report.html").read_text()
    reader = Reader(text)
    assert not reader.links and not re.search(r"url\(|@import|https?:", text)
    return reader


PAGES = {
    "pruned": page_of_results([pruned(2.0), pruned(3.0)]),
    "masked": page_of_results([masked("0.5"), masked("2:4")]),
    "comparison": page_of_comparison(
        Comparison(experiments={"a": experiment(), "b": experiment(0.8)}, exchanged=False)
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_whole_and_load_nothing(name: str, tmp_path: Path) -> None:
    write_page(PAGES[name], tmp_path)
    reader = read(tmp_path)
    assert reader.cells
    text = (tmp_path / "report.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for table in tables:  # as many cells in each row
        assert len({row.count("|") for row in table.splitlines()}) == 1


@pytest.mark.parametrize(
    "measured", [experiment(), Experiment(masked=[masked("0.5"), masked("2:4")])]
)
def test_an_experiments_page_has_the_numbers_of_its_report(
    measured: Experiment, tmp_path: Path
) -> None:
    write_result(measured, tmp_path, Events(root=tmp_path, folder=tmp_path, is_silent=True))
    results = json.loads((tmp_path / "report.json").read_text())["results"]
    cells = read(tmp_path).cells
    for row in [*results["pruned"], *results["masked"]]:
        for name in ("accuracy_finetuned", "accuracy_pruned", "accuracy_masked"):
            if name in row:
                assert f"{100 * row[name]:.2f}" in cells
    for row in results["curves"]:
        assert f"{row['area']:.4f}" in cells and f"{row['flat_region']:.2f}" in cells


def test_one_networks_page_has_the_numbers_of_its_report(tmp_path: Path) -> None:
    results = [pruned(2.0), pruned(3.0)]
    write_result(results, tmp_path, Events(root=tmp_path, folder=tmp_path, is_silent=True))
    cells = read(tmp_path).cells
    for row in json.loads((tmp_path / "report.json").read_text()):
        for name in ("given", "stale", "pruned", "finetuned"):
            assert f"{100 * row[f'accuracy_{name}']:.2f}" in cells
        assert f"{row['speed_up']:.2f}x" in cells and f"{row['macs'] / 1e6:.2f} M" in cells
    html = (tmp_path / "report.html").read_text()
    assert "4.00 ± 0.20" in cells and "2.00 ± 0.10 (2.00x)" in cells
    assert "40 of 64" in html and "conv&lt;1&gt;" in html


def test_columns_are_explained_and_those_that_say_nothing_left_out() -> None:
    same = [pruned(2.0)]
    assert "made ready %" not in Pruned.cells(same)[0]
    (legend,) = Pruned.notes(same)
    assert "unrepaired (straight after pruning)" in legend and "made ready" not in legend
    other = [pruned(2.0, accuracy_before=0.5, accuracy_stale=None)]
    assert {"made ready %", "unrepaired %"} & {*Pruned.cells(other)[0]} == {"made ready %"}


def test_a_size_is_told_where_one_was_asked_for() -> None:
    for cost, told in (("parameters", True), ("multiply-accumulates", False)):
        result = pruned(2.0, cost=cost)
        columns, (row,) = Pruned.cells([result])
        assert len(columns) == len(row) and ("weights" in columns) == told
        assert ("2.00 MB" in row) == told  # half a million numbers of four bytes
        assert f"2.02x in {cost}" in result.gained(Path("run"))


def test_a_training_that_was_thrown_away_is_told() -> None:
    for results in ([pruned(2.0), pruned(3.0)], [masked("0.5"), masked("2:4")]):
        kind, kept = type(results[0]), results[0]
        said = " ".join(kind.notes([kept, replace(results[1], training_kept=False)]))
        assert ("3x: no epoch" in said) or ("2:4: no epoch" in said)
        assert "no epoch" not in " ".join(kind.notes(results))


def test_a_mean_over_networks_has_its_spread() -> None:
    bases = (0.98, 0.96)
    of_each = [pruned(2.0, network=str(base), accuracy_base=base) for base in bases]
    zeroed = [replace(masked("0.5"), network=str(base), accuracy_base=base) for base in bases]
    for grid in experiment_tables(Experiment(pruned=of_each, masked=zeroed))[:2]:
        (row,) = grid.rows
        assert row[grid.columns.index("base %")] == "97.00 ± 1.41"


def test_four_images_of_two_hundred_are_no_gain() -> None:
    assert "87.00 % before: +2.00 ± 3.25 points, within noise." in pruned(2.0).gained(Path("run"))
    assert said_difference(0.87, 0.5, 200) == "+37.00 ± 4.26 points"
    assert said_difference(0.87, 0.85, None) == "+2.00 points"
    tosses = [(0.5, 1), (0.5, 0)]  # of one image each: a coin's variance is a quarter
    variance = sum(share * (side - 0.5) ** 2 for share, side in tosses)
    assert standard_error(0.5, 0.5, 1) == pytest.approx(math.sqrt(2 * variance))


def test_no_mark_of_an_axis_is_beyond_all_images() -> None:
    points = [(1.0, 100.0, "as given"), (2.0, 99.5, "2x")]
    chart = Chart(x_label="", y_label="", series=[Series(name="a", points=points)])
    assert [tick.text for tick in chart.y_ticks()] == ["98", "99", "100"]
