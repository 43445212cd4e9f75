"""Stored networks as they were before their training."""

from dataclasses import replace
from pathlib import Path

from metaprune_pl.networks.create import create_network
from metaprune_pl.networks.storage import read_card, save_network


def store_untrained(network: Path, folder: Path) -> None:
    """Store a network as it was before its training, unless that is there.

    Args:
        network: Folder of the network, whose card tells its seed.
        folder: Where to.
    """
    if (folder / "network.json").is_file():
        return
    card = read_card(network)
    builder, arguments = card.settings.builder, card.settings.arguments
    fresh = create_network(builder, seed=card.record.get("seed", 0), **arguments)
    card = replace(card, record={"name": network.name}, masked=[], frozen=[])
    save_network(folder, fresh.eval(), card)
