"""The paper's pipeline for one network (equation 9): metanetwork, finetune, prune, finetune."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.errors import StorageError
from metaprune_pl.networks import create_network, load_network, save_network
from metaprune_pl.networks.widths import layer_widths
from metaprune_pl.pipelines.context import Context
from metaprune_pl.pipelines.prepare import (
    FinetuneSettings,
    Preparation,
    Ready,
    accuracies_before,
    accuracy,
    check_rounds,
    prepare,
    run_finetuning,
)
from metaprune_pl.pruning import Importance, count_macs, count_parameters, measure_latencies, prune
from metaprune_pl.reports import Masked, Pruned, read_json, write_csv, write_json
from metaprune_pl.reports.tensorboard import log_results

Result = TypeVar("Result", Pruned, Masked)


def run_prune(
    context: Context,
    data: ImageDataModule,
    how: Preparation,
    *,
    finetune_after: FinetuneSettings,
    speed_ups: Sequence[float],
    latency_batches: Sequence[int],
    rounds: int = 1,
) -> list[Pruned]:
    """Make a network ready, prune it to each target, and finetune the results.

    Writes `speed_up_X/network` for each target, `report.json`, `report.csv` and TensorBoard events
    to the run's folder.

    Args:
        context: Where to run.
        data: The images.
        how: What to make ready, and how.
        finetune_after: Finetuning after pruning.
        speed_ups: Targets, increasing.
        latency_batches: Numbers of images in a forward pass whose time is measured.
        rounds: Rounds in which the network is pruned to a target, with weights rewound after each.

    Raises:
        ConfigError: A target is below 1, or there is no training between rounds.
        PruningError: A target is out of reach.
    """
    check_rounds(rounds, finetune_after)
    ready = prepare(context, data, how, speed_ups)
    accuracies = accuracies_before(context, data, ready)
    networks = (
        _prune(context, data, ready, how, speed_ups)
        if rounds == 1
        else (
            _prune_in_rounds(context, data, ready, how, finetune_after, target, rounds)
            for target in speed_ups
        )
    )
    results, told = [], False
    for target, pruned in zip(speed_ups, networks, strict=True):
        folder = context.folder / f"speed_up_{target:g}"
        if context.broadcast((folder / "result.json").is_file()):
            results.append(Pruned(**read_json(folder / "result.json")))
            continue
        told = told or _tell_of_narrow_layers(ready.network, pruned, target)
        if context.is_global_zero:
            save_network(folder / "pruned", pruned, ready.card)
        context.barrier()
        final = load_network(_finetune(context, data, folder, finetune_after, how.criterion)).to(
            context.device
        )
        results.append(_measured(context, data, ready, target, accuracies, pruned, final))
        if context.is_global_zero:
            _store(folder, ready, final, results[-1])
    context.barrier()
    results = _timed(context, data, ready, results, latency_batches)
    if context.is_global_zero:
        _write_report(context.folder, results)
    return results


def narrow_layers(before: nn.Module, after: nn.Module) -> str:
    """Name the layers, three at most, of whose output channels less than a tenth is left."""
    widths = layer_widths(after)
    shares = {
        name.removesuffix(".weight"): (widths[name][0], shape[0])
        for name, shape in layer_widths(before).items()
        if len(shape) > 1 and 10 * widths[name][0] < shape[0]
    }
    found = sorted(shares, key=lambda name: shares[name][0] / shares[name][1])[:3]
    return ", ".join(
        f"'{name}' ({shares[name][0]} of {shares[name][1]} channels)" for name in found
    )


def _tell_of_narrow_layers(before: nn.Module, after: nn.Module, target: float) -> bool:
    found = narrow_layers(before, after)
    if found:
        rank_zero_info(
            f"At {target:g}x hardly anything is left of {found}. If that costs too much accuracy: "
            "--pruning.max_ratio "
            "0.75 leaves every layer a quarter of its channels."
        )
    return bool(found)


def _prune(
    context: Context,
    data: ImageDataModule,
    ready: Ready,
    how: Preparation,
    speed_ups: Sequence[float],
    rewound: nn.Module | None = None,
) -> Iterator[nn.Module]:
    example = torch.zeros(1, *ready.card.input_shape, device=context.device)
    return prune(
        ready.network,
        example,
        speed_ups=speed_ups,
        base_macs=ready.base_macs,
        criterion=how.criterion,
        settings=how.pruning,
        images=partial(data.evaluation, "validation", context.device),
        rewound=rewound,
        checked=ready.checked,
    )


def _prune_in_rounds(
    context: Context,
    data: ImageDataModule,
    ready: Ready,
    how: Preparation,
    finetuning: FinetuneSettings,
    target: float,
    rounds: int,
) -> nn.Module:
    """Prune to a target with rewinding (Frankle and Carbin 2019; Renda et al. 2020).

    Each round prunes by the same factor what the training after the last round led to, and gives
    the channels that are left the weights again that they had when the network was ready.
    """
    now = ready.base_macs / count_macs(
        ready.network, torch.zeros(1, *ready.card.input_shape, device=context.device)
    )
    trained = rewound = ready.network
    for number in range(1, rounds + 1):
        between = target if number == rounds else now * (target / now) ** (number / rounds)
        now_ready = (
            ready if number == 1 else replace(ready, network=trained, checked=None)
        )  # of other widths
        (rewound,) = _prune(context, data, now_ready, how, [between], rewound)
        if number < rounds:
            folder = context.folder / f"speed_up_{target:g}" / f"round_{number}"
            if context.is_global_zero:
                save_network(folder / "pruned", rewound, ready.card)
            context.barrier()
            trained = load_network(_finetune(context, data, folder, finetuning, how.criterion)).to(
                context.device
            )
    return rewound


def _finetune(
    context: Context,
    data: ImageDataModule,
    folder: Path,
    settings: FinetuneSettings,
    criterion: Importance,
) -> Path:
    if not settings.epochs:
        return folder / "pruned"
    return run_finetuning(
        replace(context, folder=folder),
        data,
        "finetuned",
        folder / "pruned",
        settings,
        None,
        criterion,
    )


def _measured(
    context: Context,
    data: ImageDataModule,
    ready: Ready,
    target: float,
    before: tuple[float, float],
    pruned: nn.Module,
    final: nn.Module,
) -> Pruned:
    """Measure a network on the test images, straight after pruning and as it is in the end."""
    example = torch.zeros(1, *ready.card.input_shape, device=context.device)
    macs = count_macs(final, example)
    return Pruned(
        network=ready.name,
        method=ready.method,
        target=target,
        speed_up=ready.base_macs / macs,
        macs=macs,
        parameters=count_parameters(final),
        accuracy_given=before[0],
        accuracy_before=before[1],
        accuracy_pruned=accuracy(pruned, data, "test", context.device),
        accuracy_finetuned=accuracy(final, data, "test", context.device),
    )


def _timed(
    context: Context,
    data: ImageDataModule,
    ready: Ready,
    results: Sequence[Pruned],
    sizes: Sequence[int],
) -> list[Pruned]:
    """Measure the unpruned network and all results, in turn, for each number of images in a forward pass."""
    settings = ready.card.settings
    unpruned = create_network(settings.builder, seed=0, **settings.arguments).eval()
    networks = [
        unpruned,
        *(load_network(context.folder / f"speed_up_{r.target:g}" / "network") for r in results),
    ]
    example = torch.zeros(1, *ready.card.input_shape, device=context.device)
    found = {
        str(s): measure_latencies([n.to(context.device) for n in networks], example, s)
        for s in sizes
    }
    return [
        replace(
            result,
            latency={size: times[number] for size, times in found.items()},
            latency_unpruned={size: times[0] for size, times in found.items()},
        )
        for number, result in enumerate(results, 1)
    ]


def _store(folder: Path, ready: Ready, final: nn.Module, result: Pruned) -> None:
    """Store a network with its result, which comes last: it says that all is there."""
    record = {
        **ready.card.record,
        "speed_up": result.speed_up,
        "test_accuracy": result.accuracy_finetuned,
    }
    save_network(folder / "network", final, replace(ready.card, record=record))
    write_json(folder / "result.json", asdict(result))


def _write_report(folder: Path, results: list[Pruned]) -> None:
    write_csv(folder / "report.csv", [_flat(result) for result in results])
    for result in results:
        settings = {"method": result.method, "network": result.network, "target": result.target}
        values = {
            "speed_up": result.speed_up,
            "accuracy_pruned": result.accuracy_pruned,
            "accuracy_finetuned": result.accuracy_finetuned,
        }
        log_results(folder, f"speed_up_{result.target:g}", settings, values)
    write_json(folder / "report.json", [asdict(result) for result in results])


def _flat(result: Pruned) -> dict[str, object]:
    row = asdict(result)
    for name in ("latency", "latency_unpruned"):
        row |= {f"{name}_batch_{size}_ms": value for size, value in row.pop(name).items()}
    return row


def read_report(folder: Path, kind: type[Result]) -> list[Result]:
    """Read what `run_prune` or `run_masks` wrote.

    Raises:
        StorageError: The folder holds no finished pruning.
    """
    if not (folder / "report.json").is_file():
        raise StorageError(f"'{folder}' holds no report.json of `metaprune prune`.")
    return [kind(**row) for row in read_json(folder / "report.json")]
