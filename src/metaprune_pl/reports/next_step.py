"""Commands that a person is given to copy."""

import shlex
from pathlib import Path

from metaprune_pl.networks.trust import trusted


def command_line(*words: object) -> str:
    """Return a command as a shell takes it, with `--trust` of the code that the user has named.

    Args:
        words: What follows `metaprune`.
    """
    named = (word for name in trusted() for word in ("--trust", name))
    return shell_line("metaprune", *words, *named)


def shell_line(*words: object) -> str:
    """Return words as a shell takes them; no program takes a path for a flag.

    Args:
        words: Words and paths.
    """
    safe = (f"./{w}" if isinstance(w, Path) and str(w).startswith("-") else str(w) for w in words)
    return shlex.join(safe)
