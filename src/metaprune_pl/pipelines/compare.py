"""Several experiments beside each other, their metanetworks exchanged (paper, F.1 to F.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from metaprune_pl.errors import ConfigError
from metaprune_pl.metanetworks.rewriting import check_fit
from metaprune_pl.pipelines.experiment import Line, experiment
from metaprune_pl.pipelines.experiment_stages import check_stages
from metaprune_pl.reports import Experiment
from metaprune_pl.reports.comparison import Comparison
from metaprune_pl.runs.command import goes_on
from metaprune_pl.runs.context import Context
from metaprune_pl.settings.config_text import check_folder_name
from metaprune_pl.settings.experiment import ExperimentSettings, Overrides, merged
from metaprune_pl.settings.parsing import parse_config, parser_of


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
            check_folder_name(name, "matrix.experiments")
            if not isinstance(own.get("config"), str) or not all(isinstance(k, str) for k in own):
                raise ConfigError(
                    f"matrix.experiments, {name}: name a config of `experiment`: "
                    "{config: X.yaml}."
                )

    @cached_property
    def rows(self) -> dict[str, ExperimentSettings]:
        """The experiments as they are run here, by name, after all their settings were read."""
        chains = {name: _chain(**own) for name, own in self.experiments.items()}
        return {name: self.row(name, chain) for name, chain in chains.items()}

    def row(self, name: str, experiment: ExperimentSettings) -> ExperimentSettings:
        """Return an experiment as it is run here; metanetworks that are exchanged have its name."""
        if experiment.masks is not None:
            raise ConfigError(
                f"matrix.experiments, {name}: masks are no speed-up, which is what the matrix "
                "compares."
            )
        several = experiment.metanetworks
        if self.exchange:
            several = {f"{name}_{one}": changes for one, changes in several.items()} or {name: {}}
        return replace(
            experiment,
            methods=[*self.controls, "metanetwork"],
            metanetworks=several,
            speed_ups=experiment.speed_ups[-1:],
            budgets=[1.0],
            overrides=merged(experiment.overrides, self.overrides),
        )


def _chain(config: str, **changes: Any) -> ExperimentSettings:
    """Return what `experiment` runs with a config and changes over it."""
    settings = parse_config(experiment, config, changes)
    chain: ExperimentSettings = parser_of(experiment).instantiate(settings).chain
    return chain


def _check(arguments: Mapping[str, Any]) -> None:
    for row in arguments["matrix"].rows.values():
        check_stages(row)


@goes_on("seed_everything", "trainer", "matrix", check=_check)
def compare(context: Context, matrix: CompareSettings) -> Comparison:
    """Run experiments beside each other, with their metanetworks exchanged.

    Metanetworks are trained and chosen within their experiment; networks are pruned and finetuned
    as in theirs, by all metanetworks alike. Writes `report.json`, `report.csv`, `matrix.png` and
    TensorBoard events to the run's folder, and `curve.png` to that of each experiment; without
    exchange one of all of them, too.

    Args:
        context: Where to run; its seed and devices are those of all stages.
        matrix: Experiments, and what is compared.

    Example:
        metaprune compare --config transfer_datasets_quickstart.yaml

    Raises:
        ConfigError: Two metanetworks have one name, or one does not fit the networks of another
            experiment.
    """
    context.refuse_rehearsal("compare")
    lines = {
        name: Line(
            context=replace(context, folder=context.folder / name),
            chain=row,
            result=Experiment(paper=row.paper),
        )
        for name, row in matrix.rows.items()
    }
    networks = {name: line.make_data_models() for name, line in lines.items()}
    own = {name: line.make_metanetworks(networks[name]) for name, line in lines.items()}
    if matrix.exchange:
        _prune_by_all(lines, networks, own)
    else:
        for name, line in lines.items():
            line.prune_held_out(networks[name], own[name])
    results = {name: line.result for name, line in lines.items()}
    return context.write(Comparison(experiments=results, exchanged=matrix.exchange))


def _prune_by_all(
    lines: Mapping[str, Line],
    networks: Mapping[str, Sequence[Path]],
    metanetworks: Mapping[str, Mapping[str, str]],
) -> None:
    """Prune the networks of all experiments by the metanetworks of all.

    Args:
        lines: The experiments.
        networks: Folders of the data models of each.
        metanetworks: Folders of the metanetworks of each, by method.
    """
    exchanged: dict[str, str] = {}
    for name, own in metanetworks.items():
        for method, metanetwork in own.items():
            if method in exchanged:
                raise ConfigError(f"matrix.experiments: two metanetworks are named '{method}'.")
            for other in lines:
                names = f"the metanetwork '{name}' and the networks of '{other}'"
                check_fit(metanetwork, networks[other][0], names)
            exchanged[method] = metanetwork
    every = {
        k: changes for line in lines.values() for k, changes in line.chain.metanetworks.items()
    }
    for name, line in lines.items():
        crossed = replace(line, chain=replace(line.chain, metanetworks=every))
        crossed.prune_held_out(networks[name], exchanged)
