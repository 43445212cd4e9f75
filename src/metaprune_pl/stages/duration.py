"""How long a training will take on this machine, by a few of its steps."""

import copy
import math
import time

import torch
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.stages.training_settings import FinetuneSettings

STEPS = 3
"""Steps that are timed, the first of which does not count."""
TEACHER = 4 / 3
"""A teacher's forward pass beside the network's forward and backward pass."""


def training_seconds(
    network: nn.Module, data: ImageDataModule, settings: FinetuneSettings
) -> float:
    """Return how many seconds a training will take, roughly.

    Args:
        network: What is trained; left as it is.
        data: The images.
        settings: How long it is trained, and how.
    """
    per_epoch = math.ceil(data.count("train") / data.batch_size)
    steps = settings.epochs * per_epoch if settings.steps is None else settings.steps
    if not steps:
        return 0.0
    copied = copy.deepcopy(network).train().requires_grad_(True)
    device = next(copied.parameters()).device
    images = torch.zeros(min(data.batch_size, data.count("train")), *data.input_shape)
    images = images.to(device)
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        copied(images).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    validation = 1 + data.count("validation") / max(1, 3 * data.count("train"))
    taught = TEACHER if settings.distillation is not None else 1.0
    return min(times[1:]) * steps * validation * taught
