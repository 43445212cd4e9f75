"""The paper's pipeline with masks in place of removed channels (6.2).

Metanetwork, finetune, mask, finetune.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from metaprune_pl.data import ImageDataModule
from metaprune_pl.graphs import WeightGraph, trace
from metaprune_pl.networks import NetworkCard, load_network, save_network
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
from metaprune_pl.pruning import (
    MaskSettings,
    apply_masks,
    count_parameters,
    find_masks,
    left_parameters,
)
from metaprune_pl.pruning.unstructured import Ranking
from metaprune_pl.reports import Masked, read_json, write_csv, write_json
from metaprune_pl.reports.figures import save_figure
from metaprune_pl.reports.masks import draw_masks
from metaprune_pl.reports.tensorboard import log_results


def run_masks(
    context: Context,
    data: ImageDataModule,
    how: Preparation,
    masks: MaskSettings,
    *,
    finetune_after: FinetuneSettings,
    rounds: int = 1,
) -> list[Masked]:
    """Make a network ready, mask its weights for each target, and finetune the results.

    Writes `masked_X/network` for each target, `report.json`, `report.csv`, the curve over
    parameters left (`masks.png`) and TensorBoard events to the run's folder.

    Args:
        context: Where to run.
        data: The images.
        how: What to make ready, and how.
        masks: Which weights become zero.
        finetune_after: Finetuning after that.
        rounds: Rounds in which shares are reached, with weights rewound after each; patterns are
            made at once.

    Raises:
        ConfigError: There is no training between rounds.
        PruningError: A pattern fits no layer.
    """
    check_rounds(rounds, finetune_after)
    ready = prepare(context, data, how, None)
    graph = trace(ready.network, torch.zeros(1, *ready.card.input_shape, device=context.device))
    if ready.card.masked:
        rank_zero_info(
            "The network has masks: shares are of all its weights, those that are zero among them."
        )
    given, before = accuracies_before(context, data, ready)
    results = []
    for target in masks.targets:
        folder = context.folder / f"masked_{str(target).replace(':', '_of_')}"
        if context.broadcast((folder / "result.json").is_file()):
            results.append(Masked(**read_json(folder / "result.json")))
            continue
        masked, final, card, dense = _mask(
            context, data, folder, ready, graph, how, masks.ranking, finetune_after, target, rounds
        )
        result = Masked(
            network=ready.name,
            method=ready.method,
            target=str(target),
            left=left_parameters(final),
            parameters=count_parameters(final),
            dense=list(dense),
            accuracy_given=given,
            accuracy_before=before,
            accuracy_masked=accuracy(masked, data, "test", context.device),
            accuracy_finetuned=accuracy(final, data, "test", context.device),
        )
        results.append(result)
        if context.is_global_zero:
            record = {
                **card.record,
                "left": result.left,
                "test_accuracy": result.accuracy_finetuned,
            }
            save_network(folder / "network", final, replace(card, record=record))
            write_json(folder / "result.json", asdict(result))
    if context.is_global_zero:
        _write_report(context.folder, results)
    return results


def _mask(
    context: Context,
    data: ImageDataModule,
    folder: Path,
    ready: Ready,
    graph: WeightGraph,
    how: Preparation,
    ranking: Ranking,
    finetuning: FinetuneSettings,
    target: float | str,
    rounds: int,
) -> tuple[nn.Module, nn.Module, NetworkCard, Sequence[str]]:
    """Return a network masked and finetuned, its card, and the weights that a pattern left whole."""
    final, last = ready.network, 1 if isinstance(target, str) else rounds
    for number in range(
        1, last + 1
    ):  # each leaves the same share of what is left, by what the last one trained
        share = (
            target
            if isinstance(target, str) or number == last
            else 1 - (1 - target) ** (number / last)
        )
        found = find_masks(
            graph,
            how.criterion.measure(
                final, graph, partial(data.evaluation, "validation", context.device)
            ),
            how.criterion,
            share,
            ranking,
        )
        masked, card = (
            apply_masks(ready.network, found),
            replace(ready.card, masked=sorted(found.kept)),
        )
        inside = replace(context, folder=folder if number == last else folder / f"round_{number}")
        source = inside.folder / "masked"
        if context.is_global_zero:
            save_network(source, masked, card)
        context.barrier()
        if finetuning.epochs:
            source = run_finetuning(
                inside, data, "finetuned", source, finetuning, None, how.criterion
            )
        final = load_network(source).to(context.device)
    for name, kept in found.kept.items():
        assert not final.get_parameter(name)[~kept.to(context.device)].any(), name
    return masked, final, card, found.dense


def _write_report(folder: Path, results: Sequence[Masked]) -> None:
    for result in results:
        settings = {"method": result.method, "network": result.network, "target": result.target}
        values = {"left": result.left, "accuracy_finetuned": result.accuracy_finetuned}
        log_results(folder, f"masked_{result.target.replace(':', '_of_')}", settings, values)
    rows = [asdict(result) for result in results]
    save_figure(draw_masks(results), folder / "masks.png")
    write_csv(folder / "report.csv", [{**row, "dense": " ".join(row["dense"])} for row in rows])
    write_json(folder / "report.json", rows)
