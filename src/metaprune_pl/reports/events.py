"""Where TensorBoard's events of a run go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lightning.pytorch.loggers import TensorBoardLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HYPERPARAMETERS = "tensorboard"
"""Folder of TensorBoard's runs that are a row of its table of hyperparameters each."""


class _Logger(TensorBoardLogger):
    """TensorBoard's logger, with names that are paths."""

    LOGGER_JOIN_CHAR = "/"


@dataclass(frozen=True, kw_only=True)
class Events:
    """Where the events of a run go: one run of TensorBoard, however many trainings it has.

    Attributes:
        root: The run's folder; names say where in it something comes from.
        folder: Where events go; those of several runs may go to one.
        prefix: What comes before all names, for runs that share a folder.
        is_part: Whether the run is a part of a larger one, which has the table of hyperparameters.
        is_silent: Whether nothing is written but by trainings.
    """

    root: Path
    folder: Path
    prefix: str = ""
    is_part: bool = False
    is_silent: bool = False

    @classmethod
    def of(cls, root: Path) -> Self:
        """Return events of a run alone, which go to its folder."""
        return cls(root=root, folder=root)

    def name(self, folder: Path) -> str:
        """Return what comes before the names of a folder in the run's."""
        inside = folder.resolve().relative_to(self.root.resolve()).as_posix()
        return "/".join(part for part in (self.prefix, inside) if part not in ("", "."))

    def logger(self, folder: Path) -> TensorBoardLogger:
        """Return Lightning's logger of a folder in the run's."""
        name = self.name(folder)
        return _Logger(
            self.folder,
            name="",
            version="",
            default_hp_metric=False,
            prefix=name,
            filename_suffix=_suffix(name),
        )

    def forget(self, folder: Path) -> None:
        """Remove what another run in this folder has written to one that several share."""
        if self.prefix:
            for file in self.folder.glob(f"*.tfevents.*{_suffix(self.name(folder))}*"):
                file.unlink()

    def log_figures(self, folder: Path, figures: "Mapping[str, Figure]") -> None:
        """Write figures by their names."""
        if self.is_silent:
            return
        logger, start = self.logger(folder), self.name(folder)
        for name, figure in figures.items():
            logger.experiment.add_figure(f"{start}/{name}".lstrip("/"), figure)
        logger.finalize("success")

    def log_scalars(self, folder: Path, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Write numbers by their names, for each of several steps."""
        if self.is_silent:
            return
        logger = self.logger(folder)
        for step, values in rows:
            logger.log_metrics(dict(values), step)
        logger.finalize("success")

    def log_hyperparameters(
        self, name: str, settings: Mapping[str, Any], values: Mapping[str, float]
    ) -> None:
        """Write a row of TensorBoard's table of settings and what came out."""
        version = f"{HYPERPARAMETERS}/{name}"
        logger = TensorBoardLogger(self.folder, name="", version=version, default_hp_metric=False)
        logger.log_hyperparams(dict(settings), {f"result/{key}": v for key, v in values.items()})
        logger.finalize("success")


def _suffix(name: str) -> str:
    """Return the end of the name of the files with events of this name."""
    return f".{name.replace('/', '-')}" if name else ""
