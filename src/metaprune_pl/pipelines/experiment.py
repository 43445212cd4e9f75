"""The whole method: data models, meta-training, choice of the metanetwork, curves, pruning, one report.

Each stage is a run of `fit`, `curve` or `prune` in a folder of its own, as if started by hand.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from metaprune_pl.errors import ConfigError
from metaprune_pl.pipelines.cost import cost_of
from metaprune_pl.pipelines.prune import read_report
from metaprune_pl.pruning import Sparsity
from metaprune_pl.pruning.structured import check_speed_ups
from metaprune_pl.reports import Cost, Curve, Experiment, StageCost, write_csv, write_json
from metaprune_pl.reports.figures import draw_curves, save_figure
from metaprune_pl.reports.summary import METHODS, curve_rows, flat_region_sentence, pruned_rows
from metaprune_pl.reports.tensorboard import log_curves

RunStage = Callable[[str, str, Path, Mapping[str, Any]], None]
"""Runs a subcommand: its name, its config, its folder, and settings that override the config's."""


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings:
    """Which stages an experiment chains, and what it compares.

    Attributes:
        data_models: Config of `data_models`; those with the last seeds are held out.
        meta_training: Config of `fit` that trains the metanetwork.
        curve: Config of `curve`.
        prune: Config of `prune`.
        held_out: Number of networks that are pruned and that no metanetwork has seen.
        candidates: Number of stored metanetworks to choose from, the last ones.
        speed_ups: Targets.
        sparsity: Sparsity term of the control `sparsity_learning`.
        methods: What is compared.
        images: Data module (`class_path` and `init_args`) in place of that of every config; None leaves them.
        overrides: Stage (`data_models`, `meta_training`, `curve`, `prune`) to settings that override its config's.
    """

    data_models: str
    meta_training: str
    curve: str
    prune: str
    held_out: int = 2
    candidates: int = 3
    speed_ups: list[float] = field(default_factory=lambda: [2.0, 3.0, 4.0])
    sparsity: Sparsity = field(default_factory=Sparsity)
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    images: dict[str, Any] | None = None
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_speed_ups(self.speed_ups)
        if min(self.held_out, self.candidates) < 1:
            raise ConfigError("chain: held_out and candidates are at least 1.")
        if other := sorted(self.overrides.keys() - {"data_models", "meta_training", "curve", "prune"}):
            raise ConfigError(f"chain.overrides: '{other[0]}' is none of data_models, meta_training, curve, prune.")
        if unknown := [method for method in self.methods if method not in METHODS]:
            raise ConfigError(f"chain.methods: '{unknown[0]}' is none of {', '.join(METHODS)}.")


