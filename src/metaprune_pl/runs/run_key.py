"""What makes a run this run: its settings, and the networks and code that it reads."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metaprune_pl.files import check_file
from metaprune_pl.networks.trust import source_of

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
ARTIFACTS = {"network", "state", "metanetwork", "data_models", "others", "networks"}
"""Settings that name folders of stored networks or files of weights, which belong to the key."""
CODE = {"builder", "backbone", "class_path"}
"""Settings that name code; the files of the user's own belong to the key."""


def run_key(command: str, config: Mapping[str, Any]) -> str:
    """Return the digest of a run's settings and of the networks, files and code that they name."""
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
            check_file(path)
            with path.open("rb") as file:
                while part := file.read(2**20):
                    digest.update(part)
    return digest.hexdigest()[:20]


def _artifacts(config: Any) -> Iterator[Path]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            names = value if isinstance(value, list) else [value]
            if key not in ARTIFACTS | CODE or not all(isinstance(name, str) for name in names):
                yield from _artifacts(value)
                continue
            for name in names:
                if key in ARTIFACTS:
                    yield Path(name)
                if ":" in name or key in CODE:
                    yield from filter(None, [source_of(name)])
