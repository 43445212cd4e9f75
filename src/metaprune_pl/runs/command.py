"""Around every command: its run's folder, the processes of a run, and what a person is told."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import Namespace
from lightning.pytorch import seed_everything
from rich.console import Console

from metaprune_pl.data import ImageDataModule, ImageFolder
from metaprune_pl.errors import ConfigError, DataError
from metaprune_pl.files import at_home
from metaprune_pl.networks import NetworkSource
from metaprune_pl.reports.events import Events
from metaprune_pl.reports.next_step import shell_line
from metaprune_pl.reports.printing import print_result
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.run_folder import RunFolder
from metaprune_pl.runs.run_key import run_key
from metaprune_pl.settings.parsing import parser_of
from metaprune_pl.stages.trainer import StageTrainer, is_main_process

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_SURROUNDING = {"config", "seed_everything", "trainer"}
"""Settings that are not a command's own."""

IsDone = Callable[[Path, Mapping[str, Any]], bool]
"""Tells of a finished run's folder whether it holds all that is asked for, by the arguments."""


Check = Callable[[Mapping[str, Any]], Any]
"""Refuses arguments before a folder is made."""


@dataclass(frozen=True, kw_only=True)
class _Rule:
    ignored: tuple[str, ...] = ()
    is_done: IsDone = lambda folder, arguments: True
    check: Check = lambda arguments: None


_RULES: defaultdict[str, _Rule] = defaultdict(_Rule)


def goes_on(
    *ignored: str,
    is_done: IsDone = lambda folder, arguments: False,
    check: Check = lambda arguments: None,
) -> Callable[[F], F]:
    """Mark a command that finds by itself what is there, and goes on in its finished run's folder.

    Args:
        ignored: Settings that do not make it another run.
        is_done: Whether there is nothing left to do, though; by default there always is.
        check: Refuses arguments before a folder is made.
    """

    def mark(function: F) -> F:
        _RULES[function.__name__] = _Rule(ignored=ignored, is_done=is_done, check=check)
        return function

    return mark


def tell(text: str, style: str | None = None) -> None:
    """Tell a person how a run goes on, once for all its processes.

    Args:
        text: The text, in which square brackets are what they are.
        style: Of all of it, such as `bold`.
    """
    if is_main_process():
        console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
        console.print(text, style=style)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A command that is about to run.

    Attributes:
        command: Its name.
        trainer: Its Trainer, whose folder is the run's.
        config: All settings, as YAML.
        arguments: What the function is called with.
        part: Whether it is a part of a larger one, which has started the processes and has the
            word: another run in its folder is moved aside.
        quiet: Whether the caller takes the result, also of a finished run: the command goes
            through it once more, and finds what is there.
    """

    command: str
    trainer: StageTrainer
    config: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    part: bool = False
    quiet: bool = False

    def execute(self, work: Callable[[], T]) -> T | None:
        """Work in the run's folder: not again what is finished, and nothing over another run.

        A person sees what comes out, unless this is a part of something larger.

        Raises:
            StorageError: The folder holds something else, or another process is at it.
        """
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.trainer.join()
            return self._show(work())
        rule, folder = _RULES[self.command], self._folder()
        if is_main_process():
            self._make_room(folder)
        done = folder.finished and rule.is_done(folder.path, self.arguments) and not self.quiet
        if self.trainer.broadcast(done):
            self._tell_finished(folder)
            return None
        with ExitStack() as held:
            if is_main_process():
                kept = held.enter_context(folder.running(self.config, keep=bool(rule.ignored)))
                if kept is not None:
                    text = f"{folder.path} held a report with other settings, now in {kept}"
                    tell(text, "yellow")
            if not self.part:
                self.trainer.join()
            result = work()
        self.trainer.broadcast(None)
        if not self.part:
            self.trainer.leave()
            self._show(result)
            if not self.quiet:
                curves = ("tensorboard", "--reload_multifile", "true", "--logdir", folder.path)
                tell(f"Results are in {folder.path}. Curves: {shell_line(*curves)}")
        return result

    def _make_room(self, folder: RunFolder) -> None:
        """Move another run out of the way, if that may be, and back what a part has done before."""
        if folder.foreign and not self.part:
            _check_there(self.arguments)
        if folder.foreign and (self.part or folder.abandoned):
            aside = folder.move_aside()
            text = f"{folder.path} held a run with other settings or images; it is now {aside}"
            hint = "" if self.part else f": its own command goes on with --out {aside}"
            tell(f"{text}{hint}", "yellow")
            self.trainer.events.forget(folder.path)
            if self.part and folder.bring_back():
                text = "again the run with these settings that was moved aside before"
                tell(f"{folder.path} is {text}", "yellow")

    def _folder(self) -> RunFolder:
        settings = yaml.safe_load(self.config)
        for name in _RULES[self.command].ignored:
            _remove(settings, name)
        return RunFolder(
            Path(self.trainer.default_root_dir),
            self.command,
            run_key(self.command, settings),
            _contents(self.arguments.get("data")),
        )

    def _show(self, result: T) -> T:
        if result is not None and not self.quiet and is_main_process():
            print_result(result)
        return result

    def _tell_finished(self, folder: RunFolder) -> None:
        since = ", although its images have changed since" if folder.foreign else ""
        style = "yellow" if since else "dim"
        tell(f"{folder.path} is finished; it is not run again{since}.", style)
        if not self.part:
            tell(f"Results are in {folder.path}. To run again: --out NEW_FOLDER.")


def _contents(data: Any) -> str:
    """What tells a run's images from others; nothing where there are none to look at."""
    with suppress(DataError):  # told where they are read
        return data.contents if isinstance(data, ImageDataModule) else ""
    return ""


