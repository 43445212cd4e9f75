"""`push` and `pull`: stored networks to and from the Hugging Face Hub."""

from pathlib import Path

from metaprune_pl.delivery import hub
from metaprune_pl.reports.next_step import command_line
from metaprune_pl.reports.shared import Shared


def push(folder: str, repository: str, *, private: bool = True) -> Shared:
    """Send a stored network to a repository of the Hugging Face Hub.

    Args:
        folder: Folder of a stored network.
        repository: USER/NAME; it is made if there is none.
        private: Whether a new repository is seen by its owner alone.

    Example:
        metaprune push runs/my_network/speed_up_2/network me/my_network
    """
    address = hub.push(folder, repository, private=private)
    return Shared(network=address, next_step=command_line("pull", repository))


def pull(repository: str, *, folder: str | None = None) -> Shared:
    """Fetch a network from a repository of the Hugging Face Hub.

    Args:
        repository: USER/NAME.
        folder: Where to, a new one; by default pulled/NAME.

    Example:
        metaprune pull me/my_network
    """
    name = repository.rpartition("/")[2]
    target = Path(folder) if folder else Path("pulled") / name
    hub.pull(repository, target)
    return Shared(network=str(target), next_step=command_line("inspect", target))
