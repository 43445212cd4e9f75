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
from metaprune_pl.pipelines.prepare import Place, TrainingSettings, rewrite
from metaprune_pl.pruning import (
    GroupNorm,
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
    criterion: GroupNorm = field(default_factory=GroupNorm)
    pruning: PruningSettings = field(default_factory=PruningSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    finetune: TrainingSettings = field(default_factory=TrainingSettings)
    finetune_after: TrainingSettings = field(default_factory=TrainingSettings)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What all steps of a run share: where, on what, how.

    And what is known of the backbone before any of them.
    """

    place: Place
    data: VOC
    how: DetectionSettings
    card: NetworkCard
    base_macs: int
    checked: tuple[PruningGroups, int]

    @property
    def example(self) -> Tensor:
        """One image, [1, C, H, W]."""
        return torch.zeros(1, *self.card.input_shape, device=self.place.device)

    def inside(self, folder: Path) -> "_Work":
        """Return the same work in another folder."""
        return replace(self, place=replace(self.place, folder=folder))


def run_detection(place: Place, data: VOC, how: DetectionSettings) -> list[Detected]:
    """Train a detector, and prune its backbone with and without a metanetwork.

    Writes `trained/network`, `METHOD/speed_up_X/network`, `report.json`, `report.csv` and
    TensorBoard events to the run's folder.

    Args:
        place: Where to run.
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
        rewrite(place, copy.deepcopy(backbone), checked[0].graph, how.metanetwork)  # whether it can
    work = _Work(place=place, data=data, how=how, card=card, base_macs=macs, checked=checked)
    start = Path(how.network) if source.stored else place.folder / "source"
    if place.writes and not source.stored:
        save_network(start, detector, card)
    place.agree(None)
    trained = _train(work, "trained", start, how.training)
    origin = load_network(trained)
    results = [_measured(work.inside(place.folder / "origin"), "origin", 1.0, origin, origin)]
    for method in ["none", "metanetwork"] if how.metanetwork is not None else ["none"]:
        results += _prune(work.inside(place.folder / method), trained, method)
    if place.writes:
        _write_report(place.folder, results)
    return results


def _train(work: _Work, name: str, source: Path, settings: TrainingSettings) -> Path:
    """Train a stored detector in a folder of its own, unless that was done before.

    Return the result's folder.
    """
    if not settings.epochs:
        return source
    folder = work.place.folder / name
    if work.place.agree(not (folder / "network" / "network.json").is_file()):
        module = DetectorTraining(network=str(source), optimizer=settings.optimizer)
        work.place.trainer(folder, settings.epochs).fit(module, datamodule=work.data)
    work.place.agree(None)
    return folder / "network"


def _prune(work: _Work, trained: Path, method: str) -> list[Detected]:
    """Make a detector ready in the way of a method, and prune its backbone to each target."""
    place, how = work.place, work.how
    results = [place.folder / f"speed_up_{target:g}" / "result.json" for target in how.speed_ups]
    if place.agree(all(path.is_file() for path in results)):
        return [Detected(**read_json(path)) for path in results]
    source = trained
    if method == "metanetwork":
        assert how.metanetwork is not None
        source, rewritten = place.folder / "rewritten", load_network(trained)
        rewrite(place, rewritten.get_submodule("backbone"), work.checked[0].graph, how.metanetwork)
        if place.writes:
            save_network(source, rewritten, read_card(trained))
        place.agree(None)
    detector = load_network(_train(work, "finetuned", source, how.finetune)).to(place.device)
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
        inside = work.inside(place.folder / f"speed_up_{target:g}")
        pruned: Any = copy.deepcopy(detector)
        pruned.backbone = backbone
        if place.writes:
            save_network(inside.place.folder / "pruned", pruned, work.card)
        place.agree(None)
        final = load_network(
            _train(inside, "finetuned", inside.place.folder / "pruned", how.finetune_after)
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
    place, folder = work.place, work.place.folder
    if place.agree((folder / "result.json").is_file()):
        return Detected(**read_json(folder / "result.json"))
    final, unpruned = final.to(place.device).eval(), unpruned.to(place.device).eval()
    macs = count_macs(final.get_submodule("backbone"), work.example)
    precision, precision_50 = average_precision(final, work.data, place.device)
    before = (None, None) if pruned is None else average_precision(pruned, work.data, place.device)
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
    if place.writes:
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
