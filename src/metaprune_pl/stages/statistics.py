"""Statistics of a classifier, by gradients of its loss on some of its images."""

from dataclasses import dataclass

from rich.progress import track
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.data.loader import Order
from metaprune_pl.errors import ConfigError
from metaprune_pl.pruning import Importance, PruningGroups
from metaprune_pl.pruning.statistics import Statistics, loss_gradients, network_statistics
from metaprune_pl.pruning.unpruned import device_of
from metaprune_pl.stages.samples import measured_images


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Which images gradients are of.

    Attributes:
        images: Number of validation images at most, evenly spread over all.
    """

    images: int = 1000

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ConfigError(f"sample.images is {self.images}; it is at least 1.")

    def order(self, data: ImageDataModule) -> Order:
        """Return the order of these images."""
        count = data.count("validation")
        every = -(-count // self.images)
        return Order(count, batch_size=data.batch_size, train=False, ranks=every)


def measure_statistics(
    network: nn.Module,
    groups: PruningGroups | None,
    criterion: Importance,
    data: ImageDataModule,
    order: Order,
    name: str,
) -> tuple[Statistics, float]:
    """Return the statistics of a network, and its accuracy on the same images.

    Args:
        network: On the device to measure on; left as it is.
        groups: Its pruning groups.
        criterion: Scores of these.
        data: The images.
        order: Those that gradients are of.
        name: What the progress says of the network.
    """
    assert groups is not None  # channels were examined
    device = device_of(network)
    batches = data.evaluation("validation", device, order)
    tracked = track(batches, f"Gradients, {name}", total=order.batches, transient=True)
    gradients, accuracy = loss_gradients(network, tracked)
    images = measured_images(data, device, criterion)
    measured = criterion.measure(network, groups.graph, images)
    state = network.state_dict()
    return network_statistics(groups, state, gradients, criterion, measured), accuracy
