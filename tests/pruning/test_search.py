"""The search for the largest speed-up: few trials, and none beyond what is allowed."""

import pytest

from metaprune_pl.pruning.targets.search import largest_speed_up


@pytest.mark.parametrize("limit", [1.2, 1.9, 2.0, 3.3, 5.0, 9.0])
def test_the_largest_that_is_allowed(limit: float) -> None:
    tried: list[float] = []

    def allowed(value: float) -> bool:
        tried.append(value)
        return value <= limit

    best = largest_speed_up(allowed, 8)
    assert best is not None and limit / 1.1 < best <= limit
    assert len(tried) <= 8 and len(set(tried)) == len(tried)


def test_nothing_is_allowed() -> None:
    assert largest_speed_up(lambda value: False, 8) is None
