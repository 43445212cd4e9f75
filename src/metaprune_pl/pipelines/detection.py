"""From classification to detection (paper, F.4).

A detector's backbone is pruned with a metanetwork and without.

A detector is trained; then, for each method, (metanetwork,) finetune, prune the backbone, finetune.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from metaprune_pl.data import VOC
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSource,
    create_network,
    load_network,
    read_card,
    save_network,
)
from metaprune_pl.pipelines.context import Context
from metaprune_pl.pipelines.prepare import TrainingSettings, rewrite
from metaprune_pl.pruning import (
    Importance,
    Magnitude,
    PruningGroups,
    PruningSettings,
    count_macs,
    count_parameters,
    measure_latencies,
    prune,
)
from metaprune_pl.pruning.structured import check_ahead, check_prunable
from metaprune_pl.reports import Detected, read_json, write_csv, write_json
from metaprune_pl.reports.tensorboard import log_results
from metaprune_pl.stages import DetectorTraining
from metaprune_pl.stages.detection import AveragePrecision, check_detector


@dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """Which detector is trained and pruned, and how.

    Attributes:
        network: `faster_rcnn`, or the folder of a stored detector.
        arguments: Keyword arguments of `faster_rcnn`, and of the builder of its backbone.
        metanetwork: Folder of a metanetwork (or of several: the last is taken); None prunes without
            one alone.
        speed_ups: Targets: multiply-accumulates of the unpruned backbone over those of the result,
            increasing.
        criterion: Which channels matter.
        pruning: Steps and floors.
        training: Training of the detector; 0 epochs take a stored one as it is.
        finetune: Finetuning before pruning, with and without metanetwork.
        finetune_after: Finetuning after pruning.
    """

    network: str = "faster_rcnn"
    arguments: dict[str, Any] = field(default_factory=dict)
    metanetwork: str | None = None
    speed_ups: list[float] = field(default_factory=lambda: [2.5])
    criterion: Importance = field(default_factory=Magnitude)
    pruning: PruningSettings = field(default_factory=PruningSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    finetune: TrainingSettings = field(default_factory=TrainingSettings)
    finetune_after: TrainingSettings = field(default_factory=TrainingSettings)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What all steps of a run share: where, on what, how.

    And what is known of the backbone before any of them.
    """

    context: Context
    data: VOC
    how: DetectionSettings
    card: NetworkCard
    base_macs: int
    checked: tuple[PruningGroups, int]

    @property
    def example(self) -> Tensor:
        """One image, [1, C, H, W]."""
        return torch.zeros(1, *self.card.input_shape, device=self.context.device)

    def inside(self, folder: Path) -> "_Work":
        """Return the same work in another folder."""
        return replace(self, context=replace(self.context, folder=folder))


def run_detection(context: Context, data: VOC, how: DetectionSettings) -> list[Detected]:
    """Train a detector, and prune its backbone with and without a metanetwork.

    Writes `trained/network`, `METHOD/speed_up_X/network`, `report.json`, `report.csv` and
    TensorBoard events to the run's folder.

    Args:
        context: Where to run.
        data: Images with objects.
        how: What to run.

    Raises:
        ConfigError: The network is no detector, the metanetwork was made for others, or the targets
            make no sense.
        DataError: The images are missing or cannot be read.
        PruningError: A target is out of reach.
        StorageError: There is no such network or metanetwork.
    """
    data.count("train")
    source = NetworkSource(network=how.network, arguments=how.arguments)
    detector, card = source.open()
    check_detector(detector, data)
    example, backbone = torch.zeros(1, *card.input_shape), detector.get_submodule("backbone")
    unpruned = create_network(
        card.settings.builder, seed=0, **card.settings.arguments
    ).get_submodule("backbone")
    macs = count_macs(unpruned, example)
    checked = check_prunable(backbone, example, how.speed_ups, macs, how.pruning)
    check_ahead(backbone, example, how.speed_ups, macs)
    if how.metanetwork is not None:
        rewrite(
            context, copy.deepcopy(backbone), checked[0].graph, how.metanetwork
        )  # whether it can
    work = _Work(context=context, data=data, how=how, card=card, base_macs=macs, checked=checked)
    start = Path(how.network) if source.stored else context.folder / "source"
    if context.is_global_zero and not source.stored:
        save_network(start, detector, card)
    context.barrier()
    trained = _train(work, "trained", start, how.training)
    origin = load_network(trained)
    results = [_measured(work.inside(context.folder / "origin"), "origin", 1.0, origin, origin)]
    for method in ["none", "metanetwork"] if how.metanetwork is not None else ["none"]:
        results += _prune(work.inside(context.folder / method), trained, method)
    if context.is_global_zero:
        _write_report(context.folder, results)
    return results


