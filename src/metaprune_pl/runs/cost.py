"""What a run costs: time, memory at its peak, and images."""

import resource
from dataclasses import dataclass, field
from pathlib import Path

import torch

from metaprune_pl.files import paths_below
from metaprune_pl.records import read_record
from metaprune_pl.reports import Cost
from metaprune_pl.stages.callbacks import IMAGES_FILE


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What `run.json` says of a run.

    Attributes:
        command: Subcommand.
        key: What makes it this run.
        finished: Whether it came to its end.
        cost: What it cost so far.
        started: When its last session began, in seconds since 1970; None of a finished run.
        images: What tells its images from others of the same settings, if that is known.
    """

    command: str
    key: str
    finished: bool
    cost: Cost = field(default_factory=Cost)
    started: float | None = None
    images: str = ""


def reset_peaks() -> None:
    """Start to measure peaks anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, Linux only
    except OSError:
        return


def peak_memory() -> Cost:
    """Return the most host and device memory that this process had since `reset_peaks`.

    Where the system cannot start anew, the host's is that since the start of the process.
    """
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        host = int(fields["VmHWM"].split()[0]) * 1024
    return Cost(host_bytes=host, device_bytes=device)


def current_files(folder: Path, name: str) -> list[Path]:
    """Return all files of a name below a folder, without those of runs that were moved aside."""
    paths = [path for path in paths_below(folder) if path.name == name]
    return [path for path in paths if ".old-" not in str(path.relative_to(folder))]


def trained_images(folder: Path) -> int:
    """Return how many images the fits below a folder were trained on."""
    return sum(read_record(int, path) for path in current_files(folder, IMAGES_FILE))


def cost_of(folder: Path) -> Cost:
    """Return what a finished run cost, or what is known of an unfinished one."""
    return read_record(RunFacts, folder / "run.json").cost
