"""The largest speed-up that something allows, by few trials."""

import math
from collections.abc import Callable

START = 2.0
STRIDE = 1.5
"""Factor between trials as long as all is well."""
CLOSE = 1.05
"""Factor between what is allowed and what is not that ends the search."""


def largest_speed_up(allowed: Callable[[float], bool], trials: int) -> float | None:
    """Return the largest speed-up that is allowed, as far as the trials tell.

    Speed-ups grow by a factor until one is not allowed, and are then halved in their logarithm.

    Args:
        allowed: Whether a speed-up is.
        trials: Number of speed-ups that are tried at most.

    Returns:
        The speed-up, in hundredths; None where none of those that were tried is allowed.
    """
    low, high = 1.0, math.inf
    for _ in range(trials):
        middle = math.sqrt(low * high) if high < math.inf else max(START, low * STRIDE)
        value = round(middle, 2)
        if allowed(value):
            low = value
        else:
            high = value
        if high / low < CLOSE:
            break
    return low if low > 1 else None
