"""What pruning made of a network, told before any time goes into its training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from metaprune_pl.networks.widths import narrow_layers, widths_before_and_after
from metaprune_pl.pruning import Unpruned, count_macs, count_parameters, measure_latencies
from metaprune_pl.pruning.cost.latency import Runtime
from metaprune_pl.pruning.cost.timing import Timing
from metaprune_pl.pruning.group_facts import reasons_to_stay
from metaprune_pl.reports.text import Grid, Part, count, decimal, milliseconds, weight_size

MOST_LAYERS = 40
"""Rows of the table of layers at most."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A network before and after pruning.

    Attributes:
        title: What was pruned to what.
        macs: Multiply-accumulates for one image, before and after.
        parameters: Numbers of parameters, before and after.
        times: Of a forward pass here, before and after, by number of images.
        widths: Output channels of each layer, before and after.
        stays: Layers that keep channels which cannot be pruned, and why.
        seconds: How long the training that follows will take, roughly.
        runtime: What the passes ran in.
    """

    title: str
    macs: tuple[int, int]
    parameters: tuple[int, int]
    times: Mapping[int, tuple[Timing, Timing]]
    widths: Mapping[str, tuple[int, int]]
    stays: Mapping[str, str]
    seconds: float
    runtime: str

    def tables(self) -> list[Part]:
        """Return what a person sees."""
        rows = [
            ("multiply-accumulates", *(count(value) for value in self.macs), _factor(*self.macs)),
            ("parameters", *(count(value) for value in self.parameters), _factor(*self.parameters)),
            ("weights", *map(weight_size, self.parameters), _factor(*self.parameters)),
        ]
        for size, (before, after) in self.times.items():
            own = milliseconds(after.median, after.spread, after.gain_over(before))
            time, _, gain = own.partition(" (")
            spread = decimal(before.median, before.spread)
            rows.append(
                (f"ms here, batch {size} in {self.runtime}", spread, time, gain.rstrip(")"))
            )
        whole = Grid(self.title, ["", "before", "after", "factor"], rows)
        changed = [(name, *pair) for name, pair in self.widths.items() if pair[0] != pair[1]]
        shown = changed[:MOST_LAYERS]
        first = f" (the first {MOST_LAYERS})" if len(changed) > MOST_LAYERS else ""
        layers = Grid(
            f"Channels of {len(changed)} of {len(self.widths)} layers{first}",
            ["layer", "before", "after", "left"],
            [(name, str(b), str(a), f"{100 * a / b:.0f} %") for name, b, a in shown],
        )
        parts: list[Part] = [whole, layers]
        parts += [f"{name} stays: {why}." for name, why in list(self.stays.items())[:3]]
        if self.seconds:
            parts.append(f"The training that follows takes about {duration(self.seconds)}.")
        return parts


def planned(
    title: str,
    unpruned: Unpruned,
    after: nn.Module,
    batches: Sequence[int],
    seconds: float,
    runtime: Runtime,
) -> Planned:
    """Return what pruning made of a network.

    Args:
        title: What was pruned to what.
        unpruned: What is known of it; its groups are there.
        after: The pruned network.
        batches: Numbers of images of passes whose time is measured.
        seconds: How long the training that follows will take.
        runtime: What the passes run in.
    """
    before = unpruned.original.to(next(after.parameters()).device)
    example = unpruned.example_for(after)
    both = [before, after]
    times = {size: measure_latencies(both, example, size, runtime=runtime) for size in batches}
    assert unpruned.groups is not None
    return Planned(
        title=title,
        macs=(count_macs(before, example), count_macs(after, example)),
        parameters=(count_parameters(before), count_parameters(after)),
        times={size: (own[0], own[1]) for size, own in times.items()},
        widths=widths_before_and_after(before, after),
        stays=reasons_to_stay(unpruned.groups),
        seconds=seconds,
        runtime=runtime.name,
    )


def tell_of_narrow_layers(before: nn.Module, after: nn.Module, label: str) -> bool:
    """Tell of layers of which hardly anything is left, and return whether there are some.

    Args:
        before: The network before pruning.
        after: The pruned network.
        label: What it was pruned to.
    """
    narrow = narrow_layers(before, after)
    if narrow:
        rank_zero_info(
            f"At {label} hardly anything is left of {narrow}. If that costs too much accuracy: "
            "--pruning.max_ratio 0.75 leaves every layer a quarter of its channels."
        )
    return bool(narrow)


def duration(seconds: float) -> str:
    """Write a duration for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _factor(before: int, after: int) -> str:
    return f"{before / max(1, after):.2f}x"
