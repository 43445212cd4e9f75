"""The folder of a run: what it holds, whether it is finished, and what it was made from.

A run is known by its key: a digest of its settings and of the networks that it reads. A finished
run with the same key is not run again, an unfinished one continues, and another one is never
overwritten.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from metaprune_pl.errors import StorageError
from metaprune_pl.files import read_json, remove_unfinished, write_json, write_text
from metaprune_pl.pipelines.cost import (
    cost_of,
    current_files,
    peak_memory,
    reset_peaks,
    trained_images,
)
from metaprune_pl.reports import Cost

HARDWARE = {
    "accelerator",
    "devices",
    "strategy",
    "num_nodes",
    "logger",
    "enable_progress_bar",
    "enable_model_summary",
    "log_every_n_steps",
    "profiler",
    "threads",
    "default_root_dir",
}
"""Trainer settings that do not make it another run."""
ARTIFACTS = {"network", "state", "metanetwork", "data_models"}
"""Settings that name folders of stored networks or a file of weights, which belong to the key."""


def run_key(command: str, config: Mapping[str, Any]) -> str:
    """Return the digest of a run's settings and of the stored networks that they name."""
    plain = {key: value for key, value in config.items() if key not in {"config", "trainer"}}
    trainer = {
        key: value for key, value in (config.get("trainer") or {}).items() if key not in HARDWARE
    }
    digest = hashlib.sha256(
        json.dumps([command, plain, trainer], sort_keys=True, default=str).encode()
    )
    for folder in sorted(_artifacts(plain)):
        inside = sorted(
            [*folder.glob("weights.safetensors"), *folder.glob("*/weights.safetensors")]
        )
        for path in [folder] if folder.is_file() else inside:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


def _artifacts(config: Any) -> Iterator[Path]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key in ARTIFACTS and isinstance(value, str):
                yield Path(value)
            else:
                yield from _artifacts(value)


def _flat(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


@dataclass
class RunFolder:
    """One run's folder.

    Attributes:
        path: Where it is.
        command: Subcommand.
        key: What makes it this run.
    """

    path: Path
    command: str
    key: str

    @property
    def shared(self) -> bool:
        """Whether several processes may be at it, each with pieces that are runs of their own."""
        return self.command == "data_models"

    @property
    def _file(self) -> Path:
        return self.path / "run.json"

    def _read(self) -> dict[str, Any] | None:
        return read_json(self._file) if self._file.is_file() else None

    @property
    def foreign(self) -> bool:
        """Whether another run is here."""
        known = self._read()
        if known is not None:
            return bool(known["key"] != self.key)
        return any(
            (self.path / name).exists()
            for name in ("config.yaml", "report.json", "checkpoints", "network.json")
        )

    @property
    def finished(self) -> bool:
        """Whether this run is here and came to its end."""
        known = self._read()
        return known is not None and known["key"] == self.key and known["finished"]

    def start(self, config: str | None = None) -> None:
        """Write the settings, and go on counting time where an earlier session stopped.

        Raises:
            StorageError: Another run is here, or there can be no such folder.
        """
        if self.foreign:
            raise StorageError(
                f"'{self.path}' holds another run{self._difference(config)}. Set "
                "--trainer.default_root_dir to a new "
                "folder, or remove this one."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the folder '{self.path}': {error.strerror}. Set "
                "--trainer.default_root_dir to another."
            ) from error
        remove_unfinished(self.path)
        known = self._read() or {}
        cost = Cost(**known.get("cost", {}))
        if "started" in known and not self.shared:
            last = max(path.stat().st_mtime for path in self.path.rglob("*") if path.is_file())
            cost = replace(cost, seconds=cost.seconds + max(0.0, last - known["started"]))
        reset_peaks()
        self._write(finished=False, cost=asdict(cost), started=time.time())
        if config is not None:
            write_text(self.path / "config.yaml", config)

    def _difference(self, config: str | None) -> str:
        """Say in brackets what makes the run that is here another one than one with this config, if that is known."""
        known, file = self._read(), self.path / "config.yaml"
        if known is None or config is None or not file.is_file():
            return ""
        if known["command"] != self.command:
            return f" (of `{known['command']}`)"
        old, new = (
            dict(self._counting(yaml.safe_load(text))) for text in (file.read_text(), config)
        )
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

    def finish(self) -> None:
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
        own = Cost(**known["cost"]) + peak_memory() + inner
        seconds = (
            inner.seconds
            if self.shared
            else known["cost"]["seconds"] + time.time() - known["started"]
        )
        cost = replace(own, seconds=seconds, images=trained_images(self.path))
        self._write(finished=True, cost=asdict(cost))

    def keep_report(self, config: str) -> Path | None:
        """Put the report of other settings into a folder of its own, and return that folder."""
        old = self.path / "config.yaml"
        if (
            not (self.path / "report.json").is_file()
            or not old.is_file()
            or old.read_text() == config
        ):
            return None
        number = 1
        while (kept := self.path / f"report.old-{number}").exists():
            number += 1
        kept.mkdir()
        files = [path for path in self.path.iterdir() if path.suffix in {".png", ".csv"}]
        for path in (*files, self.path / "report.json", old):
            path.rename(kept / path.name)
        return kept

    def discard_if_empty(self) -> None:
        """Remove the folder of a run that made no network, checkpoint or result."""
        made = (
            path
            for pattern in ("*.safetensors", "*.ckpt", "*.json")
            for path in self.path.rglob(pattern)
        )
        if self.path.is_dir() and {path.name for path in made} <= {"run.json"}:
            shutil.rmtree(self.path)

    def _write(self, **facts: Any) -> None:
        write_json(self._file, {"command": self.command, "key": self.key, **facts})

    def move_aside(self) -> Path:
        """Rename the folder so that a new run can take its place."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        self.path.rename(aside)
        return aside

    def bring_back(self) -> bool:
        """Rename a folder of this run that was moved aside back, if there is one and its place is free."""
        for aside in sorted(self.path.parent.glob(f"{self.path.name}.old-*")):
            if not RunFolder(aside, self.command, self.key).foreign:
                aside.rename(self.path)
                return True
        return False
