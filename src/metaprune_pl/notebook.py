"""What a notebook or script starts with, in a line each, with sensible defaults."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import yaml
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from metaprune_pl import graphs, pruning
from metaprune_pl.errors import ConfigError, NetworkError, TraceError, did_you_mean
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.metanetworks.base import Rewriter
from metaprune_pl.networks.checks import check_layers
from metaprune_pl.networks.examples import Example
from metaprune_pl.networks.open import usual_input
from metaprune_pl.networks.widths import copy_network, put_state
from metaprune_pl.pruning import Elimination, Importance, Magnitude, PruningSettings, SpeedUp
from metaprune_pl.pruning.importance import Images
from metaprune_pl.pruning.rankings import Ranking
from metaprune_pl.runs.arguments import plain
from metaprune_pl.runs.command import Run, check, seed
from metaprune_pl.runs.context import Context
from metaprune_pl.settings.parsing import parser_of
from metaprune_pl.stages.quiet import quiet
from metaprune_pl.stages.tasks.base import LearningTask
from metaprune_pl.stages.trainer import StageTrainer

REPAIR = 1024
"""Images that a repair measures."""

Batches = Iterable[Tensor | Sequence[Tensor]]
"""Batches of images, [B, C, H, W], or of images with labels, [B]."""
_OBJECTS = (LightningDataModule, LearningTask)
"""What a command takes that no text stands for in Python."""
T = TypeVar("T")


def trace(network: nn.Module, example: Example | None = None) -> graphs.WeightGraph:
    """Turn a network into a graph.

    Args:
        network: Left as it is.
        example: An input, or a batch of them: images [B, C, H, W], a tuple of positional arguments,
            or a dictionary of keyword arguments; None guesses the shape of an image.

    Raises:
        NetworkError: The network is none, or cannot be copied.
        TraceError: The network cannot be turned into a graph.
    """
    copied = _copied(network)
    with _traced(copied, example) as given:
        return graphs.trace(copied, given)


def rewrite(
    network: nn.Module, metanetwork: Rewriter | str | Path, example: Example | None = None
) -> nn.Module:
    """Return a copy of a network, in evaluation mode, with the weights that a metanetwork gives it.

    Args:
        network: Left as it is.
        metanetwork: The metanetwork, or the folder of a stored one.
        example: An input, or a batch of them: images [B, C, H, W], a tuple of positional arguments,
            or a dictionary of keyword arguments; None guesses the shape of an image.

    Raises:
        StorageError: There is no such metanetwork.
        TraceError: It does not go with the network.
    """
    copied = _copied(network)
    loaded = metanetwork
    if not isinstance(loaded, Rewriter):
        loaded = load_metanetwork(str(loaded))
    with torch.no_grad(), _traced(copied, example) as given:
        graph = graphs.trace(copied, given)
        put_state(copied, loaded.rewrite(graph, copied.state_dict()))
    return copied


def prune(
    network: nn.Module,
    speed_up: float = 2.0,
    *,
    example: Example | None = None,
    criterion: Importance | None = None,
    settings: PruningSettings | None = None,
    images: Images | Batches | Tensor | None = None,
) -> nn.Module:
    """Return a copy of a network, in evaluation mode, without its least important channels.

    It costs `speed_up` times less, and is to be trained further. With images its layers are
    repaired: they come as close as they can to what they gave before.

    Args:
        network: Left as it is.
        speed_up: Multiply-accumulates of the network over those of the result.
        example: An input, or a batch: see `trace`; None takes an image, or guesses its shape.
        criterion: Which channels matter; None is `Elimination`, or without images the group norm,
            `Magnitude`, by which every layer loses the same share.
        settings: The cost, steps and floors; None leaves each layer at least a tenth of its
            channels, of any number: `PruningSettings(round_to="auto")` keeps multiples of 8.
        images: What is measured, on the network's device: [B, C, H, W], or batches, alone or with
            labels [B]: a list, a DataLoader, a function, or an iterator (its first 1,024 images).

    Raises:
        ConfigError: The speed-up makes no sense.
        NetworkError: The network is none, or cannot be copied.
        PruningError: It is out of reach, or nothing in the network can be pruned.
        TraceError: The network cannot be turned into a graph.
    """
    copied = _copied(network)
    if images is not None:
        images = _restarted(images)
        example = _first(images, 1) if example is None else example
    usual = _settings("uniform" if images is None and criterion is None else "global")
    target = SpeedUp(value=speed_up, settings=settings or usual)
    with _traced(copied, example) as given:
        unpruned = pruning.examine(copied, given, attention=target.settings.attention)
    target.check(copied, unpruned)
    chosen = criterion or (Magnitude() if images is None else Elimination())
    (pruned,) = target.reach([target], copied, unpruned, chosen, images)
    if images is not None and pruned.kept is not None:
        _repair(copied, unpruned.graph, pruned.network, pruned.kept, _first(images, REPAIR))
    return pruned.network


def _settings(ranking: Ranking) -> PruningSettings:
    return PruningSettings(step=1.0, max_ratio=0.9, ranking=ranking)


def _repair(
    source: nn.Module, graph: graphs.WeightGraph, network: nn.Module, kept: Tensor, images: Tensor
) -> None:
    """Repair a pruned network in place: see `pruning.repair`."""
    for _ in pruning.repair(source, network, graph, kept, images):
        pass


def _restarted(images: Images | Batches | Tensor) -> Images:
    """Return what starts over images; of an iterator, that may have no end, so many as count."""
    if isinstance(images, Iterator):
        return partial(iter, [*_enough(_pairs(images), REPAIR)])
    return partial(_pairs, images)


def _pairs(images: Images | Batches | Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Give batches of images with labels; those without have none, [0].

    Raises:
        ConfigError: A batch is something else.
    """
    batches = images() if callable(images) else images
    for batch in [batches] if isinstance(batches, Tensor) else batches:
        if isinstance(batch, Tensor) and batch.dim() > 1:
            yield batch, batch.new_empty(0)
        elif isinstance(batch, Sequence) and isinstance(batch[0], Tensor):
            yield batch[0], batch[1] if len(batch) > 1 else batch[0].new_empty(0)
        else:
            shape = f" of shape {list(batch.shape)}" if isinstance(batch, Tensor) else ""
            raise ConfigError(
                f"images: a batch is a {type(batch).__name__}{shape}; give a list of tensors "
                "[B, C, H, W], or of pairs of these and labels [B]."
            )