def _check_there(arguments: Mapping[str, Any]) -> None:
    """Refuse images and a network that are not there: mistyped, they make it another run."""
    if isinstance(data := arguments.get("data"), ImageFolder):
        _ = data.class_names
    if isinstance(name := arguments.get("network"), str):
        NetworkSource(network=name).look_up()


def _remove(settings: dict[str, Any], name: str) -> None:
    """Remove a setting by its dotted name."""
    *outer, last = name.split(".")
    for part in outer:
        settings = settings.get(part) or {}
    settings.pop(last, None)


def run_command(
    command: Callable[..., Any], settings: Namespace, events: Events | None = None
) -> None:
    """Run a command with the settings that were parsed for it, in its run's folder.

    Args:
        command: The function.
        settings: Its settings.
        events: Where TensorBoard's events go, of a part of a larger command; None is of one alone.

    Raises:
        MetapruneError: Whatever the command raises.
    """
    settings.seed_everything = seed(settings.seed_everything)
    config = parser_of(command).dump(settings, skip_unset=False)
    arguments, given = build(command, settings)
    trainer = StageTrainer(**given)
    trainer.events = events or trainer.events
    run = Run(
        command=command.__name__,
        trainer=trainer,
        config=config,
        arguments=arguments,
        part=events is not None,
    )
    context = Context.of(trainer, seed=settings.seed_everything, is_part=run.part)
    run.execute(lambda: command(context, **arguments))
    for sentence in context.closing:
        tell(sentence)


def build(
    command: Callable[..., Any], settings: Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a command's arguments and its Trainer's, built of the settings that were parsed.

    Args:
        command: The function.
        settings: Its settings.

    Raises:
        MetapruneError: One makes no sense.
    """
    parser = parser_of(command)
    check_trainer(settings)
    built = parser.instantiate(settings)
    arguments = {name: value for name, value in vars(built).items() if name not in _SURROUNDING}
    trainer = dict(vars(built.trainer))
    check(command, arguments, trainer)
    return arguments, trainer


def check(
    command: Callable[..., Any], arguments: Mapping[str, Any], trainer: Mapping[str, Any]
) -> None:
    """Refuse arguments of a command that make no sense, before a folder is made.

    Args:
        command: The function.
        arguments: Its arguments.
        trainer: Settings of its Trainer.

    Raises:
        MetapruneError: One makes no sense.
    """
    if "model" not in arguments and trainer.get("max_epochs") is not None:
        raise ConfigError(_no_effect(command.__name__, parser_of(command).get_defaults()))
    _check_apart(at_home(trainer.get("default_root_dir") or "."), arguments.get("data"))
    _RULES[command.__name__].check(arguments)


def _check_apart(folder: Path, data: Any) -> None:
    """Refuse a run's folder that would be one of the class folders of images, or lie in one."""
    if not isinstance(data, ImageFolder) or (data.folder / "train").is_dir():
        return
    if data.folder.resolve() in folder.resolve().parents:
        raise ConfigError(
            f"'{folder}' would be a class folder of the images in '{data.folder}': set "
            "--out to a folder elsewhere."
        )


def check_trainer(settings: Namespace) -> None:
    """Refuse anything else than settings for a Trainer."""
    if not isinstance(settings.trainer, Namespace):
        raise ConfigError("trainer: expected settings such as {accelerator: cpu}.")


def seed(value: int | bool) -> int | bool:
    """Seed all generators; true draws a seed, which is returned, and false leaves them alone."""
    if value is False:
        return False
    if value is not True and not 0 <= value < 2**32:
        raise ConfigError(f"seed_everything is {value}; give a whole number from 0 to 2^32 - 1.")
    return seed_everything(None if value is True else value, workers=True)


def _no_effect(command: str, defaults: Namespace) -> str:
    """Say where epochs are set instead of in `trainer`."""
    own = sorted(name for name in defaults.keys() if name.endswith(".epochs") and defaults[name])
    way_out = (
        f"set {', '.join(own[:-1])}{' and ' if own[1:] else ''}{own[-1]}."
        if own
        else "set it for a stage, among the overrides: {data_models: {trainer.max_epochs: 9}}."
    )
    return f"trainer.max_epochs has no effect on {command}: {way_out}"
