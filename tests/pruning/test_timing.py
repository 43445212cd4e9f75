"""Times are told with their spread, and a gain within it is none."""

import time

import pytest

from metaprune_pl.pruning.cost.timing import Timing, time_in_turn


def timing(low: float, median: float, high: float) -> Timing:
    return Timing(low=low, median=median, high=high)


@pytest.mark.parametrize(
    ("own", "other", "gain"),
    [
        (timing(1.5, 2, 2.5), timing(5, 6, 7), 3.0),
        (timing(5, 6, 7), timing(1.5, 2, 2.5), 1 / 3),
        (timing(0.4, 1, 1.6), timing(5, 6, 7), None),  # too widely spread
        (timing(0.0004, 0.001, 0.0016), timing(5, 6, 7), 6000.0),  # by the clock
        (timing(1.5, 2, 2.5), timing(5, 8, 15), None),
        (timing(1, 2, 5), timing(4, 8, 9), None),
    ],
)
def test_a_gain_within_the_spread_is_none(own: Timing, other: Timing, gain: float | None) -> None:
    assert own.gain_over(other) == gain


def test_programs_are_timed_in_turn() -> None:
    order: list[str] = []

    def slow() -> None:
        order.append("slow")
        time.sleep(0.002)

    fast, long = time_in_turn([lambda: order.append("fast"), slow], seconds=0.0)
    assert order[:4] == ["fast", "slow"] * 2
    assert long.gain_over(fast) is not None and long.median >= 2 > fast.median
