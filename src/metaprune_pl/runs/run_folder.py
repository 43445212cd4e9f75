"""The folder of a run: what it holds, whether it is finished, and what it was made from.

A run is known by its key: a digest of its settings, and of the networks and code that it reads. A
finished run with the same key is not run again, an unfinished one continues, and another one is
never overwritten: one that was stopped before it finished anything is moved aside, or cleared away
if it came to no network, checkpoint or result.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from metaprune_pl.errors import StorageError
from metaprune_pl.files import (
    check_file,
    claim,
    is_lock,
    is_unfinished,
    paths_below,
    remove_unfinished,
    write_json,
    write_text,
    writing,
)
from metaprune_pl.records import read_record
from metaprune_pl.reports import Cost
from metaprune_pl.runs.cost import (
    RunFacts,
    cost_of,
    current_files,
    peak_memory,
    reset_peaks,
    trained_images,
)
from metaprune_pl.runs.run_key import HARDWARE
from metaprune_pl.runs.traces import CLAIMS, LOCK, came_to_nothing, finished_nothing, is_held

SHOWN, HIDDEN = ".tfevents.", ".old-events."
"""In the names of files with events: of a run, and of one that was moved aside."""
DEEPEST = 50
"""Levels of a kept config that are read at most."""
LARGEST_CONFIG = 2**20
"""Bytes of a kept config that are read at most."""
_WAY_OUT = "Set --out NEW_FOLDER."


def _flat(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def _kept_settings(file: Path) -> dict[str, Any] | None:
    """Return the settings that a run has kept, if they are still there and whole."""
    try:
        check_file(file, LARGEST_CONFIG)
        text = file.read_text()
        if not _is_plain(text):
            return None
        kept = yaml.safe_load(text)
    except (StorageError, yaml.YAMLError, ValueError, RecursionError):
        return None
    return kept if isinstance(kept, dict) else None


def _is_plain(text: str) -> bool:
    """Whether YAML nests little and has no aliases, which stand for any amount of settings."""
    depth = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or isinstance(event, yaml.AliasEvent):
            return False
    return True


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


@dataclass
class RunFolder:
    """One run's folder.

    Attributes:
        path: Where it is.
        command: Subcommand.
        key: What makes it this run.
        images: What tells its images from others of the same settings, if that is known.
    """

    path: Path
    command: str
    key: str
    images: str = ""

    @property
    def shared(self) -> bool:
        """Whether several processes may be at it, each with pieces that are runs of their own."""
        return self.command == "data_models"

    @property
    def _file(self) -> Path:
        return self.path / "run.json"

    def _read(self) -> RunFacts | None:
        if not self._file.exists():
            return None
        try:
            return read_record(RunFacts, self._file)
        except StorageError as error:
            raise StorageError(f"{error} {_WAY_OUT}") from error

    @property
    def foreign(self) -> bool:
        """Whether another run is here, or one of other images, or what is no run."""
        known = self._read()
        if known is None:
            return self._holds_others()
        changed = known.images != self.images and bool(known.images and self.images)
        return known.key != self.key or changed

    def _holds_others(self) -> bool:
        return self.path.is_dir() and not all(
            is_unfinished(path) or (path.name == LOCK and is_lock(path))
            for path in self.path.iterdir()
        )

    @property
    def _blank(self) -> bool:
        """Whether a run is here that was stopped before it came to anything."""
        known = self._read()
        stopped = known is not None and not known.finished and not self.shared
        return stopped and came_to_nothing(paths_below(self.path))

    @property
    def abandoned(self) -> bool:
        """Whether a run is here that was stopped before it had finished anything.

        One that came to nothing at all is no such run: it is cleared away.
        """
        known = self._read()
        if known is None or known.finished or self.shared or self._blank:
            return False
        if self.path.is_symlink():  # where the link leads is the person's choice
            return False
        is_around = Path.cwd().is_relative_to(self.path.resolve())
        return not is_around and finished_nothing(paths_below(self.path))

    @property
    def finished(self) -> bool:
        """Whether this run came to its end here, be it of other images.

        What a kill right then left is removed.
        """
        known = self._read()
        if known is None or known.key != self.key or not known.finished:
            return False
        with writing(self.path):
            remove_unfinished(self.path)
        return True

    @contextmanager
    def running(self, config: str | None = None, *, keep: bool = False) -> Iterator[Path | None]:
        """Hold the folder while a run is at it: start it, and finish it when all went well.

        A run that fails before it came to any network, checkpoint or result leaves nothing.

        Args:
            config: Its settings.
            keep: Whether a report of other settings goes to a folder of its own, which is given.

        Raises:
            StorageError: Another run is here or another process is at this one, or there can be no
                such folder.
        """
        outer = [path for path in (self.path, *self.path.parents) if path.exists()]
        self._refuse_foreign(config)
        before = {*paths_below(self.path), *outer}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the folder '{self.path}': {error.strerror}. {_WAY_OUT}"
            ) from error
        with self._held():
            self._refuse_foreign(config)
            if self.foreign:
                self._clear()
            with ExitStack() as undo:
                undo.callback(self._discard, before)
                kept = self._keep_report(config) if keep and config is not None else None
                self._start(config)
                yield kept
                undo.pop_all()
            self._finish()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keep other processes out, but for those that share the work."""
        with nullcontext(True) if self.shared else claim(self.path / LOCK) as mine:
            if not mine:
                holder = (self.path / LOCK).read_text().strip() or "another process"
                raise StorageError(
                    f"'{self.path}' is in use by {holder}. Wait for it, or choose another folder: "
                    "--out NEW_FOLDER."
                )
            yield

    def _refuse_foreign(self, config: str | None) -> None:
        if self.foreign and self._read() is None:
            raise StorageError(f"'{self.path}' is not empty, and holds no run. {_WAY_OUT}")
        if self.foreign and not self._blank:
            other = f"another run{self._difference(config)}"
            raise StorageError(f"'{self.path}' holds {other}. {_WAY_OUT}")

    def _clear(self) -> None:
        """Remove what a run that was stopped before it came to anything has left."""
        for path in paths_below(self.path):
            if path.is_file() and path.name != LOCK:
                path.unlink()

    def _start(self, config: str | None) -> None:
        """Write the settings, and go on counting time where an earlier session stopped."""
        remove_unfinished(self.path)
        known = self._read()
        cost = Cost() if known is None else known.cost
        if known is not None and known.started is not None and not self.shared:
            last = max(path.stat().st_mtime for path in paths_below(self.path) if path.is_file())
            cost = replace(cost, seconds=cost.seconds + max(0.0, last - known.started))
        reset_peaks()
        self._write(finished=False, cost=cost, started=time.time())
        if config is not None:
            write_text(self.path / "config.yaml", config)

    def _difference(self, config: str | None) -> str:
        """Say in brackets which settings of the run that is here differ, if that is known."""
        known, kept = self._read(), _kept_settings(self.path / "config.yaml")
        if known is None or config is None or kept is None:
            return ""
        if known.command != self.command:
            return f" (of `{known.command}`)"
        if known.key == self.key:
            return f" (images: {known.images} -> {self.images})"
        old, new = (dict(self._counting(each)) for each in (kept, yaml.safe_load(config)))
        differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if old == new:
            return " (its settings are the same; a network or file that it names has changed)"
        if not differing:  # an older program had not all of them
            return ""
        said = [
            f"{key}: {_as_text(old.get(key))} -> {_as_text(new.get(key))}" for key in differing[:3]
        ]
        return f" ({', '.join(said)}{', ...' if differing[3:] else ''})"

    def _counting(self, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Settings that make it another run, by their dotted names."""
        idle = {"config", *(f"trainer.{name}" for name in HARDWARE)}
        idle |= {"model.init_args.seeds", "side_by_side"} if self.shared else set()
        for key, value in _flat(config):
            if not any(f"{key}.".startswith(f"{name}.") for name in idle):
                yield key, value

    def _finish(self) -> None:
        """Mark the run as finished, and write what it cost."""
        known = self._read()
        assert known is not None
        inner = sum(
            (
                cost_of(path.parent)
                for path in current_files(self.path, "run.json")
                if path != self._file
            ),
            Cost(),
        )
        cost, seconds = known.cost + peak_memory() + inner, inner.seconds
        if not self.shared:
            assert known.started is not None
            seconds = known.cost.seconds + time.time() - known.started
        cost = replace(cost, seconds=seconds, images=trained_images(self.path))
        self._write(finished=True, cost=cost)

    def _keep_report(self, config: str) -> Path | None:
        """Put the report of other settings into a folder of its own, and return that folder."""
        old = self.path / "config.yaml"
        if (
            not (self.path / "report.json").is_file()
            or not old.is_file()
            or old.read_bytes() == config.encode()
        ):
            return None
        number = 1
        while (kept := self.path / f"report.old-{number}").exists():
            number += 1
        kept.mkdir()
        files = [
            path for path in self.path.iterdir() if path.suffix in {".png", ".csv", ".html", ".md"}
        ]
        for path in (*files, self.path / "report.json", old):
            path.rename(kept / path.name)
        return kept

    def _discard(self, before: set[Path]) -> None:
        """Remove what a run has made that came to no network, checkpoint or result.

        Only what was not there `before` goes, and only files that every run has; the folder, and
        those that it lies in, go with them if the run made them.
        """
        made = [path for path in paths_below(self.path) if path not in before]
        if not came_to_nothing(made):
            return
        files = [path for path in made if not path.is_dir() or path.is_symlink()]
        if any(is_held(path) for path in files if path.parent.name == CLAIMS):
            return
        folders = [path for path in made if path not in files]
        with suppress(OSError):  # the error that led here is told
            for path in sorted(files, key=lambda path: path == self._file):  # what it is goes last
                path.unlink(missing_ok=True)
            for path in [*reversed(folders), self.path, *self.path.parents]:
                if path not in before and not any(path.iterdir()):
                    path.rmdir()

    def _write(self, *, finished: bool, cost: Cost, started: float | None = None) -> None:
        known = self._read()
        facts = RunFacts(
            command=self.command,
            key=self.key,
            finished=finished,
            cost=cost,
            started=started,
            images=self.images or (known.images if known else ""),
        )
        write_json(self._file, asdict(facts))

    def move_aside(self) -> Path:
        """Rename the folder so that a new run can take its place; TensorBoard shows it no more."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        with self._held():
            self.path.rename(aside)
        _rename_events(aside, SHOWN, HIDDEN)
        return aside

    def bring_back(self) -> bool:
        """Bring back a folder of this run that was moved aside, if its place is free."""
        for aside in sorted(self.path.parent.iterdir()):
            number = aside.name.removeprefix(f"{self.path.name}.old-")
            if not number.isdecimal() or not (aside / self._file.name).is_file():
                continue
            if not replace(self, path=aside).foreign:
                aside.rename(self.path)
                _rename_events(self.path, HIDDEN, SHOWN)
                return True
        return False


def _rename_events(folder: Path, old: str, new: str) -> None:
    """Rename files of TensorBoard's events, which it knows by their names."""
    for file in [*folder.rglob(f"*{old}*")]:
        file.rename(file.with_name(file.name.replace(old, new)))
