"""The whole method: data models, meta-training, choice of the metanetwork, curves, pruning or masks, one report.

Each stage is a run of `data_models`, `fit`, `select`, `curve` or `prune` in a folder of its own, as
if started by hand.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from metaprune_pl.errors import ConfigError
from metaprune_pl.pipelines.baselines import (
    BASELINES,
    UNIFORM,
    baseline,
    training_of,
    untrained_copy,
)
from metaprune_pl.pipelines.cost import cost_of
from metaprune_pl.pipelines.select import SearchSettings
from metaprune_pl.pruning import MaskSettings, Sparsity
from metaprune_pl.pruning.targets import check_speed_ups
from metaprune_pl.reports import (
    Cost,
    Curve,
    Experiment,
    Masked,
    Pruned,
    Selection,
    write_csv,
    write_json,
)
from metaprune_pl.reports.figures import draw_cost, draw_curves, save_figure
from metaprune_pl.reports.masks import draw_masks, masked_rows
from metaprune_pl.reports.report import read_report
from metaprune_pl.reports.summary import (
    METHODS,
    cost_sentence,
    curve_rows,
    flat_region_sentence,
    pruned_rows,
)
from metaprune_pl.reports.tensorboard import log_curves

RunStage = Callable[[str, str, Path, Mapping[str, Any]], None]
"""Runs a subcommand: its name, its config, its folder, and settings that override the config's."""


STAGES = ("data_models", "meta_training", "choice", "curve", "prune")
Overrides = dict[str, dict[str, Any]]
"""Stage to settings that override its config's."""


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings:
    """Which stages an experiment chains, and what it compares.

    Attributes:
        data_models: Config of `data_models`; those with the last seeds are held out.
        meta_training: Config of `fit` that trains the metanetwork.
        curve: Config of `curve`, and of `select`, which chooses the metanetwork.
        prune: Config of `prune`.
        held_out: Number of networks that are pruned and that no metanetwork has seen.
        search: How the metanetwork is chosen among those of all epochs.
        speed_ups: Targets; none is curves alone.
        masks: Shares and patterns of weights that become zero, in place of speed-ups; the curves
            are over the shares.
        sparsity: Sparsity term of the control `sparsity_learning`.
        methods: What is compared: `none`, `sparsity_learning`, `metanetwork`, and baselines:
            `random`, `magnitude_l1`, `magnitude_l2`, `batch_norm_scale`, `taylor`, `lamp`,
            `iterative_magnitude`, `snip`, each with `_uniform` behind it for the same share of each
            group.
        images: Data module (`class_path` and `init_args`) in place of that of every config; None
            leaves them.
        overrides: Stage (`data_models`, `meta_training`, `curve`, `prune`) to settings that
            override its config's; the `choice` of the metanetwork has those of `curve`, and its own
            over them.
        metanetworks: Several metanetworks in place of one: name to the overrides that make it
            another one.
    """

    data_models: str
    meta_training: str
    curve: str
    prune: str
    held_out: int = 2
    search: SearchSettings = field(default_factory=SearchSettings)
    speed_ups: list[float] = field(default_factory=lambda: [2.0, 3.0, 4.0])
    masks: MaskSettings | None = None
    sparsity: Sparsity = field(default_factory=Sparsity)
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    images: dict[str, Any] | None = None
    overrides: Overrides = field(default_factory=dict)
    metanetworks: dict[str, Overrides] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.speed_ups:
            check_speed_ups(self.speed_ups)
        if self.masks is not None and not self.masks.sparsities:
            raise ConfigError(
                "chain.masks: give sparsities, too: by curves over them the metanetwork is chosen."
            )
        if self.held_out < 1:
            raise ConfigError("chain.held_out is at least 1.")
        for place, overrides in {"overrides": self.overrides, **self.metanetworks}.items():
            if other := sorted(overrides.keys() - set(STAGES)):
                raise ConfigError(f"chain, {place}: '{other[0]}' is none of {', '.join(STAGES)}.")
            if place != "overrides" and "data_models" in overrides:
                raise ConfigError(
                    f"chain.metanetworks, {place}: all metanetworks learn from the same data "
                    "models."
                )
        if unknown := [
            method for method in self.methods if method not in METHODS and baseline(method) is None
        ]:
            known = f"{', '.join([*METHODS, *BASELINES])} (these also with {UNIFORM})"
            raise ConfigError(f"chain.methods: '{unknown[0]}' is none of {known}.")

    def check_held_out(self, data_models: int) -> None:
        """Refuse to hold out all data models.

        Raises:
            ConfigError: None of this many are left to train on.
        """
        if data_models <= self.held_out:
            raise ConfigError(
                f"{self.data_models} trains {data_models} data models and {self.held_out} are "
                "held out: "
                "add seeds to it, or lower chain.held_out."
            )

    @property
    def data(self) -> dict[str, Any]:
        """Settings of a stage that put the images in place of its config's."""
        return {} if self.images is None else {"data": self.images}

    @property
    def compared(self) -> dict[str, Overrides]:
        """Methods by the names that they have in the report, with what each changes."""
        found: dict[str, Overrides] = {}
        for method in self.methods:
            several = self.metanetworks if method == "metanetwork" else {}
            other = baseline(method)
            own = (
                other.overrides(method.endswith(UNIFORM), masks=self.masks is not None)
                if other
                else {}
            )
            found |= {f"{method}_{name}": changes for name, changes in several.items()} or {
                method: own
            }
        return found

    def changes(self, method: str) -> Overrides:
        """Return what overrides the configs of a method's stages."""
        own = self.compared[method]
        masks = (
            {}
            if self.masks is None
            else {stage: {"masks": asdict(self.masks)} for stage in ("curve", "prune")}
        )
        parts = (masks, self.overrides, own)  # what comes later wins
        changes = {
            stage: {k: v for part in parts for k, v in part.get(stage, {}).items()}
            for stage in STAGES
        }
        return {
            **changes,
            "choice": {"search": asdict(self.search), **changes["curve"], **changes["choice"]},
        }

    def first_like(self, method: str, *stages: str) -> str:
        """Return the first metanetwork that has the same settings of these stages as another one."""
        wanted = [self.changes(method)[stage] for stage in stages]
        metanetworks = (other for other in self.compared if other.startswith("metanetwork"))
        return next(
            m for m in metanetworks if [self.changes(m)[stage] for stage in stages] == wanted
        )


