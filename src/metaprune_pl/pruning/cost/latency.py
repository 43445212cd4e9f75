"""Measured time of a forward pass.

Our own loop, as `torch.utils.benchmark` times one network after the other, not all in turn.
"""

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.inference_mode()
def measure_latencies(
    networks: Sequence[nn.Module], example: Tensor, batch_size: int, *, seconds: float = 0.1
) -> list[float]:
    """Measure the time of a forward pass of several networks in turn.

    A busy machine is as busy to all of them.

    Args:
        networks: In evaluation mode on the device to measure.
        example: One image as a batch, [1, C, H, W], on that device.
        batch_size: Images per pass.
        seconds: How long to measure each; at least three passes after two to warm up.

    Returns:
        Median milliseconds per pass of each network.
    """
    images = example.expand(batch_size, *example.shape[1:]).contiguous()
    times: list[list[float]] = [[] for _ in networks]
    for index in range(10_000):
        for network, own in zip(networks, times, strict=True):
            start = time.perf_counter()
            network(images)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            if index >= 2:
                own.append(time.perf_counter() - start)
        if index >= 4 and all(sum(own) > seconds for own in times):
            break
    return [1000 * statistics.median(own) for own in times]
