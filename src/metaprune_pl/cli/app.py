"""`metaprune` on LightningCLI."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, is_dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.console import Console

from metaprune_pl import data, metanetworks, stages  # noqa: F401  (their classes get short names in configs)
from metaprune_pl.cli.configs import join_overrides, resolve_configs
from metaprune_pl.cli.parser import ShortErrorParser, name_settings
from metaprune_pl.cli.trainer import MetapruneTrainer
from metaprune_pl.errors import ConfigError, MetapruneError
from metaprune_pl.pipelines.compare import CompareSettings, run_compare
from metaprune_pl.pipelines.data_models import missing
from metaprune_pl.pipelines.experiment import ExperimentSettings, run_experiment
from metaprune_pl.pipelines.meta_evaluation import MetaEvaluation  # noqa: F401  (gets a short name in configs)
from metaprune_pl.pipelines.run_folder import RunFolder, run_key
from metaprune_pl.reports import tables
from metaprune_pl.reports.masks import whole_sentence
from metaprune_pl.reports.summary import choice_sentence, cost_sentence, flat_region_sentence
from metaprune_pl.stages.trainer import is_main_process

HARDWARE_FLAGS = (
    "accelerator",
    "devices",
    "strategy",
    "num_nodes",
    "precision",
    "enable_progress_bar",
)
"""Trainer flags of an experiment that its stages take over."""
_OWN = {
    "prune": {"data"},
    "curve": {"data"},
    "select": {"data"},
    "analyze": {"data"},
    "detect": {"data"},
    "inspect": set[str](),
    "experiment": set[str](),
    "compare": set[str](),
}
_CHAINS = {"experiment", "compare"}
"""Subcommands whose stages are runs with folders and settings of their own."""

_EPOCHS = {
    "prune": "set finetune.epochs and finetune_after.epochs.",
    "curve": "set finetune.epochs.",
    "select": "set finetune.epochs.",
    "analyze": "set finetune.epochs.",
    "detect": "set detection.training.epochs, detection.finetune.epochs and detection.finetune_after.epochs.",
    "experiment": "set it for a stage, as in --chain.overrides '{data_models: {trainer.max_epochs: 9}}'.",
    "compare": "set it for a stage, as in --matrix.overrides '{data_models: {trainer.max_epochs: 9}}'.",
}


class App(LightningCLI):
    """LightningCLI with our subcommands, run folders and short errors.

    Args:
        args: Command line.
        inside: Whether this is a stage of an experiment: another run in its folder is moved aside.
    """

    def __init__(self, args: list[str], *, inside: bool = False) -> None:
        self._inside = inside
        self._building = ""
        self._asked = set(self.subcommands()) if _CHAINS & set(args[:1]) else set(args[:1])
        super().__init__(
            trainer_class=MetapruneTrainer,
            trainer_defaults={"default_root_dir": "runs/unnamed"},
            parser_class=ShortErrorParser,
            parser_kwargs={"prog": "metaprune"},
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return our subcommands and the arguments that the command line does not ask for."""
        lightning = LightningCLI.subcommands()
        del lightning["predict"]
        lightning["fit"].add("weights_only")
        return {
            **lightning,
            "data_models": {"model", "datamodule"},
            "prune": {"datamodule"},
            "curve": {"datamodule"},
            "select": {"datamodule"},
            "analyze": {"datamodule"},
            "detect": {"datamodule"},
            "inspect": set(),
            "experiment": set(),
            "compare": set(),
        }

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        self._building = subcommand
        if subcommand not in self._asked and self._asked <= self.subcommands().keys():
            return self.init_parser(
                **kwargs
            )  # Lightning asks for all of them, which takes a second
        if subcommand != "inspect":
            parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
            name_settings(parser)
            parser.usage = f"metaprune {subcommand} --config CONFIG [--KEY VALUE ...]"
            for group in parser._action_groups:
                if any(action.dest == "data" for action in group._group_actions):
                    group.title = "Images"
            groups = (
                parser._action_groups
            )  # its own settings come first in the help, Lightning's fifty last
            parser._action_groups = sorted(
                groups, key=lambda g: any("trainer" in a.dest for a in g._group_actions)
            )
            return parser
        parser = self.init_parser(**kwargs)  # a plain question needs no trainer, model and data
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        self._subcommand_method_arguments[subcommand] = parser.add_method_arguments(
            klass, subcommand, as_positional=True
        )
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Ask for a trainer, and for a model and data where the subcommand uses them."""
        wanted = _OWN.get(self._building, {"model", "data"})
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults(
            {"trainer." + key: value for key, value in self.trainer_defaults.items()}
        )
        if "model" in wanted:
            parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
        if "data" in wanted:
            parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)

    def instantiate_trainer(self, **kwargs: Any) -> MetapruneTrainer:
        """Build the Trainer from the configuration; `inspect` has none."""
        if self.subcommand == "inspect":
            return MetapruneTrainer(logger=False, enable_checkpointing=False)
        trainer = super().instantiate_trainer(**kwargs)
        assert isinstance(trainer, MetapruneTrainer)
        return trainer

    def _set_seed(self) -> None:
        if self.subcommand != "inspect":
            super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: settings stored in a checkpoint do not override it."""

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand in _OWN:
            del kwargs["model"]
        return kwargs

    def _run_subcommand(self, subcommand: str) -> None:
        """Run in the run's folder: not again what is finished, and nothing over another run."""
        kwargs, trainer = self._prepare_subcommand_kwargs(subcommand), self.trainer
        assert isinstance(trainer, MetapruneTrainer)
        if subcommand in _CHAINS and trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise ConfigError(
                f"trainer.fast_dev_run has no effect on {subcommand}: run its stages with it, one "
                "by one."
            )
        if subcommand in {"validate", "test", "inspect"} or trainer.fast_dev_run:  # type: ignore[attr-defined]
            if subcommand not in {"validate", "test", "inspect", "fit"}:
                trainer.join()
            self._show(subcommand, getattr(trainer, subcommand)(**kwargs))
            return
        if subcommand in _OWN and self.config[subcommand].trainer.max_epochs is not None:
            raise ConfigError(
                f"trainer.max_epochs has no effect on {subcommand}: {_EPOCHS[subcommand]}"
            )
        config = self._parser(subcommand).dump(self.config[subcommand], skip_unset=False)
        settings = (
            {} if subcommand in _CHAINS else yaml.safe_load(config)
        )  # its stages have keys of their own
        if subcommand == "data_models":  # more of the same are no other run
            if not isinstance(kwargs["model"], stages.DataModelTraining):
                raise ConfigError(
                    "data_models trains a DataModelTraining; model is "
                    f"{type(kwargs['model']).__name__}."
                )
            del settings["model"]["init_args"]["seeds"], settings["side_by_side"]
        folder = RunFolder(
            Path(trainer.default_root_dir), subcommand, run_key(subcommand, settings)
        )
        if self._inside and folder.foreign and is_main_process():
            _say(
                f"[yellow]{folder.path} held a run with other settings; it is now "
                f"{folder.move_aside()}"
            )
            if folder.bring_back():
                _say(
                    f"[yellow]{folder.path} is again the run with these settings that was moved "
                    "aside before"
                )
        wanting = subcommand == "data_models" and missing(folder.path, kwargs["model"].seeds)
        if trainer.broadcast(folder.finished and subcommand not in _CHAINS and not wanting):
            _say(
                f"[dim]{folder.path} is finished; it is not run again, even if images have "
                "changed since."
            )
            if not self._inside:
                _say(
                    f"Results are in {folder.path}. To run again: another "
                    "--trainer.default_root_dir, or remove it."
                )
            return
        chains = self._chains(**kwargs) if subcommand in _CHAINS else {}
        with ExitStack() as held:
            if is_main_process():
                kept = held.enter_context(folder.running(config, keep=subcommand in _CHAINS))
                if kept is not None:
                    text = f"{folder.path} held a report with other settings; it is now in {kept}"
                    _say(f"[yellow]{text}")
            if subcommand != "fit" and not self._inside:
                trainer.join()
            if subcommand == "experiment":
                result: Any = run_experiment(
                    folder.path, chains[""], self._run_stage, writes=is_main_process()
                )
            elif subcommand == "compare":
                result = run_compare(
                    folder.path, kwargs["matrix"], chains, self._run_stage, writes=is_main_process()
                )
            else:
                result = getattr(trainer, subcommand)(**kwargs)
        trainer.broadcast(None)
        if not self._inside:
            trainer.leave()
        if is_main_process() and not self._inside:
            self._show(subcommand, result)
            _say(f"Results are in {folder.path}. Curves: tensorboard --logdir {folder.path}")

    def _chains(
        self, chain: ExperimentSettings | None = None, matrix: CompareSettings | None = None
    ) -> dict[str, ExperimentSettings]:
        """Return the experiments of a subcommand by name, after the settings of all their stages were read."""
        if matrix is None:
            assert chain is not None
            self._check_stages(chain)
            return {"": chain}
        chains = {name: self._experiment(**own) for name, own in matrix.experiments.items()}
        for name, experiment in chains.items():
            self._check_stages(matrix.row(name, experiment))
        return chains

    def _experiment(self, config: str, **settings: Any) -> ExperimentSettings:
        """Return what `experiment` would run with a config and settings over it."""
        parser = self._parser("experiment")
        chain = parser.instantiate_classes(parser.parse_args(_command_line(config, settings))).chain
        assert isinstance(chain, ExperimentSettings)
        return chain

    def _check_stages(self, chain: ExperimentSettings) -> None:
        """Read all that the stages will be run with.

        A mistake in the last is found before the first has begun.
        """
        images = {} if chain.images is None else {"data.init_args.images": chain.images}
        made = {**chain.data, "network": "made before", "metanetwork": "made before"}
        stages: dict[str, tuple[str, str, dict[str, Any]]] = {
            "data_models": ("data_models", chain.data_models, chain.data),
            "meta_training": ("fit", chain.meta_training, images),
            "choice": ("select", chain.curve, made),
            "curve": ("curve", chain.curve, made),
            "prune": ("prune", chain.prune, made),
        }
        read: list[Any] = []
        for method, (stage, (command, config, given)) in product(chain.compared, stages.items()):
            settings = {**given, **chain.changes(method)[stage]}
            if (stage, settings) not in read:
                parsed = self._parser(command).parse_args(_command_line(config, settings))
                read.append((stage, settings))
                if stage == "data_models" and isinstance(
                    seeds := parsed.get("model.init_args.seeds"), list
                ):
                    chain.check_held_out(len(seeds))

    def _run_stage(
        self, command: str, config: str, folder: Path, settings: Mapping[str, Any]
    ) -> None:
        """Run a stage of an experiment as if by hand, with the experiment's seed and on its devices."""
        trainer, seed = (
            self.config[self.subcommand][name] for name in ("trainer", "seed_everything")
        )
        defaults = self._parser(self.subcommand).get_defaults()["trainer"]
        changed = {f"trainer.{k}": trainer[k] for k in HARDWARE_FLAGS if trainer[k] != defaults[k]}
        quiet = {"trainer.enable_model_summary": False}
        merged = {
            "seed_everything": seed,
            "trainer.default_root_dir": str(folder),
            **quiet,
            **changed,
            **settings,
        }
        _say(f"[bold]{command}[/bold] {config} -> {folder}")
        App([command, *_command_line(config, merged)], inside=True)

    def _show(self, subcommand: str, result: Any) -> None:
        """Print a result for a person."""
        console = Console(width=None if sys.stdout.isatty() else 150)
        if subcommand == "curve":
            console.print(tables.curve_table(result))
        elif subcommand == "select":
            console.print(tables.selection_table(result), result.reason, sep="\n")
        elif subcommand == "analyze":
            console.print(tables.analysis_table(result))
        elif subcommand == "data_models":
            console.print(tables.data_model_table([card.record for card in result]))
        elif subcommand in {"prune", "detect"}:
            console.print(type(result[0]).table(result))
        elif subcommand == "experiment":
            for table in tables.experiment_tables(result):
                console.print(table)
            if sentence := whole_sentence(result.masked):
                console.print(sentence)
            console.print(
                choice_sentence(result),
                flat_region_sentence(result),
                cost_sentence(result.costs),
                sep="\n",
            )
        elif subcommand == "compare":
            console.print(*tables.comparison_tables(result), sep="\n")
        elif subcommand == "inspect" and is_dataclass(result) and not isinstance(result, type):
            if self.config["inspect"]["json"]:
                console.print_json(json.dumps(asdict(result)))
            else:
                console.print(*tables.inspection_tables(result), sep="\n")


