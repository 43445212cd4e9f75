"""A command as a part of a larger one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from metaprune_pl.reports.events import Events
from metaprune_pl.runs.command import run_command, tell
from metaprune_pl.runs.context import Context
from metaprune_pl.settings.parsing import parse_config


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command with a config of its own, as if it was started by hand.

    Attributes:
        command: The function.
        config: Path or name of its config.
        changes: Settings over the config's, by dotted names.
    """

    command: Callable[..., Any]
    config: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def parse(self, **given: Any) -> Namespace:
        """Return all settings.

        Args:
            given: Settings over all others.

        Raises:
            MetapruneError: A setting makes no sense, or there is none of that name.
        """
        return parse_config(self.command, self.config, self.changes, given)

    def run(
        self,
        context: Context,
        folder: Path,
        given: Mapping[str, Any],
        events: Events | None = None,
    ) -> None:
        """Run the command in a folder of its own, unless that was done before.

        Args:
            context: Of the command that this is a part of; its seed and devices count here, too.
            folder: The folder.
            given: Settings over all others.
            events: Where TensorBoard's events go; None is its folder.
        """
        events = events or Events(root=folder, folder=folder, is_part=True)
        shared = {
            "seed_everything": context.seed,
            "trainer.default_root_dir": str(folder),
            "trainer.enable_model_summary": False,
            **{f"trainer.{name}": value for name, value in context.hardware.items()},
        }
        tell(f"{self.command.__name__} {self.config} -> {folder}", "bold")
        settings = parse_config(self.command, self.config, shared, self.changes, given)
        run_command(self.command, settings, events)
