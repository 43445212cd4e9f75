"""The stages of an experiment as its methods run them."""

from collections.abc import Callable, Mapping
from typing import Any

from metaprune_pl.errors import within
from metaprune_pl.pipelines.curve import curve
from metaprune_pl.pipelines.data_models import data_models
from metaprune_pl.pipelines.fit import fit
from metaprune_pl.pipelines.prune import prune
from metaprune_pl.pipelines.select import select
from metaprune_pl.runs.command import build
from metaprune_pl.runs.stage import Stage
from metaprune_pl.settings.experiment import ExperimentSettings

_COMMANDS: Mapping[str, Callable[..., Any]] = {
    "data_models": data_models,
    "meta_training": fit,
    "curve": curve,
    "prune": prune,
    "choice": select,
    "zoo": data_models,
    "predictor": fit,
    "guided": fit,
}
"""Name of a stage to its command."""
_PRUNED = ("choice", "curve", "prune")
"""Stages that take a network and a metanetwork that were made before."""
_MADE = {"network": "made before", "metanetwork": "made before"}


def stage_of(chain: ExperimentSettings, name: str, method: str = "") -> Stage:
    """Return a stage as a method runs it; none has those that all methods share."""
    config = chain.config_of(name)
    assert config is not None  # `stages_of` has no other
    return Stage(command=_COMMANDS[name], config=config, changes=chain.changes_of(name, method))


def check_stages(chain: ExperimentSettings) -> None:
    """Read all settings that stages will be run with.

    A mistake in the last stage is found before the first begins.

    Raises:
        MetapruneError: A setting of a stage makes no sense, or there is none of that name.
    """
    read: list[tuple[str, Stage]] = []
    every = [(name, method) for method in chain.compared for name in chain.stages_of(method)]
    for name, method in every:
        stage = stage_of(chain, name, method)
        if (name, stage) in read:
            continue
        read.append((name, stage))
        overrides = f" with the overrides of {name}" if stage.changes else ""
        with within(f"{stage.config}{overrides}"):
            settings = stage.parse(**(_MADE if name in _PRUNED else {}))
            if name != "guided":  # its network is not made yet
                build(stage.command, settings)
        seeds = settings.get("model.init_args.seeds")
        if name == "data_models" and isinstance(seeds, list):
            chain.check_held_out(len(seeds))


def part_of_budget(chain: ExperimentSettings, method: str, share: float) -> dict[str, int]:
    """Return the settings of a method's `prune` with a share of its finetuning."""
    if share == 1:
        return {}
    after = stage_of(chain, "prune", method).parse(network="made before").finetune_after
    unit = "epochs" if after.steps is None else "steps"
    return {f"finetune_after.{unit}": max(1, round(share * after[unit]))}


def training_of_data_models(chain: ExperimentSettings) -> dict[str, Any]:
    """Return the settings of a `prune` that trains as the data models are trained."""
    settings = stage_of(chain, "data_models").parse()
    model = settings.model.init_args
    training = {
        "epochs": settings.trainer.max_epochs,
        "optimizer": model.optimizer.as_dict(),
        "label_smoothing": model.label_smoothing,
        "distillation": None,  # the network as given is untrained
        "keep": "last",
    }
    return {"finetune_after": training}
