"""`metaprune`: answers help and version without importing torch; `cli.app` does the rest."""

import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from metaprune_pl import __version__

HELP = """usage: metaprune COMMAND [--config CONFIG] [--KEY VALUE ...]

Makes a network faster: a metanetwork rewrites its weights so that pruning hurts less.

commands:
{commands}

Start with:        metaprune experiment --config quickstart.yaml
Your own network:  metaprune prune my_network.py:build --state mine.pth --data photos --speed_up 2
All settings:      metaprune COMMAND --help
What would run:    metaprune COMMAND --config CONFIG --print_config
Code of your own:  metaprune COMMAND --config CONFIG --trust PACKAGE.MODULE
A CONFIG that is no file is looked up among the {count} in {folder}.
Those of minutes, which need no data:
{configs}
"""


@contextmanager
def _output() -> Iterator[None]:
    """Have output go somewhere, and end in one line at most where it cannot be written."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: >&-
            setattr(sys, name, open(os.devnull, "w"))
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if _can_write("\n"):
            raise
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"error: cannot write the output: {error.strerror}.\n")
        sys.exit(1)
    finally:
        if not _can_write():  # Python would try once more as it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _can_write(text: str = "") -> bool:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        return False
    return True


@_output()
def main(args: list[str] | None = None) -> None:
    """Run the command line; exits with status 1 or 2 on a person's mistake."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in {"-h", "--help"}:
        from metaprune_pl.cli.commands import COMMANDS, summary
        from metaprune_pl.settings.shipped import shipped_configs

        configs = shipped_configs()
        short = " ".join(name for name in configs if name.endswith("quickstart.yaml"))
        text = HELP.format(
            commands="\n".join(f"  {name:<13}{summary(name)}" for name in COMMANDS),
            count=len(configs),
            folder=configs["quickstart.yaml"].parent,
            configs=textwrap.indent(textwrap.fill(short, 90, break_on_hyphens=False), "  "),
        )
        sys.stdout.write(text)
    elif args[0] == "--version":
        sys.stdout.write(f"metaprune {__version__}\n")
    else:
        from metaprune_pl.cli.app import main as run

        run(args)


if __name__ == "__main__":
    main()
