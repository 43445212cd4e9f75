"""Learning rates epoch by epoch, against the same written out."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.stages import OptimizerSettings


def rates(epochs: int, resume_at: int | None = None, **settings: Any) -> list[float]:
    """The learning rate of each epoch; with `resume_at` the schedule is stored and loaded there."""

    def new() -> Any:
        optimizer = OptimizerSettings(**settings).build([nn.Parameter(torch.zeros(1))])
        schedule = OptimizerSettings(**settings).build_schedule(optimizer, epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    made, found = new(), []
    for epoch in range(epochs):
        if epoch == resume_at:
            again = new()
            for part in ("optimizer", "lr_scheduler"):
                again[part].load_state_dict(made[part].state_dict())
            made = again
        found.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"].step()
    return found


SCHEDULES: list[tuple[dict[str, Any], list[float]]] = [
    ({"schedule": "constant"}, [1.0] * 8),
    ({"milestones": [3, 6]}, [1.0] * 3 + [0.1] * 3 + [0.01] * 2),
    ({"milestones": [5], "warm_up": 2}, [0.01, 0.505, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1]),
    ({"schedule": "cosine"}, [(1 + math.cos(math.pi * e / 8)) / 2 for e in range(8)]),
    (
        {"schedule": "cosine", "warm_up": 3, "min_lr": 0.2},
        [0.01, 0.34, 0.67, *(0.2 + 0.8 * (1 + math.cos(math.pi * e / 5)) / 2 for e in range(5))],
    ),
]


@pytest.mark.parametrize("resume_at", [None, 2, 5])
@pytest.mark.parametrize(("settings", "expected"), SCHEDULES, ids=str)
def test_the_rate_of_each_epoch(
    settings: dict[str, Any], expected: list[float], resume_at: int | None
) -> None:
    assert rates(8, resume_at, lr=1.0, **settings) == pytest.approx(expected)


def test_a_short_run_still_reaches_the_rate_that_was_asked_for() -> None:
    assert rates(2, lr=1.0, warm_up=30) == pytest.approx([0.01, 1.0])
    assert rates(1, lr=1.0, warm_up=30, schedule="cosine") == [1.0]


FLOATS = ("lr", "weight_decay", "momentum", "gamma", "min_lr")
NOT_FINITE = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": 0.0}, "must be above 0"),
        *(({name: value}, f"optimizer.{name} is") for name in FLOATS for value in NOT_FINITE),
        ({"min_lr": 0.2}, "min_lr 0.2 lies between 0 and lr 0.1"),
        ({"warm_up": -1}, "at least 0"),
        ({"warm_up": 5, "milestones": [4]}, "before the milestones"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        OptimizerSettings(**settings)
