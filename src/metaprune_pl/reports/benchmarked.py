"""Times of networks and exported files side by side."""

from collections.abc import Mapping
from dataclasses import dataclass

from metaprune_pl.pruning.cost.timing import Timing
from metaprune_pl.reports.text import Grid, Part, count, decimal, milliseconds


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was timed.

    Attributes:
        name: Path of it.
        program: What ran it.
        bytes: Size of its file.
        macs: Multiply-accumulates for one image; None where they cannot be counted.
    """

    name: str
    program: str
    bytes: int
    macs: int | None


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How it was timed.

    Attributes:
        batch: Images in a pass.
        threads: Threads of the processor.
        times: Of each subject, by its name.
    """

    batch: int
    threads: int
    times: Mapping[str, Timing]


@dataclass(frozen=True, kw_only=True)
class Benchmarked:
    """Times of networks and files, all measured in turn.

    Attributes:
        machine: What they ran on.
        subjects: What was timed; the first is what the others are compared with.
        setups: How.
    """

    machine: str
    subjects: list[Subject]
    setups: list[Setup]

    def tables(self) -> list[Part]:
        """Return what a person sees."""
        columns = ["network", "runs in", "MB", "MACs"]
        columns += [f"ms, batch {s.batch}, {s.threads} thread(s)" for s in self.setups]
        rows = []
        for subject in self.subjects:
            size = f"{subject.bytes / 1e6:.2f}"
            macs = "" if subject.macs is None else count(subject.macs)
            cells = [self._cell(setup, subject.name) for setup in self.setups]
            rows.append((subject.name, subject.program, size, macs, *cells))
        first = self.subjects[0]
        note = f"{self.machine}: medians of passes in turn ± half the distance of their quartiles"
        if len(self.subjects) > 1:
            note += f"; in brackets, how many times faster than {first.name} in {first.program}"
        return [Grid("Times", columns, rows), f"{note}."]

    def _cell(self, setup: Setup, name: str) -> str:
        time, first = setup.times[name], setup.times[self.subjects[0].name]
        if time is first:
            return decimal(time.median, time.spread)
        return milliseconds(time.median, time.spread, time.gain_over(first))
