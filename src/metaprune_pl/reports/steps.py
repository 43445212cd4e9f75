"""Accuracies of one network on its way through pruning: columns, and what they mean."""

from collections.abc import Iterable, Sequence
from typing import Any

from metaprune_pl.reports.text import percent

STEPS = {
    "accuracy_given": ("as given", "the network that came in"),
    "accuracy_before": ("made ready", "after the metanetwork or training before pruning"),
    "accuracy_stale": ("unrepaired", "straight after pruning"),
    "accuracy_predicted": ("predicted", "what the predictor expects"),
    "accuracy_pruned": ("pruned", "after pruning and its repair, before any training"),
    "accuracy_masked": ("masked", "after masking and its repair, before any training"),
    "accuracy_finetuned": ("finetuned", "at the end"),
}
"""Attribute of a result to its column, and what that is."""


def steps_of(results: Sequence[Any]) -> list[str]:
    """Return the accuracies that are known of results and tell something: keys of `STEPS`.

    That of a network made ready for pruning does where it differs from that as given.
    """
    known = {name: [getattr(result, name, None) for result in results] for name in STEPS}
    if known["accuracy_before"] == known["accuracy_given"]:
        del known["accuracy_before"]
    return [name for name, values in known.items() if any(v is not None for v in values)]


def step_columns(steps: Sequence[str]) -> list[str]:
    """Return the columns of accuracies."""
    return [f"{STEPS[name][0]} %" for name in steps]


def step_cells(result: Any, steps: Sequence[str]) -> list[str]:
    """Return a result's accuracies in per cent."""
    values = [getattr(result, name) for name in steps]
    return ["" if value is None else percent(value) for value in values]


def legend(steps: Sequence[str]) -> str:
    """Say what the columns are."""
    columns = (STEPS[name] for name in steps)
    return f"Accuracies: {', '.join(f'{column} ({what})' for column, what in columns)}."


def trained_in_vain(targets: Iterable[str]) -> list[str]:
    """Say for which targets the training was thrown away; nothing where there are none."""
    named = ", ".join(targets)
    if not named:
        return []
    return [
        f"{named}: no epoch of the training after pruning was better on the validation images than "
        "before it, so none was kept. Try another --finetune_after.optimizer.lr, or more epochs."
    ]
