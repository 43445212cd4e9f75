"""Results as a person sees them on the console."""

import sys
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from rich.console import Console, RenderableType

from metaprune_pl.reports import tables
from metaprune_pl.reports.masks import whole_sentence
from metaprune_pl.reports.results import Experiment
from metaprune_pl.reports.summary import (
    choice_sentence,
    cost_sentence,
    flat_region_sentence,
    own_sentence,
    recommendation,
)
from metaprune_pl.reports.text import Line


def print_result(result: Any) -> None:
    """Print a result of a command; None, of a training, has nothing to show."""
    width = None if sys.stdout.isatty() else 150
    console = Console(width=width, markup=False, emoji=False)
    for part in () if result is None else parts_of(result):
        console.print(part, soft_wrap=isinstance(part, Line))


@singledispatch
def parts_of(result: Any) -> Sequence[RenderableType]:
    """Return tables and sentences of a result: those of its method `tables`, if nothing else."""
    parts: Sequence[RenderableType] = result.tables()
    return parts


@parts_of.register(list)
def _(results: list[Any]) -> Sequence[RenderableType]:
    if not results:
        return []
    kind = type(results[0])
    return [kind.table(results), *kind.notes(results)]


@parts_of.register
def _(experiment: Experiment) -> Sequence[RenderableType]:
    rare = whole_sentence(experiment.masked), own_sentence(experiment)
    return [
        *tables.experiment_tables(experiment),
        *(sentence for sentence in rare if sentence),
        choice_sentence(experiment),
        flat_region_sentence(experiment),
        cost_sentence(experiment.costs),
        recommendation(experiment),
    ]
