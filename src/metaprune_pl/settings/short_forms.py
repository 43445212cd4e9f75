"""Short forms of what is typed most often, written out: the one place where that is done."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from metaprune_pl.errors import ConfigError
from metaprune_pl.files import at_home
from metaprune_pl.networks.trust import of_module

NETWORK_FIRST = {"prune": "_pruned", "curve": "_curve", "train": ""}
"""Commands whose first word may be the network, and how the names of their folders end."""
_LISTED_FIRST = {"benchmark"}
"""Commands whose first words are a list."""
LISTS = {"speed_ups", "latency_batches", "batches", "threads"}
"""Settings that are lists of numbers, which commas may join."""


class _Short(NamedTuple):
    setting: str
    value: str
    meaning: str


_SHORT = {
    "data": _Short(
        "data", "FOLDER", "images in a folder for each class, as the network expects them"
    ),
    "speed_up": _Short("speed_ups", "2", "multiply-accumulates before over those after"),
    "latency": _Short("goal.latency", "12ms", "a time on this machine, or a share of today's: 0.5"),
    "latency_batch": _Short("goal.batch", "1", "images of the pass that --latency is of"),
    "runtime": _Short("goal.runtime", "eager", "what --latency is in: eager, compiled or onnx"),
    "size": _Short("goal.size", "2MB", "bytes of the weights"),
    "max_drop": _Short("goal.max_drop", "1%", "validation accuracy that may be lost"),
    "out": _Short(
        "trainer.default_root_dir", "FOLDER", "where results go, runs/unnamed by default"
    ),
}
"""Short names of settings."""
_TRUST = "  --trust MODULE:FUNCTION   code of yours that a file names, which is else not run\n"
_OF_NETWORK = (
    "--data.image_size=network",
    "--data.normalization=network",
    "--data.batch_size=32",
)
"""What a folder of images is read as."""
_NO_GOALS = {"speed_ups", "masks", "targets"}
"""Settings that a goal takes the place of."""
_LENGTHS = {"prune": "finetune_after", "train": "training"}
"""Commands that train on images, and what says how long."""
LEAST_STEPS = 1000
"""Steps of a training whose length nobody has said, where images are few."""
ENOUGH = 5000
"""Images of which some epochs are as many steps."""
_FOLDER = re.compile(r"(?!null\b)[a-z0-9_~][\w-]*")
"""A folder of the current one; classes begin with a capital letter."""
_NUMBERS = re.compile(r"-?[\d.]+x?(?:\s*,\s*-?[\d.]+x?)*")


def write_out(command: str, args: Iterable[str]) -> list[str]:
    """Return a command line without short forms; what is none stays as it is.

    ====================================  ===========================================
    `prune NETWORK`                       `--network=NETWORK`
    `FOLDER/FILE.py:FUNCTION`             `FILE:FUNCTION`, looked up in that folder
    `--data FOLDER`                       an `ImageFolder`, as the network expects it, and
                                          1,000 steps of training where images are few
    `--speed_up 2`, `--speed_ups 2,3`     `--speed_ups=[2]`, `--speed_ups=[2,3]`
    `--latency 0.5`, `--max_drop 1%`      `--goal.latency=0.5`, `--goal.max_drop=1%`
    `--out FOLDER`                        `--trainer.default_root_dir=FOLDER`
    `FLAG=~/FOLDER`                       the folder in the home folder
    ====================================  ===========================================

    Args:
        command: The command.
        args: What was typed behind it.

    Raises:
        ConfigError: A goal is given, and something that would then not count.
    """
    words = [_of_file(_from_home(arg)) for arg in args]
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    if command in _LISTED_FIRST and first:
        listed = [_as_path(word) for word in words[:first]]
        words = [json.dumps(listed, ensure_ascii=False), *words[first:]]
    flags = list(_flags(words))
    if command == "prune":
        _check_goal(flags)
    if command in NETWORK_FIRST and first == 1:
        flags[0] = f"--network={words[0]}"
        flags += _folder(command, words[0], flags)
    if _OF_NETWORK[0] not in flags:
        return flags
    return [*_typed_last(flags), *_rounded(command, flags), *_length(command, flags)]


def short_names(settings: Iterable[str]) -> list[str]:
    """Return the short names that settings of a command have."""
    groups = {name.partition(".")[0] for name in settings}
    return [name for name, short in _SHORT.items() if short.setting.partition(".")[0] in groups]


def as_typed(setting: str) -> str:
    """Return the short name of a setting of a group, or the setting itself where it has none."""
    short = {short.setting: name for name, short in _SHORT.items() if "." in short.setting}
    return short.get(setting, setting)


def short_help(settings: Iterable[str]) -> str:
    """Return the help of the short forms that a command has, given its settings."""
    pairs = [(f"--{name} {_SHORT[name].value}", _SHORT[name]) for name in short_names(settings)]
    lines = [f"  {typed:<25} {short.meaning} (--{short.setting})\n" for typed, short in pairs]
    title = "Short forms" if lines else "As for every command"
    return f"\n{title}:\n{''.join(lines)}{_TRUST}"


def _as_path(word: str) -> str:
    """Return a name in the current folder as no class could be called: `./net.onnx`."""
    return word if "/" in word else f"./{word}"


def _from_home(arg: str) -> str:
    """Return an argument with the home folder for `~/`; the shell sees none behind `=`."""
    flag, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
    return f"{flag}{equals}{os.path.expanduser(value)}" if "/" in value else arg


def _check_goal(flags: list[str]) -> None:
    """Refuse a goal beside what would then not count."""
    pairs = zip(flags, [*flags[1:], ""], strict=True)
    chosen = (flag for flag, value in pairs if "null" not in (value, flag.rpartition("=")[2]))
    names = {flag.removeprefix("--").partition("=")[0].partition(".")[0] for flag in chosen}
    if "goal" in names and names & _NO_GOALS:
        raise ConfigError(
            "--latency, --size and --max_drop are in place of --speed_up, --masks and --targets: "
            "give one of them."
        )


def _flags(words: Iterable[str]) -> Iterator[str]:
    """Give each flag with its value as one word, written out."""
    rest = iter(words)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in {*LISTS, *_SHORT}:
            yield word
            continue
        value = value if equals else next(rest, "")
        yield from _written_out(name, value)


def _typed_last(flags: list[str]) -> list[str]:
    """Return flags with those that a person typed about the data behind the short form's."""
    own = range(flags.index("--data=ImageFolder"), flags.index(_OF_NETWORK[-1]) + 1)
    typed = [i for i, flag in enumerate(flags) if flag.startswith("--data.") and i not in own]
    values = [i + 1 for i in typed if "=" not in flags[i]]
    last = sorted({*typed, *values})
    return [f for i, f in enumerate(flags) if i not in last] + [flags[i] for i in last]