def _command_line(config: str, settings: Mapping[str, Any]) -> list[str]:
    """Return a config and settings over it as arguments."""
    return [
        *resolve_configs(["--config", config]),
        *(f"--{key}={_as_text(value)}" for key, value in settings.items()),
    ]


def _as_text(value: Any) -> str:
    """Return a setting as a flag has it.

    Jsonargparse holds classes within settings as Namespace.
    """
    return (
        value
        if isinstance(value, str)
        else json.dumps(value, default=lambda inside: inside.as_dict())
    )


def _say(text: str) -> None:
    if is_main_process():
        Console(stderr=True, soft_wrap=True, highlight=False).print(text)


_ADVERTS = ("💡", "Seed set to", "GPU available", "TPU available", "`Trainer.fit` stopped")
_HINTS = (
    "does not have many workers",  # image sets live in memory
    "LightningCLI's args parameter",  # stages of an experiment run in-process
    "logging interval",  # toy epochs have few steps
    "Checkpoint directory .* exists",  # an unfinished run continues
    "in eval mode at the start of training",  # data models in meta-training
    "isinstance.treespec, LeafSpec",  # lightning 2.6 with torch 2.15
)


def _quiet() -> None:
    """Keep Lightning's adverts, and hints about what is meant to be so, out of the way."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).addFilter(
            lambda record: not record.getMessage().startswith(_ADVERTS)
        )
    logging.getLogger("torch.fx.experimental.symbolic_shapes").addFilter(
        lambda _: False
    )  # our message follows
    for hint in _HINTS:
        warnings.filterwarnings("ignore", message=f".*{hint}.*")


def main(args: list[str] | None = None) -> None:
    """Run the command line; exits with status 1 or 2 on a person's mistake."""
    _quiet()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        App(join_overrides(resolve_configs(sys.argv[1:] if args is None else args)))
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. The same command continues where it was.\n")
        sys.exit(130)
    except (MetapruneError, MisconfigurationException, ValueError) as error:
        own = _persons_mistake(error)
        if own is None:
            raise
        sys.stderr.write(f"error: {own}\n")
        sys.exit(1)


def _persons_mistake(error: BaseException | None) -> BaseException | None:
    """Find our own error behind one of jsonargparse's, which wraps what a class raises when it is built."""
    while error is not None and not isinstance(error, MetapruneError | MisconfigurationException):
        error = error.__cause__ or error.__context__
    return error
