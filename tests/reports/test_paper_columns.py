"""The columns of the paper's tables 1, 8, 9, 11, 14, 15 and 21, and our numbers beside theirs."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from metaprune_pl.errors import ConfigError
from metaprune_pl.reports import Experiment, Masked, Pruned
from metaprune_pl.reports.paper import QUANTITIES, PaperRow, beside_paper
from metaprune_pl.reports.summary import pruned_rows
from metaprune_pl.reports.tables import experiment_tables, rows_beside_paper

RESULT = Pruned(
    network="net",
    method="metanetwork",
    target=2.3,
    speed_up=2.5,
    macs=40,
    parameters=30,
    accuracy_given=0.76,
    accuracy_before=0.75,
    accuracy_pruned=0.5,
    accuracy_finetuned=0.758,
    accuracy_base=0.7614,
    macs_unpruned=100,
    parameters_unpruned=60,
    accuracy_base_top_5=0.9311,
    accuracy_finetuned_top_5=0.9278,
)
PAPER = PaperRow(
    table=14,
    row="ours",
    target=2.3,
    numbers={"base": 76.14, "accuracy": 76.13, "difference_top_5": -0.33, "macs_pruned": 57.2},
)


def test_what_follows_from_the_rest() -> None:
    derived = RESULT.derived
    assert derived["difference"] == pytest.approx(0.758 - 0.7614)
    assert derived["difference_top_5"] == pytest.approx(0.9278 - 0.9311)
    assert (derived["macs_pruned"], derived["left"]) == (0.6, 0.5)
    old = replace(RESULT, accuracy_base=None, macs_unpruned=None, accuracy_base_top_5=None)
    assert old.derived == {
        "difference": None,
        "difference_top_5": None,
        "macs_pruned": None,
        "left": 0.5,
    }


def test_means_and_deviations_over_prunings_of_one_network() -> None:
    again = replace(RESULT, accuracy_finetuned=0.768, macs=38, speed_up=100 / 38)
    (row,) = pruned_rows(Experiment(pruned=[RESULT, again]))
    assert (row["networks"], row["prunings"]) == (1, 2)
    assert row["accuracy_finetuned"] == pytest.approx(0.763)
    assert row["difference"] == pytest.approx(0.763 - 0.7614)
    assert row["difference_std"] == pytest.approx(0.01 / 2**0.5)
    assert row["macs_pruned"] == pytest.approx(0.61)
    assert row["speed_up_std"] == pytest.approx((100 / 38 - 2.5) / 2**0.5)
    assert {QUANTITIES[name] for name in PAPER.numbers} <= row.keys() >= set(QUANTITIES.values())


def written(experiment: Experiment) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(*experiment_tables(experiment))
    return console.export_text()


def test_the_table_has_top_5_where_there_are_enough_classes() -> None:
    text = written(Experiment(pruned=[RESULT], paper=[PAPER]))
    for column in ("pruned MACs %", "left params %", "base %", "finetuned %", "difference"):
        assert column in text
    for value in ("60.00", "50.00", "76.14", "75.80", "-0.34", "93.11", "92.78", "-0.33"):
        assert value in text
    few = replace(RESULT, accuracy_base_top_5=None, accuracy_finetuned_top_5=None)
    assert "top-5" in text and "top-5" not in written(Experiment(pruned=[few]))


def test_our_numbers_beside_the_papers() -> None:
    rows = rows_beside_paper(Experiment(pruned=[RESULT], paper=[PAPER]))
    assert [row["quantity"] for row in rows] == list(PAPER.numbers)
    assert [row["paper"] for row in rows] == list(PAPER.numbers.values())
    assert [row["ours"] for row in rows] == pytest.approx([76.14, 75.8, -0.33, 60.0])
    assert [row["difference"] for row in rows] == pytest.approx([0, -0.33, 0, 2.8], abs=1e-9)
    other = beside_paper([replace(PAPER, target=2.9)], pruned_rows(Experiment(pruned=[RESULT])))
    assert [(row["ours"], row["difference"]) for row in other] == [(None, None)] * 4
    with pytest.raises(ConfigError, match="'flops' is none of base, accuracy"):
        PaperRow(table=1, row="", target=2.0, numbers={"flops": 1.0})


def test_masks_beside_table_3() -> None:
    masked = Masked(
        network="net",
        method="metanetwork",
        target="2:4",
        left=0.5027,
        parameters=10,
        dense=[],
        accuracy_given=0.9,
        accuracy_before=0.9,
        accuracy_masked=0.5,
        accuracy_finetuned=0.93,
        accuracy_base=0.935,
    )
    paper = PaperRow(
        table=3, row="2:4", target="2:4", numbers={"accuracy": 93.97, "left": 50.27, "base": 93.5}
    )
    rows = rows_beside_paper(Experiment(masked=[masked], paper=[paper]))
    assert [row["difference"] for row in rows] == pytest.approx([-0.97, 0, 0], abs=1e-9)