def run_experiment(
    folder: Path, settings: ExperimentSettings, run: RunStage, *, writes: bool = True
) -> Experiment:
    """Run all stages that are not finished yet, and write the report.

    Writes `report.json`, `report.csv`, `curves.csv`, `curve.png`, `masks.png` where there are some,
    `cost.png` and TensorBoard events to the folder.

    Args:
        folder: The experiment's folder; each stage has one in it.
        settings: What to run.
        run: Runs a stage, or finds it finished.
        writes: Whether this process writes the report.

    Raises:
        ConfigError: No data models are left to train on.
    """
    result = Experiment()
    networks = make_data_models(folder, settings, run, result)
    metanetworks = make_metanetworks(folder, settings, run, networks[0], result)
    prune_held_out(folder, settings, run, networks, metanetworks, result)
    if writes:
        _write_report(folder, result)
    return result


def make_data_models(
    folder: Path, settings: ExperimentSettings, run: RunStage, result: Experiment
) -> list[Path]:
    """Train the data models and return their folders.

    Raises:
        ConfigError: None are left to train on.
    """
    changes = {**settings.data, **settings.overrides.get("data_models", {})}
    run("data_models", settings.data_models, folder / "data_models", changes)
    networks = sorted(
        path.parent for path in (folder / "data_models" / "networks").glob("*/network.json")
    )
    settings.check_held_out(len(networks))
    result.add_cost("data models", "", cost_of(folder / "data_models"), once=True)
    return networks


def make_metanetworks(
    folder: Path, settings: ExperimentSettings, run: RunStage, network: Path, result: Experiment
) -> dict[str, str]:
    """Train all metanetworks, choose the epoch of each by validation curves of a data model.

    Return their folders.
    """
    images: dict[str, Any] = (
        {} if settings.images is None else {"data.init_args.images": settings.images}
    )
    zoo = {
        "data.init_args.data_models": str(folder / "data_models" / "networks"),
        "data.init_args.held_out": settings.held_out,
    }
    for method in (method for method in settings.compared if method.startswith("metanetwork")):
        changes = settings.changes(method)
        training = settings.first_like(method, "meta_training").removeprefix("metanetwork")
        run(
            "fit",
            settings.meta_training,
            folder / f"meta_training{training}",
            {**images, **changes["meta_training"], **zoo},
        )
        place = (
            folder
            / f"choice{settings.first_like(method, 'meta_training', 'choice').removeprefix('metanetwork')}"
        )
        source: dict[str, Any] = {
            "network": str(network),
            "metanetwork": str(folder / f"meta_training{training}" / "metanetworks"),
            "grid.split": "validation",
        }
        run("select", settings.curve, place, {**settings.data, **changes["choice"], **source})
        result.choices[method] = Selection.from_json(place / "choice.json")
        result.add_cost(
            "meta-training", method, cost_of(folder / f"meta_training{training}"), once=True
        )
        result.add_cost("choice of the metanetwork", method, cost_of(place), once=True)
    return {method: choice.metanetwork for method, choice in result.choices.items()}