def _enough(
    batches: Iterable[tuple[Tensor, Tensor]], count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give batches until they have so many images."""
    for batch, labels in batches:
        yield batch, labels
        count -= len(batch)
        if count <= 0:
            return


def _first(images: Images, count: int) -> Tensor:
    """Return the first of some images, [B, C, H, W].

    Raises:
        ConfigError: There are none.
    """
    batches = [batch for batch, _ in _enough(images(), count)]
    if not batches:
        raise ConfigError("images: there are none.")
    return torch.cat(batches)[:count]


@quiet()
def run(
    command: Callable[..., T],
    folder: str | Path,
    *,
    trainer: Mapping[str, Any] | None = None,
    seed_everything: int | bool = 0,
    **arguments: Any,
) -> T:
    """Run a command in a folder of its own, as the command line does, and return its result.

    What is there of the same run is not made again.

    Args:
        command: Its function, such as `metaprune_pl.pipelines.prune.prune`.
        folder: Where its files go.
        trainer: Settings of Lightning's Trainer, such as `{"accelerator": "gpu"}`.
        seed_everything: Seed of all generators; true draws one, false leaves them alone.
        arguments: Those of the function.

    Raises:
        MetapruneError: The folder holds something else, or whatever the command raises.
    """
    _check_arguments(command, arguments)
    settings = {**(trainer or {}), "default_root_dir": str(folder)}
    drawn = seed(seed_everything)
    check(command, arguments, settings)
    parameters = inspect.signature(command).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    arguments = {**defaults, **arguments}
    config = {"seed_everything": drawn, "trainer": settings, **arguments}
    surrounding = Run(
        command=command.__name__,
        trainer=StageTrainer(**settings),
        config=yaml.safe_dump(plain(config), sort_keys=False),
        arguments=arguments,
        quiet=True,
    )
    context = Context.of(surrounding.trainer, seed=drawn)
    result = surrounding.execute(lambda: command(context, **arguments))
    return cast(T, result)


def _check_arguments(command: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a command has not, and the lack of those that it needs.

    Raises:
        ConfigError: One is unknown, missing or of another class.
    """
    if not callable(command):
        raise ConfigError(
            f"{command!r} is no function; give metaprune_pl.pipelines.prune.prune, say."
        )
    parser = parser_of(command)
    known = {name.partition(".")[0] for name in parser.get_defaults().keys()}
    known -= {"config", "seed_everything", "trainer"}
    name = command.__name__
    for argument in arguments.keys() - known:
        hint = did_you_mean(argument, known) or f" It has {', '.join(sorted(known))}."
        raise ConfigError(f"{name} has no argument '{argument}'.{hint}")
    if missing := [key for key in parser.required if key not in arguments]:
        raise ConfigError(f"{name} needs the argument '{missing[0]}'.")
    for parameter in inspect.signature(command).parameters.values():
        value, kind = arguments.get(parameter.name), parameter.annotation
        if value is not None and inspect.isclass(kind) and issubclass(kind, _OBJECTS):
            if not isinstance(value, kind):
                given = type(value).__name__
                raise ConfigError(f"{parameter.name} is a {given}, not of class {kind.__name__}.")


def _copied(network: nn.Module) -> nn.Module:
    """Return a copy of a network, in evaluation mode.

    Raises:
        NetworkError: It is none, has no weights yet, or cannot be copied.
    """
    if not isinstance(network, nn.Module):
        kind = "class" if isinstance(network, type) else type(network).__name__
        raise NetworkError(f"the network is a {kind}: give an instance of torch.nn.Module.")
    check_layers(network, "the network")
    if any(parameter.is_meta for parameter in network.parameters()):
        raise NetworkError(
            "the network is on the meta device, without weights. Build it on another."
        )
    try:
        return copy_network(network).eval()
    except (TypeError, RuntimeError) as error:
        raise NetworkError(
            f"the network cannot be copied: {error}. Take what is no tensor out of its attributes."
        ) from error


@contextmanager
def _traced(network: nn.Module, example: Example | None) -> Iterator[Example]:
    """Give the input that a network is traced with; where it was guessed, an error says so."""
    if example is not None:
        yield example
        return
    weight = next(network.parameters(), torch.zeros(()))
    try:
        yield weight.new_zeros(1, *usual_input(network))
    except TraceError as error:
        raise TraceError(f"{error} Its input was guessed: give example=INPUT.") from error
