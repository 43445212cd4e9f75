"""What the difference of two accuracies is worth."""

import math

NOISE = 2
"""Standard errors below which a difference is noise."""


def standard_error(first: float, second: float, images: int) -> float:
    """Return the standard error of the difference of two accuracies on so many images each.

    That of independent images; on the same ones, where both networks tend to err together, it is
    smaller.
    """
    variances = (share * (1 - share) for share in (first, second))
    return math.sqrt(sum(variances) / images)


def difference(now: float, before: float, images: int | None) -> str:
    """Write a difference of accuracies in points, with its standard error where that is known."""
    points = f"{100 * (now - before):+.2f}"
    if images is None:
        return points
    return f"{points} ± {100 * standard_error(now, before, images):.2f}"


def said_difference(now: float, before: float, images: int | None) -> str:
    """Write a difference of accuracies in words, and whether so many images can tell it."""
    said = f"{difference(now, before, images)} points"
    if images is None or abs(now - before) >= NOISE * standard_error(now, before, images):
        return said
    return f"{said}, within noise"