def prune_held_out(
    folder: Path,
    settings: ExperimentSettings,
    run: RunStage,
    networks: Sequence[Path],
    metanetworks: Mapping[str, str],
    result: Experiment,
) -> None:
    """Draw the test curves of the held-out networks by all methods, and prune them to all targets."""
    for method in settings.compared:
        source: dict[str, Any] = {"metanetwork": metanetworks.get(method), "sparsity": None}
        if method == "sparsity_learning":
            source["sparsity"] = asdict(settings.sparsity)
        _prune_networks(
            folder, settings, run, method, source, networks[-settings.held_out :], result
        )


def _prune_networks(
    folder: Path,
    settings: ExperimentSettings,
    run: RunStage,
    method: str,
    ready: dict[str, Any],
    networks: Sequence[Path],
    result: Experiment,
) -> None:
    """Draw each network's test curve after it was made ready, and prune it to all targets."""
    places = [folder / "networks" / f"{network.name}-{method}" for network in networks]
    other, changes = baseline(method), settings.changes(method)
    for place, network in zip(places, networks, strict=True):
        source: dict[str, Any] = {
            "metanetwork": None,
            "sparsity": None,
            "speed_ups": settings.speed_ups,
        }
        if other is None or other.has_curve:
            drawn = {"network": str(network), **ready, "grid.split": "test"}
            run(
                "curve",
                settings.curve,
                place / "curve",
                {**settings.data, **changes["curve"], **drawn},
            )
            result.curves.append(
                replace(Curve.from_json(place / "curve" / "curve.json"), method=method)
            )
            steps = (
                place / "curve" / "finetuned" / "network",
                place / "curve" / "rewritten",
                network,
            )
            source |= {
                "network": str(next(step for step in steps if step.is_dir())),
                "finetune.epochs": 0,
            }
        elif other.untrained:
            source |= {
                "network": str(untrained_copy(network, place / "untrained")),
                "finetune.epochs": 0,
            }
            source |= training_of(folder / "data_models")
        else:
            source["network"] = str(network)
        if settings.speed_ups or settings.masks:
            run(
                "prune",
                settings.prune,
                place / "prune",
                {**settings.data, **changes["prune"], **source},
            )
        if settings.masks:
            result.masked.extend(
                replace(masked, method=method) for masked in read_report(place / "prune", Masked)
            )
        elif settings.speed_ups:
            result.pruned.extend(
                replace(pruned, method=method) for pruned in read_report(place / "prune", Pruned)
            )
    for stage, text in (
        ("curve", "finetuning and curve"),
        ("prune", "pruning and finetuning, all targets"),
    ):
        if (places[0] / stage).is_dir():
            cost = sum((cost_of(place / stage) for place in places), Cost()).shared_by(len(places))
            result.add_cost(text, method, cost, once=False)


def _write_report(folder: Path, experiment: Experiment) -> None:
    if rows := pruned_rows(experiment) + masked_rows(experiment.masked):
        write_csv(folder / "report.csv", rows)
    if experiment.masked:
        save_figure(draw_masks(experiment.masked), folder / "masks.png")
    if experiment.curves:  # some baselines have none
        write_csv(folder / "curves.csv", curve_rows(experiment))
        save_figure(draw_curves(experiment.curves), folder / "curve.png")
        log_curves(folder, experiment.curves)
    save_figure(draw_cost(experiment.costs), folder / "cost.png")
    report = {
        "results": {
            "pruned": pruned_rows(experiment),
            "masked": masked_rows(experiment.masked),
            "curves": curve_rows(experiment),
            "flat_region": flat_region_sentence(experiment),
            "cost": cost_sentence(experiment.costs),
            "choices": {method: choice.reason for method, choice in experiment.choices.items()},
        },
        **asdict(experiment),
    }
    write_json(folder / "report.json", report)
