"""The whole method with its controls: all stages one after another, and one report.

Each stage is a run of `data_models`, `fit`, `select`, `curve` or `prune` in a folder of its own, as
if started by hand.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from metaprune_pl.networks.untrained import store_untrained
from metaprune_pl.pipelines.data_models import stored_at
from metaprune_pl.pipelines.experiment_stages import (
    check_stages,
    part_of_budget,
    stage_of,
    training_of_data_models,
)
from metaprune_pl.reports import Cost, Curve, Experiment, Masked, Pruned, Selection
from metaprune_pl.reports.events import HYPERPARAMETERS, Events
from metaprune_pl.reports.writing import read_report
from metaprune_pl.runs.command import goes_on, tell
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.cost import cost_of
from metaprune_pl.settings.experiment import ExperimentSettings, images_of
from metaprune_pl.stages.baselines import baseline


@goes_on("seed_everything", "trainer", "chain", check=lambda given: check_stages(given["chain"]))
def experiment(context: Context, chain: ExperimentSettings) -> Experiment:
    """Run the whole method with its controls, and report.

    Runs all stages that are not finished yet, each in a folder of its own. Writes `report.json`,
    `report.csv`, `curves.csv`, `curve.png`, `masks.png` where there are some, `cost.png`,
    `paper.csv` where the paper's numbers are given, and TensorBoard events to the run's folder.

    Args:
        context: Where to run; its seed and devices are those of all stages.
        chain: Stages and comparisons.

    Example:
        metaprune experiment --config quickstart.yaml

    Raises:
        ConfigError: No data models are left to train on.
    """
    context.refuse_rehearsal("experiment")
    line = Line(context=context, chain=chain, result=Experiment(paper=chain.paper))
    if alone := chain.beside_nothing:
        tell(
            f"chain.paper: no method and target stands beside {len(alone)} of {len(chain.paper)} "
            f"rows, such as '{alone[0].row}' ({alone[0].method}, {alone[0].target})."
        )
    networks = line.make_data_models()
    metanetworks = line.make_metanetworks(networks)
    if "guided" in line.chain.methods:
        line.make_predictor()
    line.prune_held_out(networks, metanetworks)
    return context.write(line.result)


def choose_metanetwork(
    run: Callable[..., Path], networks: Sequence[Path], zoo: Mapping[str, Any]
) -> Selection:
    """Train a metanetwork, and choose its epoch by validation curves.

    Args:
        run: Runs a stage with further settings, and returns its folder.
        networks: Folders of the networks whose curves are drawn.
        zoo: Which data models it learns from.
    """
    data = {f"data.init_args.{name}": value for name, value in zoo.items()}
    trained = run("meta_training", **data)
    network, *others = map(str, networks)
    source = {"network": network, "others": others, "metanetwork": str(trained / "metanetworks")}
    choice = run("choice", **source, **{"grid.split": "validation"})
    return Selection.from_json(choice / "choice.json")


@dataclass(frozen=True, kw_only=True)
class Line:
    """The stages of one experiment, as they are run.

    Attributes:
        context: Where to run.
        chain: What to run.
        result: What came out so far.
    """

    context: Context
    chain: ExperimentSettings
    result: Experiment = field(default_factory=Experiment)

    def events(self, method: str, root: Path, prefix: str) -> Events:
        """Return where the trainings of a method are logged, all in one run of TensorBoard."""
        folder = self.context.folder / HYPERPARAMETERS / method
        return Events(root=root, folder=folder, prefix=prefix, is_part=True)

    def _once(self, name: str, method: str, folder: str, text: str, /, **given: Any) -> Path:
        """Run a stage for all networks, note its cost by a text, and return its folder."""
        path = self.context.folder / folder
        stage_of(self.chain, name, method).run(self.context, path, given)
        self.result.add_cost(text, method, cost_of(path), once=True)
        return path

    def make_data_models(self) -> list[Path]:
        """Train the data models, and return the folders of those that are asked for, by seed.

        Raises:
            ConfigError: None are left to train on.
        """
        folder = self._once("data_models", "", "data_models", "data models")
        seeds = stage_of(self.chain, "data_models").parse()["model.init_args.seeds"]
        self.chain.check_held_out(len(seeds))
        return [stored_at(folder, seed) for seed in sorted(seeds)]

    def make_metanetworks(self, networks: Sequence[Path]) -> dict[str, str]:
        """Train all metanetworks, and choose the epoch of each by validation curves.

        Args:
            networks: Folders of the data models.

        Returns:
            Folder of the metanetwork that was chosen, by method.
        """
        folder = networks[0].parent
        zoo: dict[str, Any] = {
            "data_models": str(folder),
            "held_out": self.chain.held_out,
            "validation": self.chain.validation,
        }
        if {path.parent for path in folder.glob("*/network.json")} != {*networks}:
            zoo["only"] = [network.name for network in networks]  # an earlier run made more
        known = self.chain.to_choose_by(networks)
        for method in self.chain.shared:
            run = partial(self._shared, method)
            self.result.choices[method] = choose_metanetwork(run, known, zoo)
        return {method: choice.metanetwork for method, choice in self.result.choices.items()}

    def _shared(self, method: str, stage: str, /, **given: Any) -> Path:
        """Run a stage of a metanetwork, where others with the same settings have it, too."""
        first = self.chain.first_like(method, "meta_training", stage)
        folder = f"{stage}{first.removeprefix('metanetwork')}"
        text = {"meta_training": "meta-training"}.get(stage, _COSTS[stage])
        return self._once(stage, method, folder, text, **given)

    def make_predictor(self) -> None:
        """Make a zoo, and train a predictor of accuracy on it."""
        zoo = self._once("zoo", "guided", "zoo", "zoo")
        networks = {"data.init_args.folder": str(zoo / "networks")}
        self._once("predictor", "guided", "predictor", "predictor", **networks)

    def prune_held_out(self, networks: Sequence[Path], metanetworks: Mapping[str, str]) -> None:
        """Draw the test curves of the held-out networks by all methods, and prune them.

        Args:
            networks: Folders of the data models; the last are held out.
            metanetworks: Folder of the metanetwork of a method.
        """
        line = self._tuned(networks)
        held_out = networks[-self.chain.held_out :]
        for method in self.chain.compared:
            runs = [run for network in held_out for run in line._runs(method, network)]
            for run in runs:
                run.make(metanetworks.get(method))
            if self.chain.is_on_own(method):
                self.result.on_own.append(method)
            for stage, text in _COSTS.items():
                costs = [cost_of(folder) for run in runs for folder in run.folders(stage)]
                if costs:
                    cost = sum(costs, Cost()).shared_by(len(runs))
                    self.result.add_cost(text, method, cost, once=False)

    def _tuned(self, networks: Sequence[Path]) -> Self:
        """Return the same with the weight of sparsity learning that does best on a network."""
        chain, method = self.chain, "sparsity_learning"
        if not chain.tune or method not in chain.methods:
            return self
        network = str(chain.to_choose_by(networks)[0])
        for weight in chain.tune:
            folder = self.context.folder / "tuning" / f"weight_{weight:g}"
            sparsity = asdict(replace(chain.sparsity, weight=weight))
            given: dict[str, Any] = {"network": network, "metanetwork": None, "sparsity": sparsity}
            given["grid.split"] = "validation"
            events = self.events(method, folder.parent, "tuning")
            stage_of(chain, "curve", method).run(self.context, folder, given, events)
            self.result.tuning[weight] = Curve.from_json(folder / "curve.json").area
            self.result.add_cost(f"tuning, weight {weight:g}", method, cost_of(folder), once=True)
        best = replace(chain.sparsity, weight=self.result.best_weight)
        return replace(self, chain=replace(chain, sparsity=best))

    def _runs(self, method: str, network: Path) -> "list[_Pruning]":
        """Return the prunings of a network: one, or one for each seed of the repeats."""
        folder = self.context.folder / "networks" / f"{network.name}-{method}"
        once = _Pruning(line=self, method=method, network=network, folder=folder)
        repeats = self.chain.repeats
        return [replace(once, folder=folder / f"repeat_{s}", seed=s) for s in repeats] or [once]


@dataclass(frozen=True, kw_only=True)
class _Pruning:
    """One pruning of a held-out network, from the metanetwork on.

    Attributes:
        line: The experiment.
        method: How.
        network: Folder of the network.
        folder: Where to.
        seed: Of this one among several; None is the run's.
    """

    line: Line
    method: str
    network: Path
    folder: Path
    seed: int | None = None

    def folders(self, stage: str) -> list[Path]:
        """Return the folders that a stage has run in: guided pruning has one for each share."""
        masks = self.line.chain.masks
        shares = [] if masks is None or stage != "prune" else masks.sparsities
        names = [stage, *map(_name_of, shares)]
        return [self.folder / name for name in names if (self.folder / name).is_dir()]

    def _run(self, name: str, folder: str = "", /, **given: Any) -> Path:
        """Run a stage in a folder of its own, by default of its name, and return that."""
        context, name_of_run = self.line.context, self.network.name
        if self.seed is not None:
            context = replace(context, seed=self.seed)
            given[f"{images_of(name)}.init_args.seed"] = self.seed
            name_of_run = f"{name_of_run}/{self.folder.name}"
        path = self.folder / (folder or name)
        events = self.line.events(self.method, self.folder, name_of_run)
        stage_of(self.line.chain, name, self.method).run(context, path, given, events)
        return path

    def make(self, metanetwork: str | None) -> None:
        """Draw the test curve after the network was made ready, and prune it to all targets."""
        chain = self.line.chain
        if self.method == "guided":
            self._guide()
            return
        source = self._ready(metanetwork)
        if not chain.speed_ups and chain.masks is None:
            return
        for share in chain.budgets:
            part = part_of_budget(chain, self.method, share)
            name = "prune" if share == 1 else f"prune_{share:g}"
            given = {**_READY, "speed_ups": chain.speed_ups, **source, **part}
            self._read(self._run("prune", name, **given), share)

    def _ready(self, metanetwork: str | None) -> dict[str, Any]:
        """Return the settings of the network that is pruned, after the steps before that."""
        chain, other = self.line.chain, baseline(self.method)
        if other is not None and other.untrained:
            untrained = self.folder / "untrained"
            store_untrained(self.network, untrained)
            training = training_of_data_models(chain)
            return {"network": str(untrained), "finetune.epochs": 0, **training}
        if chain.is_on_own(self.method):
            zoo = {
                "data_models": str(self.network.parent),
                "only": [self.network.name],
                "held_out": 0,
                "validation": 0,
            }
            metanetwork = choose_metanetwork(self._run, [self.network], zoo).metanetwork
        learning = self.method == "sparsity_learning"
        sparsity = asdict(chain.sparsity) if learning else None
        given = {"network": str(self.network), "metanetwork": metanetwork, "sparsity": sparsity}
        if chain.curve is None or not (other is None or other.has_curve):
            return given
        drawn = self._run("curve", **given, **{"grid.split": "test"})
        curve = Curve.from_json(drawn / "curve.json")
        self.line.result.curves.append(replace(curve, method=self.method))
        steps = (drawn / "finetuned" / "network", drawn / "rewritten", self.network)
        source = next(step for step in steps if step.is_dir())
        return {"network": str(source), "finetune.epochs": 0}

    def _read(self, folder: Path, share: float) -> None:
        """Add what a run of `prune` measured to the result."""
        result, method = self.line.result, self.method
        if self.line.chain.masks is not None:
            masked = read_report(folder, Masked)
            result.masked.extend(replace(each, method=method) for each in masked)
            return
        for each in read_report(folder, Pruned):
            path = str(folder / each.name / "network")
            result.pruned.append(replace(each, method=method, budget=share, path=path))

    def _guide(self) -> None:
        """Search zeros by the predictor, and finetune the network at each share."""
        masks, predictor = self.line.chain.masks, self.line.context.folder / "predictor/predictor"
        assert masks is not None
        model = "model.init_args"
        given = {
            f"{model}.network": str(self.network),
            f"{model}.predictors": [str(predictor)],
            f"{model}.shares": sorted(masks.sparsities),
        }
        search = self._run("guided", **given)
        for share in masks.sparsities:
            source = str(search / "shares" / f"{share:g}")
            own = {"network": source, "finetune.epochs": 0, "masks.sparsities": [share]}
            self._read(self._run("prune", _name_of(share), **_READY, **own), 1.0)


def _name_of(share: float) -> str:
    """Return the folder that a network of the guided search is finetuned in."""
    return f"share_{share:g}"


_READY = {"metanetwork": None, "sparsity": None}
"""Settings of networks that were made ready before."""
_COSTS = {
    "meta_training": "meta-training on the network itself",
    "choice": "choice of the metanetwork",
    "guided": "guided search",
    "curve": "finetuning and curve",
    "prune": "pruning and finetuning, all targets",
}
"""Stage of a network to what the report calls it."""
