"""Commands that a person is given to copy."""

import shlex

from metaprune_pl.networks.trust import trusted


def command_line(*words: object) -> str:
    """Return a command as a shell takes it, with `--trust` of the code that the user has named.

    Args:
        words: What follows `metaprune`.
    """
    named = (word for name in trusted() for word in ("--trust", name))
    return shlex.join(["metaprune", *map(str, words), *named])
