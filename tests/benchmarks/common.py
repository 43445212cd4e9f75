"""Measuring: each way in its own process, in turn, so that noise is the same for all."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

GIGABYTE = 2**20
"""In kilobytes, as in /proc."""


@dataclass(frozen=True)
class Measured:
    """Seconds of each repetition, and the peak of memory above that before the first, in GB."""

    seconds: list[float]
    memory: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        seconds = f"{self.median:8.3f} s ({min(self.seconds):.3f} to {max(self.seconds):.3f})"
        return f"{seconds} {self.memory:7.3f} GB"


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def now(device: str) -> float:
    """Return the time, in seconds, when a device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def serve(work: Callable[[], object], warm_up: Callable[[], object], device: str = "cpu") -> None:
    """Child: for every line on the standard input run, for a second or once.

    Print seconds of a run and peak memory.
    """
    warm_up()  # loads libraries and starts threads, on a tiny case
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 1024
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = _status("VmRSS")
    print("ready", flush=True)
    for _ in sys.stdin:
        start, passed, runs = time.perf_counter(), 0.0, 0
        while passed < 1:
            work()
            passed, runs = now(device) - start, runs + 1
        peak = torch.cuda.max_memory_allocated() / 1024 if on_gpu else _status("VmHWM")
        print(f"measured {passed / runs} {(peak - before) / GIGABYTE}", flush=True)


class Child:
    """A way to do the work, in a process of its own."""

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ},
            bufsize=1,
        )
        self._wait("ready")

    def _wait(self, word: str) -> list[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.split()[1:]
        raise SystemExit(f"a benchmark ended early: {self.process.args!r}")

    def run(self) -> tuple[float, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        seconds, memory = self._wait("measured")
        return float(seconds), float(memory)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def side_by_side(
    module: str, ways: dict[str, Sequence[str]], repetitions: int
) -> dict[str, Measured]:
    """Measure several ways, in turn; the first repetition warms up and counts for memory only."""
    children = {name: Child(module, arguments) for name, arguments in ways.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repetitions + 1):
        for name, child in children.items():
            found[name].append(child.run())
    for child in children.values():
        child.close()
    return {
        name: Measured([s for s, _ in runs[1:]], max(m for _, m in runs))
        for name, runs in found.items()
    }


def where(device: str) -> str:
    """Say what a pass ran on."""
    return (
        torch.cuda.get_device_name(device)
        if device.startswith("cuda")
        else f"{torch.get_num_threads()} threads"
    )


def report(title: str, measured: dict[str, Measured], against: str) -> None:
    """Print every way and its ratios to one of them."""
    print(title)
    for name, way in measured.items():
        base, ratios = measured[against], ""
        if name != against:
            faster = base.median / way.median
            less = base.memory / way.memory
            ratios = f"  {faster:6.1f}x faster, {less:6.1f}x less memory"
        print(f"  {name:<10} {way}{ratios}", flush=True)
