"""`fit`, `validate` and `test`: LightningCLI itself, with our Trainer and configs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden

from metaprune_pl.errors import ConfigError, StorageError
from metaprune_pl.runs.command import Run, check_trainer
from metaprune_pl.settings.parsing import CommandParser, ConfigFile, example
from metaprune_pl.stages.trainer import StageTrainer

_STEPS = {"validate": "validation_step", "test": "test_step"}


class TrainingCLI(LightningCLI):
    """LightningCLI as it is for one command, whose method of the Trainer `execute` calls.

    Args:
        function: `fit`, `validate` or `test`, whose docstring has the example.
        args: Command line behind it.
    """

    def __init__(self, function: Callable[..., Any], args: list[str]) -> None:
        self.command = function.__name__
        super().__init__(
            trainer_class=StageTrainer,
            trainer_defaults={"default_root_dir": "runs/unnamed", "enable_model_summary": False},
            parser_class=CommandParser,
            parser_kwargs={"prog": f"metaprune {self.command}", "epilog": example(function)},
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
            run=False,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser that finds shipped configs, and what they include."""
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Ask for a checkpoint, too."""
        parser.add_argument("--ckpt_path", type=str | None, default=None)

    def before_instantiate_classes(self) -> None:
        """Leave folders as they are in an evaluation, which is no run."""
        check_trainer(self.config)
        if self.command != "fit" and self.config.trainer.logger in (None, True):
            self.config.trainer.logger = False

    def execute(self) -> None:
        """Train in the run's folder, or evaluate."""
        assert isinstance(self.trainer, StageTrainer)
        config = self.parser.dump(self.config, skip_unset=False)
        given = {"data": self.datamodule}
        run = Run(command=self.command, trainer=self.trainer, config=config, arguments=given)
        if self.command == "fit":
            run.execute(self._call)
            return
        if not is_overridden(_STEPS[self.command], self.model):
            raise ConfigError(
                f"{type(self.model).__name__} has no {self.command}: `metaprune prune` tests what "
                "comes of it."
            )
        if self.config.ckpt_path == "last":  # Lightning evaluates other weights if there is none
            self.config.ckpt_path = self._last()
        self._call()

    def _last(self) -> str:
        """Return the last checkpoint of the run's folder.

        Raises:
            StorageError: There is none.
        """
        last = Path(self.trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        if not last.is_file():
            raise StorageError(f"there is no checkpoint '{last}'. Name one: --ckpt_path FILE.")
        return str(last)

    def _call(self) -> None:
        method = getattr(self.trainer, self.command)
        method(self.model, datamodule=self.datamodule, ckpt_path=self.config.ckpt_path)