def run_experiment(folder: Path, settings: ExperimentSettings, run: RunStage, *, writes: bool = True) -> Experiment:
    """Run all stages that are not finished yet, and write the report.

    Writes `choice.json`, `report.json`, `report.csv`, `curves.csv`, `curve.png` and TensorBoard events to the folder.

    Args:
        folder: The experiment's folder; each stage has one in it.
        settings: What to run.
        run: Runs a stage, or finds it finished.
        writes: Whether this process writes the report.

    Raises:
        ConfigError: No data models are left to train on.
    """
    images = {} if settings.images is None else {"data": settings.images}
    run(
        "data_models",
        settings.data_models,
        folder / "data_models",
        {**settings.overrides.get("data_models", {}), **images},
    )
    networks = sorted(path.parent for path in (folder / "data_models" / "networks").glob("*/network.json"))
    if len(networks) <= settings.held_out:
        raise ConfigError(
            f"{settings.data_models} trains {len(networks)} data models and {settings.held_out} are held out: "
            "add seeds to it, or lower chain.held_out."
        )
    zoo: dict[str, Any] = {f"{key}.init_args.images": value for key, value in images.items()}
    zoo["data.init_args.data_models"] = str(folder / "data_models" / "networks")
    zoo["data.init_args.held_out"] = settings.held_out
    run("fit", settings.meta_training, folder / "meta_training", {**settings.overrides.get("meta_training", {}), **zoo})
    changes = {stage: settings.overrides.get(stage, {}) for stage in ("curve", "prune")}
    choice = _choose(folder, settings, {**changes["curve"], **images, "network": str(networks[0])}, run)
    chosen = sum((cost_of(folder / "choice" / Path(name).name) for name in choice["areas"]), Cost())
    costs = [
        StageCost(stage="data models", method="", once=True, cost=cost_of(folder / "data_models")),
        StageCost(stage="meta-training", method="metanetwork", once=True, cost=cost_of(folder / "meta_training")),
        StageCost(stage="choice of the metanetwork", method="metanetwork", once=True, cost=chosen),
    ]
    curves, pruned = [], []
    for method in settings.methods:
        places = [folder / "networks" / f"{network.name}-{method}" for network in networks[-settings.held_out :]]
        for place, network in zip(places, networks[-settings.held_out :], strict=True):
            source = {"network": str(network), **_source(method, settings, choice["metanetwork"])}
            run(
                "curve", settings.curve, place / "curve", {**changes["curve"], **images, **source, "grid.split": "test"}
            )
            curves.append(Curve.from_json(place / "curve" / "curve.json"))
            ready = {"network": str(place / "curve" / "finetuned" / "network"), "finetune.epochs": 0}
            ready |= {"metanetwork": None, "sparsity": None, "speed_ups": settings.speed_ups}
            run("prune", settings.prune, place / "prune", {**changes["prune"], **images, **ready})
            pruned += read_report(place / "prune")
        for stage, text in (("curve", "finetuning and curve"), ("prune", "pruning and finetuning, all targets")):
            cost = sum((cost_of(place / stage) for place in places), Cost()).shared_by(len(places))
            costs.append(StageCost(stage=text, method=method, once=False, cost=cost))
    experiment = Experiment(curves=curves, pruned=pruned, choice=choice, costs=costs)
    if writes:
        write_json(folder / "choice.json", choice)
        _write_report(folder, experiment)
    return experiment


def _source(method: str, settings: ExperimentSettings, metanetwork: str) -> dict[str, Any]:
    """Settings that make a network ready by one of the methods."""
    return {
        "metanetwork": metanetwork if method == "metanetwork" else None,
        "sparsity": asdict(settings.sparsity) if method == "sparsity_learning" else None,
    }


def _choose(folder: Path, settings: ExperimentSettings, source: Mapping[str, Any], run: RunStage) -> dict[str, Any]:
    """Take the metanetwork with the largest area under the validation curve of the first data model."""
    stored = sorted(path.parent for path in (folder / "meta_training" / "metanetworks").glob("*/metanetwork.json"))
    areas = {}
    for metanetwork in stored[-settings.candidates :]:
        place = folder / "choice" / metanetwork.name
        run("curve", settings.curve, place, {**source, "metanetwork": str(metanetwork), "grid.split": "validation"})
        areas[str(metanetwork)] = Curve.from_json(place / "curve.json").area
    best = max(areas, key=lambda name: areas[name])
    return {"by": "area under the validation curve of the first data model", "areas": areas, "metanetwork": best}


def _write_report(folder: Path, experiment: Experiment) -> None:
    write_csv(folder / "report.csv", pruned_rows(experiment))
    write_csv(folder / "curves.csv", curve_rows(experiment))
    save_figure(draw_curves(experiment.curves), folder / "curve.png")
    log_curves(folder, experiment.curves)
    report = {
        "results": {
            "pruned": pruned_rows(experiment), "curves": curve_rows(experiment),
            "flat_region": flat_region_sentence(experiment),
        },
        **asdict(experiment),
    }  # fmt: skip
    write_json(folder / "report.json", report)
