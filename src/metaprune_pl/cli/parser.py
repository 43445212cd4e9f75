"""Errors of the command line in a few lines: what is wrong, the closest known name, and where to look."""

import difflib
import re
import sys
from typing import Any, NoReturn

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from metaprune_pl.metanetworks import Metanetwork

_UNKNOWN_KEY = re.compile(r"(?:[Oo]ption|[Kk]ey|argument)s?:? '?(?:--)?([\w.]+)(?:=[^' ]*)?'? (?:is )?not (?:accepted|expected)|"
                          r"(?:does not accept|unrecognized|unknown|Unexpected)[^'\n]*'?(?:--)?([\w.]+\w)")  # fmt: skip
_CLASS = re.compile(r"(?:Import path|class_path|dotted|dot import path)", re.IGNORECASE)


class ShortErrorParser(LightningArgumentParser):
    """LightningCLI's parser without 50 lines of usage before each error."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print a short message and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        prog = re.sub(r" *\[options\]", "", parser.prog)
        sys.stderr.write(f"error: {shorten(message, _known_names(parser))}\nSee '{prog} --help'.\n")
        sys.exit(2)


def shorten(message: str, known: list[str]) -> str:
    """Drop the noise of unions from an error, and add the closest known name to each unknown one.

    Args:
        message: What jsonargparse says.
        known: Names of all options and classes.
    """
    lines = [line.rstrip() for line in message.splitlines() if line.strip()]
    lines = [
        line for line in lines if not re.search(r"NoneType|^\s*- (?:Expected|Given)|Problem with given class", line)
    ] or lines
    text = "\n".join(line for line in lines[:4])
    for word in dict.fromkeys(re.findall(r"['\"]?([A-Za-z_][\w.]*\w)['\"]?", message)):
        if word in known or any(name.endswith(f".{word}") for name in known):
            continue
        short = word.rpartition(".")[2]
        close = difflib.get_close_matches(word, known, n=1, cutoff=0.8)
        if not close:
            tails = {name.rpartition(".")[2]: name for name in known}
            tail = difflib.get_close_matches(short, [t for t in tails if t != short], n=1, cutoff=0.8)
            close = tail if tail and short not in tails else []
        if close and _is_name(word, message):
            return f"{text}\nDid you mean '{close[0]}'?"
    return text


def _is_name(word: str, message: str) -> bool:
    return any(mark in message for mark in (f"'{word}", f'"{word}', f"--{word}", f"{word}:", f" {word}."))


def _known_names(parser: Any) -> list[str]:
    """Names of all options of a parser, and of all classes that a config can name."""
    names = [option.lstrip("-") for action in parser._actions for option in action.option_strings]
    todo: list[type] = [LightningModule, LightningDataModule, Metanetwork]
    while todo:
        kind = todo.pop()
        names.append(kind.__name__)
        todo += kind.__subclasses__()
    return names
