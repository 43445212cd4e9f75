"""A data model, and the same with weights that a metanetwork made."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metaprune_pl.graphs import WeightGraph
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.networks.widths import own_state
from metaprune_pl.pruning import AttentionUnits, PruningGroups, prunable_groups

BatchNormMode = Literal["train", "eval"]
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True, eq=False)
class DataModel:
    """A network to learn from.

    Attributes:
        network: In evaluation mode; batch norms in the mode of the accuracy loss.
        graph: Its topology.
        groups: Its pruning groups, found once.
        state: Its parameters and buffers by name.
    """

    network: nn.Module
    graph: WeightGraph
    groups: PruningGroups
    state: dict[str, Tensor]

    @property
    def trainable(self) -> set[str]:
        """Names of the trainable parameters in the graph."""
        return {name for name, _ in self.network.named_parameters()} & set(self.graph.parameters)

    def to(self, device: torch.device) -> "DataModel":
        """Move the weights to a device."""
        network = self.network.to(device)
        state = {name: value.detach() for name, value in own_state(network).items()}
        return replace(self, network=network, state=state)


def load_data_model(
    folder: Path,
    batch_norm: BatchNormMode,
    device: torch.device,
    attention: AttentionUnits = "width",
) -> DataModel:
    """Load a stored network and find its graph and pruning groups."""
    network = load_network(folder)
    card = read_card(folder)
    groups = prunable_groups(network, card.example(), attention)
    for module in network.modules():
        if isinstance(module, _BATCH_NORMS):
            module.train(batch_norm == "train")
    return DataModel(network, groups.graph, groups, {}).to(device)


@dataclass(frozen=True, eq=False)
class Rewritten:
    """A data model with new weights.

    Attributes:
        model: The data model; its running statistics stay as they are.
        leaves: The new weights by name, each a leaf that requires a gradient.
        call: `functional_call`, or the same compiled.
    """

    model: DataModel
    leaves: dict[str, Tensor]
    call: Callable[..., Tensor] = functional_call

    def logits(self, images: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
        """Return the scores of the classes, differentiable, [B, C, H, W] -> [B, K].

        Args:
            images: Normalised images.
            weights: Weights in place of `leaves`, such as masked ones.
        """
        weights = self.leaves if weights is None else weights
        state = self.model.state.items()
        rest = {name: value.clone() for name, value in state if name not in weights}
        return self.call(
            self.model.network,
            {**rest, **weights},
            (images,),
            tie_weights=False,
        )
