"""The whole method with its controls: all stages one after another, and one report.

Each stage is a run of `data_models`, `fit`, `select`, `curve` or `prune` in a folder of its own, as
if started by hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from metaprune_pl.errors import ConfigError
from metaprune_pl.pipelines.baselines import baseline, training_of, untrained_copy
from metaprune_pl.pipelines.experiment_settings import ExperimentSettings
from metaprune_pl.reports import Cost, Curve, Experiment, Masked, Pruned, Selection
from metaprune_pl.reports.events import HYPERPARAMETERS, Events
from metaprune_pl.reports.writing import read_report, write_result
from metaprune_pl.runs.command import goes_on
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.cost import cost_of


@goes_on("seed_everything", "trainer", "chain", check=lambda arguments: arguments["chain"].checked)
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
    refuse_rehearsal(context, "experiment")
    result = Experiment(paper=chain.paper)
    line = Line(context=context, chain=chain.checked, result=result)
    networks = line.make_data_models()
    metanetworks = line.make_metanetworks(networks)
    if "guided" in line.chain.methods:
        line.make_predictor()
    line.prune_held_out(networks, metanetworks)
    if context.is_global_zero:
        write_result(line.result, context.folder, context.events)
    return line.result


def refuse_rehearsal(context: Context, command: str) -> None:
    """Refuse to run stages that keep nothing, since one needs what another has made.

    Raises:
        ConfigError: The Trainer has `fast_dev_run`.
    """
    if context.is_rehearsal:
        raise ConfigError(
            f"trainer.fast_dev_run has no effect on {command}: run its stages with it, one by one."
        )


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

    def _run(self, name: str, method: str, folder: Path, **given: Any) -> None:
        self.chain.stage(name, method).run(self.context, folder, given)

    def events(self, method: str, root: Path, prefix: str) -> Events:
        """Return where the trainings of a method are logged, all in one run of TensorBoard."""
        folder = self.context.folder / HYPERPARAMETERS / method
        return Events(root=root, folder=folder, prefix=prefix, is_part=True)

    def make_data_models(self) -> list[Path]:
        """Train the data models and return their folders.

        Raises:
            ConfigError: None are left to train on.
        """
        folder = self.context.folder / "data_models"
        self._run("data_models", "", folder)
        networks = sorted(path.parent for path in (folder / "networks").glob("*/network.json"))
        self.chain.check_held_out(len(networks))
        self.result.add_cost("data models", "", cost_of(folder), once=True)
        return networks

    def make_metanetworks(self, networks: Sequence[Path]) -> dict[str, str]:
        """Train all metanetworks, and choose the epoch of each by validation curves.

        Args:
            networks: Folders of the data models.

        Returns:
            Folder of the metanetwork that was chosen, by method.
        """
        chosen = {}
        for method in self.chain.shared:
            trained = self._train_metanetwork(method)
            first = self.chain.first_like(method, "meta_training", "choice")
            network, *others = map(str, self.chain.to_choose_by(networks))
            source = {
                "network": network,
                "others": others,
                "metanetwork": str(trained / "metanetworks"),
                "grid.split": "validation",
            }
            folder = self.context.folder / f"choice{first.removeprefix('metanetwork')}"
            self._run("choice", method, folder, **source)
            choice = Selection.from_json(folder / "choice.json")
            self.result.choices[method] = choice
            self.result.add_cost("meta-training", method, cost_of(trained), once=True)
            self.result.add_cost("choice of the metanetwork", method, cost_of(folder), once=True)
            chosen[method] = choice.metanetwork
        return chosen

    def _train_metanetwork(self, method: str) -> Path:
        first = self.chain.first_like(method, "meta_training")
        zoo = {
            "data.init_args.data_models": str(self.context.folder / "data_models" / "networks"),
            "data.init_args.held_out": self.chain.held_out,
            "data.init_args.validation": self.chain.validation,
        }
        folder = self.context.folder / f"meta_training{first.removeprefix('metanetwork')}"
        self._run("meta_training", method, folder, **zoo)
        return folder

    def make_predictor(self) -> None:
        """Make a zoo, and train a predictor of accuracy on it."""
        zoo, predictor = (self.context.folder / name for name in ("zoo", "predictor"))
        self._run("zoo", "guided", zoo)
        networks = {"data.init_args.folder": str(zoo / "networks")}
        self._run("predictor", "guided", predictor, **networks)
        for folder in (zoo, predictor):
            self.result.add_cost(folder.name, "guided", cost_of(folder), once=True)

    def prune_held_out(self, networks: Sequence[Path], metanetworks: Mapping[str, str]) -> None:
        """Draw the test curves of the held-out networks by all methods, and prune them.

        Args:
            networks: Folders of the data models; the last are held out.
            metanetworks: Folder of the metanetwork of a method.
        """
        held_out = networks[-self.chain.held_out :]
        line = self._tuned(networks)
        for method in self.chain.compared:
            runs = [run for network in held_out for run in line._runs(method, network)]
            for run in runs:
                run.make(metanetworks.get(method))
            for stage, text in _COSTS.items():
                folders = [folder for run in runs for folder in run.folders(stage)]
                self._add_cost(text, method, folders, len(runs))

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
            chain.stage("curve", method).run(self.context, folder, given, events)
            self.result.tuning[weight] = Curve.from_json(folder / "curve.json").area
            self.result.add_cost(f"tuning, weight {weight:g}", method, cost_of(folder), once=True)
        best = replace(chain.sparsity, weight=self.result.best_weight)
        return replace(self, chain=replace(chain, sparsity=best))

    def _runs(self, method: str, network: Path) -> "list[_Pruning]":
        """Return the prunings of a network: one, or one for each seed of the repeats."""
        folder = self.context.folder / "networks" / f"{network.name}-{method}"
        once = _Pruning(line=self, method=method, network=network, folder=folder)
        return [
            replace(once, folder=folder / f"repeat_{seed}", seed=seed)
            for seed in self.chain.repeats
        ] or [once]

    def _add_cost(self, text: str, method: str, folders: Sequence[Path], runs: int) -> None:
        if folders:
            cost = sum((cost_of(folder) for folder in folders), Cost()).shared_by(runs)
            self.result.add_cost(text, method, cost, once=False)


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
        context = self.line.context
        if self.seed is not None:
            context = replace(context, seed=self.seed)
            images = "data.init_args" + ".images.init_args" * (name == "meta_training")
            given[f"{images}.seed"] = self.seed
        where, name_of_run = self.folder / (folder or name), self.network.name
        if self.seed is not None:
            name_of_run = f"{name_of_run}/{self.folder.name}"
        events = self.line.events(self.method, self.folder, name_of_run)
        self.line.chain.stage(name, self.method).run(context, where, given, events)
        return where

    def make(self, metanetwork: str | None) -> None:
        """Draw the test curve after the network was made ready, and prune it to all targets."""
        line, other = self.line, baseline(self.method)
        if self.method == "guided":
            self._guide()
            return
        if line.chain.is_on_own(self.method):
            metanetwork = self._make_metanetwork()
        if other is not None and other.untrained:
            untrained = untrained_copy(self.network, self.folder / "untrained")
            training = training_of(line.context.folder / "data_models")
            source = {"network": str(untrained), "finetune.epochs": 0, **training}
        elif line.chain.curve is not None and (other is None or other.has_curve):
            source = self._draw(metanetwork)
        else:
            source = {"network": str(self.network), **self._made_ready(metanetwork)}
        if not line.chain.speed_ups and line.chain.masks is None:
            return
        none = {**_READY, "speed_ups": line.chain.speed_ups}
        for share in line.chain.budgets:
            part = line.chain.part_of_budget(self.method, share)
            name = "prune" if share == 1 else f"prune_{share:g}"
            self._read(self._run("prune", name, **{**none, **source, **part}), share)

    def _made_ready(self, metanetwork: str | None) -> dict[str, Any]:
        """Return the settings by which the method makes a network ready for pruning."""
        learning = self.method == "sparsity_learning"
        sparsity = asdict(self.line.chain.sparsity) if learning else None
        return {"metanetwork": metanetwork, "sparsity": sparsity}

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
        masks, line = self.line.chain.masks, self.line
        assert masks is not None
        predictor = line.context.folder / "predictor" / "predictor"
        given = {
            "network": str(self.network),
            "predictors": [str(predictor)],
            "shares": sorted(masks.sparsities),
        }
        search = self._run("guided", **{f"model.init_args.{k}": v for k, v in given.items()})
        for share in masks.sparsities:
            source = {
                "network": str(search / "shares" / f"{share:g}"),
                "finetune.epochs": 0,
                "masks.sparsities": [share],
            }
            self._read(self._run("prune", _name_of(share), **_READY, **source), 1.0)

    def _make_metanetwork(self) -> str:
        """Train and choose a metanetwork on the very network that it will prune."""
        zoo = {"data_models": str(self.network.parent), "only": [self.network.name]}
        own = {f"data.init_args.{name}": value for name, value in zoo.items()}
        trained = self._run("meta_training", **own)
        source = {
            "network": str(self.network),
            "metanetwork": str(trained / "metanetworks"),
            "grid.split": "validation",
        }
        choice = self._run("choice", **source)
        on_own = self.line.result.on_own
        if self.method not in on_own:
            on_own.append(self.method)
        return Selection.from_json(choice / "choice.json").metanetwork

    def _draw(self, metanetwork: str | None) -> dict[str, Any]:
        """Draw the network's test curve, and return what is pruned: the network made ready."""
        line = self.line
        ready = {**self._made_ready(metanetwork), "grid.split": "test"}
        drawn = self._run("curve", network=str(self.network), **ready)
        line.result.curves.append(
            replace(Curve.from_json(drawn / "curve.json"), method=self.method)
        )
        steps = (drawn / "finetuned" / "network", drawn / "rewritten", self.network)
        source = next(step for step in steps if step.is_dir())
        return {"network": str(source), "finetune.epochs": 0}


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
