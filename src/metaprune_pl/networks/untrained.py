"""Stored networks as they were before their training."""

from dataclasses import replace
from pathlib import Path

from metaprune_pl.networks.create import create_network
from metaprune_pl.networks.storage import TRAINED, read_card, save_network


def store_untrained(network: Path, folder: Path) -> None:
    """Store a network as it was before its training, unless that is there.

    Its record keeps the test accuracies of the trained one, which a report compares with.

    Args:
        network: Folder of the network, whose card tells its seed.
        folder: Where to.
    """
    if (folder / "network.json").is_file():
        return
    card = read_card(network)
    builder, arguments = card.settings.builder, card.settings.arguments
    fresh = create_network(builder, seed=card.record.get("seed", 0), **arguments)
    trained = {name: value for name, value in card.record.items() if name.startswith(TRAINED)}
    card = replace(card, record={"name": network.name, **trained}, masked=[], frozen=[])
    save_network(folder, fresh.eval(), card)
