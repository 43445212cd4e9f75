"""Several experiments beside each other, each metanetwork also on the networks of the others (paper, F.1 to F.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from metaprune_pl.errors import ConfigError, TraceError
from metaprune_pl.graphs import trace
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.pipelines.experiment import (
    ExperimentSettings,
    Overrides,
    RunStage,
    make_data_models,
    make_metanetworks,
    prune_held_out,
)
from metaprune_pl.reports import Experiment, write_csv, write_json
from metaprune_pl.reports.comparison import Comparison
from metaprune_pl.reports.figures import draw_curves, draw_matrix, save_figure
from metaprune_pl.reports.tensorboard import log_curves, log_matrix


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Which experiments are compared, and how.

    Attributes:
        experiments: Name to what `experiment` takes: its `config`, and settings such as
            `chain.images` over those of the config. Networks are pruned to the last of its
            speed-ups. Of `trainer`, ours counts alone.
        exchange: Whether metanetworks prune the networks of all experiments, or those of their own
            alone.
        controls: Methods besides metanetworks, in place of the experiments' own.
        overrides: Stage to settings that override those of all experiments.
    """

    experiments: dict[str, dict[str, Any]]
    exchange: bool = True
    controls: list[str] = field(default_factory=lambda: ["none", "sparsity_learning"])
    overrides: Overrides = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.experiments:
            raise ConfigError("matrix.experiments: name at least one.")
        for name, own in self.experiments.items():
            if not name or "/" in name:
                raise ConfigError(f"matrix.experiments: '{name}' is no name of a folder.")
            if not isinstance(own.get("config"), str):
                raise ConfigError(
                    f"matrix.experiments, {name}: name a config of `experiment`: {{config: X.yaml}}."
                )

    def row(self, name: str, experiment: ExperimentSettings) -> ExperimentSettings:
        """Return an experiment as it is run here; metanetworks that are exchanged have its name."""
        if experiment.masks is not None:
            raise ConfigError(
                f"matrix.experiments, {name}: masks are no speed-up, which is what the matrix "
                "compares."
            )
        stages = [
            *experiment.overrides,
            *(stage for stage in self.overrides if stage not in experiment.overrides),
        ]
        several = experiment.metanetworks
        if self.exchange:
            several = {f"{name}_{one}": changes for one, changes in several.items()} or {name: {}}
        return replace(
            experiment,
            methods=[*self.controls, "metanetwork"],
            metanetworks=several,
            speed_ups=experiment.speed_ups[-1:],
            overrides={
                s: {**experiment.overrides.get(s, {}), **self.overrides.get(s, {})} for s in stages
            },
        )


def run_compare(
    folder: Path,
    settings: CompareSettings,
    experiments: Mapping[str, ExperimentSettings],
    run: RunStage,
    *,
    writes: bool = True,
) -> Comparison:
    """Run all stages of all experiments that are not finished yet, and write the matrix.

    Metanetworks are trained and chosen within their experiment; networks are pruned and finetuned
    as in theirs, by all metanetworks alike. Writes `report.json`, `report.csv`, `matrix.png` and
    TensorBoard events to the folder, and `curve.png` to that of each experiment; without exchange
    one of all of them, too.

    Args:
        folder: Where to; each experiment has a folder in it.
        settings: What to compare.
        experiments: The settings of each, by name.
        run: Runs a stage, or finds it finished.
        writes: Whether this process writes the report.

    Raises:
        ConfigError: Two metanetworks have one name, or one does not fit the networks of another
            experiment.
    """
    rows = {name: settings.row(name, experiment) for name, experiment in experiments.items()}
    found = {name: Experiment() for name in rows}
    networks = {
        name: make_data_models(folder / name, row, run, found[name]) for name, row in rows.items()
    }
    metanetworks: dict[str, str] = {}
    for name, row in rows.items():
        own = make_metanetworks(folder / name, row, run, networks[name][0], found[name])
        for method, metanetwork in own.items() if settings.exchange else ():
            if method in metanetworks:
                raise ConfigError(f"matrix.experiments: two metanetworks are named '{method}'.")
            for other in rows:
                check_fit(
                    metanetwork,
                    networks[other][0],
                    f"the metanetwork '{name}' and the networks of '{other}'",
                )
            metanetworks[method] = metanetwork
        if not settings.exchange:
            prune_held_out(folder / name, row, run, networks[name], own, found[name])
    if settings.exchange:
        columns = {c: changes for row in rows.values() for c, changes in row.metanetworks.items()}
        for name, row in rows.items():
            crossed = replace(row, metanetworks=columns)
            prune_held_out(folder / name, crossed, run, networks[name], metanetworks, found[name])
    result = Comparison(experiments=found)
    if writes:
        _write_report(folder, result, together=not settings.exchange)
    return result


@torch.no_grad()
def check_fit(metanetwork: str, network: Path, names: str) -> None:
    """Refuse a metanetwork that cannot read a network, before any network is pruned by it.

    Raises:
        ConfigError: It has no place for a parameter of the network, or does not know a size of its
            kernels.
    """
    loaded = load_network(network)
    try:
        graph = trace(loaded, torch.zeros(1, *read_card(network).input_shape))
        load_metanetwork(metanetwork).rewrite(graph, loaded.state_dict())
    except TraceError as error:
        raise ConfigError(f"compare: {names} do not go together: {error}") from error


def _write_report(folder: Path, comparison: Comparison, *, together: bool) -> None:
    write_csv(folder / "report.csv", comparison.rows())
    save_figure(draw_matrix(comparison), folder / "matrix.png")
    log_matrix(folder, comparison)
    pictures: dict[Path, Sequence[Any]] = {
        folder / name: experiment.curves for name, experiment in comparison.experiments.items()
    }
    if together:
        pictures[folder] = [
            replace(curve, method=f"{name}, {curve.method}")
            for name, experiment in comparison.experiments.items()
            for curve in experiment.curves
        ]
    for place, curves in pictures.items():
        if curves:
            save_figure(draw_curves(curves), place / "curve.png")
            log_curves(place, curves)
    experiments = {name: asdict(experiment) for name, experiment in comparison.experiments.items()}
    write_json(folder / "report.json", {"results": comparison.rows(), "experiments": experiments})
