"""A person's mistakes: what is wrong, where, and the way out, in one short message.

`cli.app.main` prints these and exits with status 1. Our own bugs are assertions, never these.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LONGEST = 2000
"""Characters of a message, which may quote a file, at most."""


class MetapruneError(Exception):
    """Base of all errors that a person can mend."""

    def __str__(self) -> str:
        """Return the message, however long what it quotes is."""
        text = super().__str__()
        return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


class ConfigError(MetapruneError):
    """A setting that makes no sense."""


class DataError(MetapruneError):
    """Data that is missing or cannot be read."""


class NetworkError(MetapruneError):
    """A network that is unknown or cannot be built."""


class TraceError(MetapruneError):
    """A network that cannot be turned into a graph."""


class PruningError(MetapruneError):
    """A network that cannot be pruned as asked."""


class TrainingError(MetapruneError):
    """A training that ran away."""


class StorageError(MetapruneError):
    """A file or folder that cannot be read or may not be written."""


@contextmanager
def within(where: str) -> Iterator[None]:
    """Say in front of an error's message where its cause stands."""
    try:
        yield
    except MetapruneError as error:
        error.args = (f"{where}: {error}",)
        raise


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
