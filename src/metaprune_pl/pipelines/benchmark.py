"""`benchmark`: how long networks and exported files take on this machine."""

from os.path import normpath

from metaprune_pl.delivery.subjects import compare_times, open_program
from metaprune_pl.errors import ConfigError
from metaprune_pl.reports.benchmarked import Benchmarked
from metaprune_pl.stages.trainer import MOST_THREADS

MOST_IMAGES = 2**16
"""Of a pass."""


def benchmark(
    networks: list[str],
    *,
    batches: tuple[int, ...] = (1, 32),
    threads: tuple[int, ...] = (1,),
    seconds: float = 0.5,
    compiled: bool = False,
) -> Benchmarked:
    """Compare the times of networks and exported files on this machine.

    All are measured in turn, so that a busy machine is as busy to all of them. Where a difference
    is within the spread, that is said in place of a factor. Files are opened by PyTorch and ONNX
    Runtime, so name those alone whose makers you know.

    Args:
        networks: Folders of stored networks and exported files; the first is what the others are
            compared with.
        batches: Numbers of images in a pass.
        threads: Numbers of threads of the processor.
        seconds: How long to measure each at least.
        compiled: Whether stored networks go through torch.compile.

    Example:
        metaprune benchmark runs/my_network/source runs/my_network/speed_up_2/network.onnx
    """
    if not networks or not batches or not threads or min(*batches, *threads) < 1:
        raise ConfigError("batches and threads are one or more whole numbers of at least 1.")
    if max(threads) > MOST_THREADS or max(batches) > MOST_IMAGES:
        raise ConfigError(f"give {MOST_THREADS} threads and {MOST_IMAGES} images at most.")
    if not 0 < seconds <= 3600:
        raise ConfigError(f"seconds is {seconds:g}: give more than 0, and 3600 at most.")
    paths = dict.fromkeys(map(normpath, networks))
    programs = [open_program(path, compiled) for path in paths]
    return compare_times(programs, batches, threads, seconds)
