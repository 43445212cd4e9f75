"""Measured time of a forward pass.

Our own loop, as `torch.utils.benchmark` times one network after the other, not all in turn.
"""

import statistics
import time
from collections.abc import Sequence

import torch
from torch import nn

from metaprune_pl.networks.examples import Example, call, convert, tensors_of


@torch.inference_mode()
def measure_latencies(
    networks: Sequence[nn.Module],
    example: Example,
    batch_size: int,
    *,
    seconds: float = 0.1,
) -> list[float]:
    """Measure the time of a forward pass of several networks in turn.

    A busy machine is as busy to all of them.

    Args:
        networks: In evaluation mode on the device to measure.
        example: One input as a batch, such as an image [1, C, H, W], on that device.
        batch_size: Images per pass.
        seconds: How long to measure each; at least three passes after two to warm up.

    Returns:
        Median milliseconds per pass of each network.
    """
    images = convert(
        example,
        lambda t: t.expand(batch_size, *t.shape[1:]).contiguous(),
    )
    device = next(tensor.device for _, tensor in tensors_of(example))
    times: list[list[float]] = [[] for _ in networks]
    for index in range(10_000):
        for network, own in zip(networks, times, strict=True):
            start = time.perf_counter()
            call(network, images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if index >= 2:
                own.append(time.perf_counter() - start)
        if index >= 4 and all(sum(own) > seconds for own in times):
            break
    return [1000 * statistics.median(own) for own in times]
