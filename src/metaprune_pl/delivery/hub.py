"""Stored networks in repositories of the Hugging Face Hub."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
)
from huggingface_hub.utils import logging as hub_logging
from torch import nn

from metaprune_pl.errors import StorageError
from metaprune_pl.files import check_new, whole_folder
from metaprune_pl.networks import NetworkCard, load_network, read_card

FILES = ("network.json", "weights.safetensors")
"""What a stored network is; nothing else is sent or fetched."""


def push(folder: str, repository: str, *, private: bool) -> str:
    """Send a stored network to a repository, which is made if there is none.

    Another network there is kept in the repository's history; a README.md stays as it is.

    Args:
        folder: Folder of the network.
        repository: USER/NAME.
        private: Whether a new repository is seen by its owner alone.

    Returns:
        Address of the repository.

    Raises:
        StorageError: The folder holds no network, or the Hub refuses.
    """
    card, api = read_card(folder), HfApi()
    with _asking(repository):
        address = api.create_repo(repository, private=private, exist_ok=True)
        for name in FILES:
            api.upload_file(
                path_or_fileobj=Path(folder) / name, path_in_repo=name, repo_id=repository
            )
        if not api.file_exists(repository, "README.md"):
            text = _readme(card, repository).encode()
            api.upload_file(path_or_fileobj=text, path_in_repo="README.md", repo_id=repository)
    return str(address)


def pull(
    repository: str, folder: Path, *, builder: Callable[..., nn.Module] | None = None
) -> NetworkCard:
    """Fetch a network from a repository, and check it like any stored one.

    Args:
        repository: USER/NAME.
        folder: Where to; nothing is there yet.
        builder: What builds it, where that is the person's own.

    Raises:
        StorageError: The Hub refuses, what it sent is no network, or the folder is there already.
    """
    check_new(folder)
    api = HfApi()
    with _asking(repository):
        api.model_info(repository)  # a file would be asked for half a minute of a Hub out of reach
        files = [Path(api.hf_hub_download(repository, name)) for name in FILES]
    with whole_folder(folder) as new:
        for file in files:
            (new / file.name).write_bytes(file.read_bytes())
        load_network(new, builder=builder)
        return read_card(new, builder=builder)


@contextmanager
def _asking(repository: str) -> Iterator[None]:
    """Say in one line what the Hub refuses.

    Raises:
        StorageError: It does.
    """
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)  # it tells of each try otherwise
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise StorageError("you are not logged in: run `hf auth login` once.") from error
    except (HTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise StorageError(f"'{repository}' on the Hugging Face Hub: {reason}") from error
    finally:
        hub_logging.set_verbosity(verbosity)


def _readme(card: NetworkCard, repository: str) -> str:
    """Return the repository's first page."""
    told = {"builder": card.settings.builder, **card.record}
    if card.preprocessing is not None:
        told["preprocessing"] = asdict(card.preprocessing)
    return (
        "---\nlibrary_name: metaprune_pl\ntags: [pruning, image-classification]\n---\n"
        f"# {repository}\n\n`metaprune pull {repository}` fetches this network.\n\n"
        f"```json\n{json.dumps(told, indent=1)}\n```\n"
    )