def _written_out(name: str, value: str) -> Iterator[str]:
    if name == "out" and value == "~":
        value = str(at_home(value))  # YAML's null otherwise
    name = _SHORT[name].setting if name in _SHORT else name
    if name == "data" and _is_folder(value):
        yield "--data=ImageFolder"
        yield f"--data.folder={value}"
        yield from _OF_NETWORK
    elif name in LISTS and _NUMBERS.fullmatch(value):
        yield f"--{name}=[{_increasing(value) if name == 'speed_ups' else value}]"
    else:
        yield f"--{name}={value}"


def _increasing(text: str) -> str:
    """Return speed-ups in any order, which may be written as in tables (2x), as they are taken."""
    with suppress(ValueError):
        return ",".join(sorted(text.replace("x", "").split(","), key=float))
    return text


def _is_folder(value: str) -> bool:
    """Whether a value names a folder rather than a class, a YAML file or settings."""
    path = at_home(value)
    is_file = path.suffix in {".yaml", ".yml", ".json"}
    return path.is_dir() or ("/" in value and not is_file) or bool(_FOLDER.fullmatch(value))


def _of_file(arg: str) -> str:
    """Return an argument in which a function of a file has the name of its module."""
    flag, equals, value = arg.rpartition("=") if arg.startswith("--") else ("", "", arg)
    return f"{flag}{equals}{of_module(value)}"


def _rounded(command: str, flags: list[str]) -> list[str]:
    """Return that widths are what processors like, unless something is said of pruning."""
    said = any(flag.startswith(("--pruning", "--config", "-c")) for flag in flags)
    return [] if command != "prune" or said else ["--pruning.round_to=auto"]


def _length(command: str, flags: list[str]) -> list[str]:
    """Return how long to train on a folder of few images, unless that is said."""
    name = _LENGTHS.get(command)
    if name is None or any(flag.startswith((f"--{name}", "--config", "-c")) for flag in flags):
        return []
    folder = next(flag for flag in flags if flag.startswith("--data.folder="))
    files = at_home(folder.partition("=")[2]).rglob("*.*")
    few = sum(1 for _ in islice(files, ENOUGH)) < ENOUGH
    return [f"--{name}.steps={LEAST_STEPS}"] if few else []


def _folder(command: str, network: str, flags: list[str]) -> list[str]:
    """Return where results of a network go, unless that is said."""
    if any(flag.startswith(("--trainer.default_root_dir", "--config", "-c")) for flag in flags):
        return []
    module, colon, _ = network.partition(":")
    path = module.replace(".", "/") if colon else network
    parts = [part for part in path.split("/") if part not in {"", "network"}]
    name = parts[-1] if parts else "network"
    return [f"--trainer.default_root_dir=runs/{name}{NETWORK_FIRST[command]}"]
