"""What is known of a stored network, and which targets it cannot come to."""

from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from metaprune_pl.networks import NetworkCard
from metaprune_pl.pruning.heads import AttentionUnits
from metaprune_pl.pruning.targets import ChannelTarget, Target, check_targets
from metaprune_pl.pruning.unpruned import Unpruned, as_built, examine


def examine_for(
    targets: Sequence[Target],
    network: nn.Module,
    card: NetworkCard,
    attention: AttentionUnits,
    part: str = "",
) -> Unpruned:
    """Find out what is to be known of a network, and refuse targets that cannot be.

    Args:
        targets: The targets.
        network: The network, or the part of it that is pruned.
        card: Card of the whole network.
        attention: What goes together in attention.
        part: Name of the part.

    Raises:
        ConfigError: A target is reached already.
        PruningError: The network is frozen, or a target is out of reach.
    """
    unpruned = examine(
        network,
        card.example(),
        original=as_built(card).get_submodule(part),
        channels=any(target.channels for target in targets),
        attention=attention,
    )
    check_targets(targets, network, unpruned)
    asked = [t for t in targets if isinstance(t, ChannelTarget) and t.speed_up(unpruned) > 1]
    if asked and (now := unpruned.speed_up(asked[0].cost, network)) > 1:
        rank_zero_info(
            f"The network is at {now:.2f}x: speed-ups count from the network before any pruning."
        )
    if card.masked and not all(target.channels for target in targets):
        rank_zero_info(
            "The network has masks: shares are of all its weights, those that are zero among them."
        )
    return unpruned
