"""Statistics of a network before and after it was made ready for pruning, as numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from metaprune_pl.pruning.statistics import Statistics
from metaprune_pl.reports.text import Grid, Part, percent

BINS = 30
"""Most bins of a histogram; one of few values has fewer."""
MANY = 1000
"""Number of values above which a histogram's range leaves out the largest."""
OUTLIERS = 0.03
"""Share of the values that it leaves out; they count in the last bin, so that a few do not squeeze
the rest."""
LABELS = {
    "l1": "l1 norm of a channel",
    "l2": "l2 norm of a channel",
    "taylor": "Taylor |w · dL/dw| of a weight",
    "correlation": "correlation between channels",
    "effective_rank": "effective rank of a layer",
    "norm_scale": "batch-norm scale |gamma|",
    "group_score": "score in its pruning group",
}
"""Statistic to what tables and figures call it."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Statistics of two networks of the same layers.

    Attributes:
        network: Name of the network.
        origin: Statistics of the network as it was.
        after: Those of the network that is ready for pruning.
        change: What made it ready, in words.
        images: Number of validation images that gradients are of.
        accuracy: Accuracies of both on these images.
    """

    network: str
    origin: Statistics
    after: Statistics
    change: str
    images: int
    accuracy: Sequence[float]

    def means(self) -> dict[str, tuple[list[float], list[float]]]:
        """Mean of each statistic in each layer, of both networks."""
        means = {}
        for name, layers in self.origin.items():
            origin = [float(values.mean()) for values in layers.values()]
            after = [float(values.mean()) for values in self.after[name].values()]
            means[name] = (origin, after)
        return means

    def summary(self) -> list[dict[str, Any]]:
        """One row for each statistic.

        The mean over the layers of the layers' means, and in how many layers it fell.
        """
        rows = []
        for name, (origin, after) in self.means().items():
            layers = len(origin)
            mean = sum(origin) / layers
            mean_after = sum(after) / layers
            row: dict[str, Any] = {"statistic": name, "layers": layers}
            row["origin"] = mean
            row["after"] = mean_after
            row["ratio"] = mean_after / mean if mean else None
            row["lower_in"] = sum(y < x for x, y in zip(origin, after, strict=True))
            rows.append(row)
        return rows

    def layer_rows(self) -> list[dict[str, Any]]:
        """One row for each statistic and layer.

        Count, mean, standard deviation, minimum, median and maximum of both networks.
        """
        rows = []
        for name, layers in self.origin.items():
            for layer, values in layers.items():
                row: dict[str, Any] = {
                    "statistic": name,
                    "layer": layer,
                    "count": len(values),
                }
                row |= _moments("origin", values)
                row |= _moments("after", self.after[name][layer])
                rows.append(row)
        return rows

    def histogram_rows(self) -> Iterator[dict[str, Any]]:
        """One row for each statistic, layer and bin.

        Its edges, and how many values of both networks are in it.
        """
        for name, layers in self.origin.items():
            for layer, values in layers.items():
                if len(values) < 2:
                    continue
                edges, counts = histograms([values, self.after[name][layer]])
                for (low, high), origin, after in zip(pairwise(edges), *counts, strict=True):
                    row = {"statistic": name, "layer": layer, "from": low, "to": high}
                    yield {**row, "origin": origin, "after": after}

    def tables(self) -> list[Part]:
        """Return the means of the statistics before and after."""
        rows = [
            (
                LABELS[row["statistic"]],
                f"{row['origin']:.4g}",
                f"{row['after']:.4g}",
                "" if row["ratio"] is None else f"{row['ratio']:.3g}",
                f"{row['lower_in']} of {row['layers']}",
            )
            for row in self.summary()
        ]
        before, after = (percent(value) for value in self.accuracy)
        rows.append((f"accuracy %, {self.images} validation images", before, after, "", ""))
        title = f"{self.network}, {self.change}: mean over layers"
        return [Grid(title, ["statistic", "origin", "after", "ratio", "lower in"], rows)]


def _moments(prefix: str, values: Tensor) -> dict[str, float]:
    moments = {
        "mean": values.mean(),
        "std": values.std(correction=0),
        "min": values.min(),
        "median": values.median(),
        "max": values.max(),
    }
    return {f"{prefix}_{name}": float(value) for name, value in moments.items()}


def histograms(both: Sequence[Tensor]) -> tuple[list[float], list[list[int]]]:
    """Count several sets of as many values, all at least 0, in the same bins.

    Returns:
        The edges of the bins, and the counts of each set.
    """
    size = len(both[0])
    bins = min(BINS, max(8, round(2 * size**0.5)))
    outliers = OUTLIERS if size > MANY else 0.0
    pooled = torch.cat([values.double() for values in both])
    last = round((1 - outliers) * (len(pooled) - 1))
    high = float(pooled.sort().values[last])
    edges = torch.linspace(
        0.0,
        high if high > 0 else 1.0,
        bins + 1,
        dtype=torch.float64,
    )
    counts = []
    for values in both:
        bin_index = torch.bucketize(values.double(), edges, right=True) - 1
        bin_index = bin_index.clamp(0, bins - 1)
        counts.append(torch.bincount(bin_index, minlength=bins).tolist())
    return edges.tolist(), counts
