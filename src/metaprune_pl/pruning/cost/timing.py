"""Measured times of several programs, in turn.

Our own loop, as `torch.utils.benchmark` times one program after the other, not all in turn.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

MOST_ROUNDS = 10_000
WARM_UP = 2
"""Rounds before any that counts."""
FEWEST_ROUNDS = 5
WIDEST = 0.35
"""Spread of a time that tells nothing, as a share of its median."""
FINEST = 0.01
"""Milliseconds that are too few for a spread: it is the clock's and the loop's own."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of one pass.

    Attributes:
        median: Half of the passes took less.
        low: A quarter of the passes took less.
        high: A quarter of the passes took more.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        """Return the quartiles of several measurements."""
        low, median, high = (1000 * value for value in statistics.quantiles(seconds, n=4))
        return cls(median=median, low=low, high=high)

    def gain_over(self, other: "Timing") -> float | None:
        """Return how many times faster this is than another; None within the spread of both.

        Nor is there a gain where either is spread so widely that the machine must be busy, but over
        what takes next to nothing.
        """
        apart = self.high < other.low or other.high < self.low
        both = (self, other)
        steady = all(time.spread < WIDEST * time.median for time in both)
        tiny = any(time.median < FINEST for time in both)
        return other.median / self.median if apart and (steady or tiny) else None

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles."""
        return (self.high - self.low) / 2


def time_in_turn(
    runs: Sequence[Callable[[], object]],
    *,
    seconds: float,
    device: torch.device | None = None,
    fewest: int = FEWEST_ROUNDS,
) -> list[Timing]:
    """Time several programs in turn: a busy machine is as busy to all of them.

    Args:
        runs: One pass of each.
        seconds: How long to measure each at least.
        device: Where they run, if that works on its own; None is the CPU.
        fewest: Rounds at least, however long they take.
    """
    times: list[list[float]] = [[] for _ in runs]
    for index in range(MOST_ROUNDS):
        for run, own in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if device is not None and device.type == "cuda":
                torch.cuda.synchronize(device)
            if index >= WARM_UP:
                own.append(time.perf_counter() - start)
        if len(times[0]) >= fewest and all(sum(own) > seconds for own in times):
            break
    return [Timing.of(own) for own in times]
