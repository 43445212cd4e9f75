"""Networks to prune: how they are built, stored and cut to other widths."""

from metaprune_pl.networks.create import NetworkSettings, create_network
from metaprune_pl.networks.open import NetworkSource
from metaprune_pl.networks.storage import NetworkCard, load_network, read_card, save_network

__all__ = [
    "NetworkCard",
    "NetworkSettings",
    "NetworkSource",
    "create_network",
    "load_network",
    "read_card",
    "save_network",
]
