"""Weights times gradients of the loss: what it changes by without them, to first order."""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaprune_pl.errors import ConfigError
from metaprune_pl.graphs import WeightGraph
from metaprune_pl.networks.widths import copy_network
from metaprune_pl.pruning.computed_weights import weights_in_use
from metaprune_pl.pruning.importance.base import Images
from metaprune_pl.pruning.layerwise import LayerwiseNetwork, check_images


def labelled(images: Images | None, criterion: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Give batches of images with labels.

    Raises:
        ConfigError: There are none, they have no labels, or are not finite.
    """
    empty = True
    for batch, labels in images() if images is not None else ():
        empty = False
        check_images(batch)
        if len(labels) != len(batch):
            raise ConfigError(
                f"criterion: {criterion} is of the loss, and of {len(batch)} images "
                f"{len(labels)} have a label. Give pairs of images and labels [B], or take "
                "Elimination."
            )
        yield batch, labels
    if empty:
        raise ConfigError(
            f"criterion: {criterion} is of the loss on validation images, and there are none."
        )


class Products:
    """Weights times the gradients of the summed cross-entropy, batch by batch.

    Of a weight that is computed in each pass, they are those of what multiplies the inputs; the
    graph has it under the name of one parameter, and the others that it is computed from have none.

    Args:
        network: In evaluation mode; left as it is, gradients too.
        graph: Its graph.
        criterion: What asks for them, for errors.
    """

    def __init__(self, network: nn.Module, graph: WeightGraph, criterion: str) -> None:
        self._network = copy_network(network)
        named = self._network.named_parameters(remove_duplicate=False)
        self._parameters = {  # of frozen layers too
            name: value.requires_grad_() for name, value in named if value.is_floating_point()
        }
        self._shapes = {
            name: weights[0].shape
            for name, weights in weights_in_use(graph, network.state_dict()).items()
        }
        uses = graph.constraints.uses
        beside = {name for use in uses for name in use.companions}
        self._beside = beside - {use.parameter for use in uses}
        self._graph = graph
        self._criterion = criterion
        self._programs: dict[torch.Size, LayerwiseNetwork] = {}

    @torch.enable_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the products, in the shapes of the parameters, by their names.

        Raises:
            ConfigError: The network's outputs and the labels have no cross-entropy.
        """
        loss = self._loss(self._network(images), labels)
        products = _products(loss, self._parameters)
        own = {name: value for name, value in products.items() if name not in self._beside}
        return own | self._of_computed(images, labels)

    def _loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        try:
            return F.cross_entropy(outputs, labels, reduction="sum")
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = str(error).partition("\n")[0].removesuffix(".")
            raise ConfigError(
                f"criterion: {self._criterion} is of the cross-entropy, which the network's "
                f"outputs and these labels do not have: {reason}. Labels are numbers of classes, "
                "[B]; Elimination needs none."
            ) from error

    def _of_computed(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if not self._shapes:
            return {}
        if (program := self._programs.get(images.shape)) is None:
            program = LayerwiseNetwork(self._network, self._graph, images)
            self._programs[images.shape] = program
        weights: dict[str, Tensor] = {}
        layers = program.run(images, [name for name in program.layers if name in self._shapes])
        try:
            while True:
                layer = next(layers)
                weights[layer.name] = layer.weight.requires_grad_()
        except StopIteration as end:
            products = _products(self._loss(end.value, labels), weights) if weights else {}
        return {name: value.reshape(self._shapes[name]) for name, value in products.items()}


def _products(loss: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply weights with the gradients of a loss, where it has any."""
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    pairs = zip(weights.items(), gradients, strict=True)
    return {n: w.detach() * g for (n, w), g in pairs if g is not None}
