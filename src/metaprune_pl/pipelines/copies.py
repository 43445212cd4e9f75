"""Copies of data models with zeros."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from metaprune_pl.data import ImageDataModule
from metaprune_pl.networks import load_network, read_card
from metaprune_pl.pruning.copies import Copies
from metaprune_pl.runs.context import Context
from metaprune_pl.runs.once import store, train_once
from metaprune_pl.stages.training_settings import FinetuneSettings


@dataclass(frozen=True, kw_only=True)
class CopySettings(Copies):
    """Copies of each data model, for a zoo.

    Attributes:
        finetune: Training of each copy, which is stored before and after it.
    """

    finetune: FinetuneSettings = field(default_factory=lambda: FinetuneSettings(epochs=0))


def make_copies(
    context: Context,
    data: ImageDataModule,
    sources: Sequence[Path],
    settings: CopySettings,
    seed: int,
) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Mask copies of stored networks, and finetune them.

    Args:
        context: Where to work.
        data: The images.
        sources: Folders of the networks.
        settings: How many copies, and of which kind.
        seed: Of what is drawn.

    Returns:
        Name, folder and facts of each.
    """
    images = partial(data.evaluation, "validation", context.device)
    for index, copy in enumerate(settings.draw(len(sources), seed)):
        name = f"copy_{index:02d}"
        source = sources[copy.source]
        card = read_card(source)
        example = card.example(context.device)
        pruned = copy.of(load_network(source).to(context.device), example, images)
        assert pruned.masks is not None
        masked = context.folder / name / "masked"
        own = replace(card.without_accuracies(), masked=sorted(pruned.masks.kept))
        store(context, masked, pruned.network, own)
        facts = {"share": copy.share, "criterion": str(copy.criterion), "of": source.name}
        yield name, masked, facts
        if settings.finetune.length:
            inside = replace(context, folder=context.folder / name)
            build = partial(settings.finetune.build, teacher=source)
            trained = train_once(inside, data, settings.finetune, masked, build)
            yield f"{name}_finetuned", trained, facts