def _train(work: _Work, name: str, source: Path, settings: TrainingSettings) -> Path:
    """Train a stored detector in a folder of its own, unless that was done before.

    Return the result's folder.
    """
    if not settings.epochs:
        return source
    folder = work.context.folder / name
    if work.context.broadcast(not (folder / "network" / "network.json").is_file()):
        module = DetectorTraining(network=str(source), optimizer=settings.optimizer)
        work.context.make_trainer(folder, settings.epochs).fit(module, datamodule=work.data)
    work.context.barrier()
    return folder / "network"


def _prune(work: _Work, trained: Path, method: str) -> list[Detected]:
    """Make a detector ready in the way of a method, and prune its backbone to each target."""
    context, how = work.context, work.how
    results = [context.folder / f"speed_up_{target:g}" / "result.json" for target in how.speed_ups]
    if context.broadcast(all(path.is_file() for path in results)):
        return [Detected(**read_json(path)) for path in results]
    source = trained
    if method == "metanetwork":
        assert how.metanetwork is not None
        source, rewritten = context.folder / "rewritten", load_network(trained)
        rewrite(
            context, rewritten.get_submodule("backbone"), work.checked[0].graph, how.metanetwork
        )
        if context.is_global_zero:
            save_network(source, rewritten, read_card(trained))
        context.barrier()
    detector = load_network(_train(work, "finetuned", source, how.finetune)).to(context.device)
    backbones = prune(
        detector.get_submodule("backbone"),
        work.example,
        speed_ups=how.speed_ups,
        base_macs=work.base_macs,
        criterion=how.criterion,
        settings=how.pruning,
        checked=work.checked,
    )
    found = []
    for target, backbone in zip(how.speed_ups, backbones, strict=True):
        inside = work.inside(context.folder / f"speed_up_{target:g}")
        pruned: Any = copy.deepcopy(detector)
        pruned.backbone = backbone
        if context.is_global_zero:
            save_network(inside.context.folder / "pruned", pruned, work.card)
        context.barrier()
        final = load_network(
            _train(inside, "finetuned", inside.context.folder / "pruned", how.finetune_after)
        )
        found.append(_measured(inside, method, target, detector, final, pruned))
    return found


def _measured(
    work: _Work,
    method: str,
    target: float,
    unpruned: nn.Module,
    final: nn.Module,
    pruned: nn.Module | None = None,
) -> Detected:
    """Measure a detector on the test images, unless that was done before.

    A pruned one is stored with the result.
    """
    context, folder = work.context, work.context.folder
    if context.broadcast((folder / "result.json").is_file()):
        return Detected(**read_json(folder / "result.json"))
    final, unpruned = final.to(context.device).eval(), unpruned.to(context.device).eval()
    macs = count_macs(final.get_submodule("backbone"), work.example)
    precision, precision_50 = average_precision(final, work.data, context.device)
    before = (
        (None, None) if pruned is None else average_precision(pruned, work.data, context.device)
    )
    milliseconds, unpruned_milliseconds = measure_latencies([final, unpruned], work.example, 1)
    result = Detected(
        method=method,
        target=target,
        speed_up=work.base_macs / macs,
        macs=macs,
        parameters=count_parameters(final),
        milliseconds=milliseconds,
        milliseconds_unpruned=unpruned_milliseconds,
        precision=precision,
        precision_50=precision_50,
        precision_pruned=before[0],
        precision_50_pruned=before[1],
    )
    if context.is_global_zero:
        if pruned is not None:
            record = {**work.card.record, **asdict(result)}
            save_network(folder / "network", final, replace(work.card, record=record))
        write_json(folder / "result.json", asdict(result))
    return result


@torch.inference_mode()
def average_precision(detector: nn.Module, data: VOC, device: torch.device) -> tuple[float, float]:
    """Return the mean average precision on the test images, over overlaps of 0.5 to 0.95 and at 0.5."""
    metric, detector = AveragePrecision(), detector.to(device).eval()
    batches = track(
        data.evaluation("test", device), "Test images", len(data.loader("test")), transient=True
    )
    for images, targets in batches:
        metric.update(detector(images), targets)
    return metric.summary()


def _write_report(folder: Path, results: Sequence[Detected]) -> None:
    rows = [asdict(result) for result in results]
    write_csv(folder / "report.csv", rows)
    for result in results:
        values = {
            "speed_up": result.speed_up,
            "map": result.precision,
            "map_50": result.precision_50,
        }
        log_results(folder, f"{result.method}_{result.target:g}", {"method": result.method}, values)
    write_json(folder / "report.json", rows)
