"""Networks with known accuracies, as data for predicting accuracies from weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from metaprune_pl.data.small_cnn_zoo import FILES, read_small_cnn_zoo
from metaprune_pl.errors import ConfigError, DataError
from metaprune_pl.graphs import WeightGraph, trace
from metaprune_pl.networks import NetworkCard, create_network, load_network, read_card
from metaprune_pl.networks.storage import ACCURACIES
from metaprune_pl.networks.widths import own_state


class ZooBatch(NamedTuple):
    """Networks of one architecture.

    Attributes:
        architecture: Its index.
        state: Parameters and buffers by name, stacked, [B, ...].
        accuracy: [B].
    """

    architecture: int
    state: dict[str, Tensor]
    accuracy: Tensor


@dataclass(frozen=True, eq=False)
class Architecture:
    """All networks of one architecture.

    Attributes:
        graph: Their topology.
        state: Parameters and buffers by name, stacked, [n, ...].
        accuracy: [n].
        bases: Which training each is a snapshot or a pruned copy of.
    """

    graph: WeightGraph
    state: dict[str, Tensor]
    accuracy: Tensor
    bases: list[str]

    def indices(self, bases: set[str]) -> list[int]:
        """Return the networks that come from some trainings."""
        return [index for index, base in enumerate(self.bases) if base in bases]


class NetworkZoo(LightningDataModule):
    """A zoo of networks, split by base network: snapshots and pruned copies of one lie together.

    Args:
        folder: Stored networks, at any depth, whose records tell an `accuracy` (or
            `validation_accuracy`) and perhaps the `base` that they come from; or the public zoo of
            small CNNs (weights.npy, metrics.csv.gz, layout.csv).
        activation: Of the public zoo, which networks to take: `relu` or `tanh`.
        step: Of the public zoo, the epoch of the snapshots; None takes all.
        batch_size: Networks of a batch; all of one architecture.
        validation_share: Share of the base networks to validate on.
        test_share: Share of the base networks to test on.
        seed: Of the split and of the order.

    Raises:
        ConfigError: A share or size makes no sense.
    """

    def __init__(
        self,
        folder: str,
        *,
        activation: str = "relu",
        step: int | None = 86,
        batch_size: int = 64,
        validation_share: float = 0.15,
        test_share: float = 0.15,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or not (
            0 < validation_share < 1 and 0 < test_share < 1 and validation_share + test_share < 1
        ):
            raise ConfigError(
                f"data: batch_size {batch_size} is at least 1; validation_share {validation_share} "
                f"and test_share {test_share} are above 0 and together below 1."
            )
        self.folder = Path(folder)
        self.activation = activation
        self.step = step
        self.batch_size = batch_size
        self.seed = seed
        self.shares = validation_share, test_share
        self.architectures: list[Architecture] = []
        self.parts: dict[str, list[list[int]]] = {}

    def setup(self, stage: str) -> None:
        """Read all networks and split them."""
        if not self.architectures:
            public = (self.folder / FILES[0]).is_file()
            self.architectures = [self._public()] if public else _stored(self.folder)
            self.parts = self._split()

    def _public(self) -> Architecture:
        rows = read_small_cnn_zoo(self.folder, activation=self.activation, step=self.step)
        outputs, width = rows.state["classifier.weight"].shape[1:]
        channels = rows.state["features.0.weight"].shape[2]
        network = create_network(
            "small_cnn",
            width=width,
            activation=self.activation,
            num_classes=outputs,
            in_channels=channels,
        )
        shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        if {name: tuple(value.shape[1:]) for name, value in rows.state.items()} != shapes:
            raise DataError(f"{self.folder}/layout.csv: the layout is not that of small_cnn.")
        graph = trace(network, torch.zeros(1, channels, 32, 32))
        return Architecture(
            graph,
            rows.state,
            rows.accuracy,
            rows.bases,
        )

    def _split(self) -> dict[str, list[list[int]]]:
        """Indices of each part, by architecture; a base network lies in one part."""
        bases = sorted({base for one in self.architectures for base in one.bases})
        counts = [max(1, round(share * len(bases))) for share in self.shares]
        if len(bases) <= sum(counts):
            raise DataError(
                f"'{self.folder}' has networks of {len(bases)} trainings: too few to train, "
                "validate and test on. Make more with `metaprune data_models`."
            )
        generator = torch.Generator().manual_seed(self.seed)
        order = [bases[i] for i in torch.randperm(len(bases), generator=generator)]
        ends = {"val": counts[0], "test": sum(counts), "train": len(bases)}
        parts = {}
        start = 0
        for name, end in ends.items():
            chosen = set(order[start:end])
            parts[name] = [one.indices(chosen) for one in self.architectures]
            start = end
        return parts

    def train_dataloader(self) -> "DataLoader[ZooBatch]":
        """Lightning's hook."""
        return self._loader("train")

    def val_dataloader(self) -> "DataLoader[ZooBatch]":
        """Lightning's hook."""
        return self._loader("val")

    def test_dataloader(self) -> "DataLoader[ZooBatch]":
        """Lightning's hook."""
        return self._loader("test")

    def _loader(self, part: str) -> "DataLoader[ZooBatch]":
        seed = self.seed if part == "train" else None
        batches = Batches(self.parts[part], self.batch_size, seed)
        pairs: Any = [(a, i) for a, own in enumerate(self.parts[part]) for i in own]
        return DataLoader(pairs, batch_sampler=batches, collate_fn=self._collate)

    def _collate(self, pairs: Sequence[tuple[int, int]]) -> ZooBatch:
        architecture = pairs[0][0]
        index = torch.tensor([i for _, i in pairs])
        own = self.architectures[architecture]
        state = {name: value[index] for name, value in own.state.items()}
        return ZooBatch(architecture, state, own.accuracy[index])


class Batches:
    """Batches of networks of one architecture each, in an order drawn anew for every epoch.

    Args:
        parts: Indices of networks, by architecture.
        size: Networks of a batch.
        seed: Of the order; None keeps it.
    """

    def __init__(self, parts: Sequence[Sequence[int]], size: int, seed: int | None) -> None:
        self.lengths = [len(p) for p in parts]
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning's hook."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of batches."""
        return sum(-(-length // self.size) for length in self.lengths)

    def __iter__(self) -> Iterator[list[int]]:
        """Indices in the list of all networks of a part."""
        generator = torch.Generator().manual_seed((self.seed or 0) * 100_003 + self.epoch)
        batches = []
        start = 0
        for length in self.lengths:
            order = torch.arange(length)
            if self.seed is not None:
                order = torch.randperm(length, generator=generator)
            batches += [(part + start).tolist() for part in order.split(self.size) if length]
            start += length
        if self.seed is None:
            yield from batches
        else:
            for index in torch.randperm(len(batches), generator=generator):
                yield batches[index]


def _same_settings(card: NetworkCard) -> tuple[str, dict[str, Any]]:
    """What networks of one architecture are built with: dropout is not theirs."""
    arguments = card.settings.arguments
    return card.settings.builder, {k: v for k, v in arguments.items() if "drop" not in k}


def _stored(folder: Path) -> list[Architecture]:
    """Read stored networks, those of equal shapes together."""
    members: dict[str, list[tuple[dict[str, Tensor], float, str]]] = {}
    graphs: dict[str, WeightGraph] = {}
    for path in sorted(folder.rglob("network.json")):
        card = read_card(path.parent)
        accuracy = next((card.record[name] for name in ACCURACIES if name in card.record), None)
        if not isinstance(accuracy, float | int) or not 0 <= accuracy <= 1:
            raise DataError(
                f"{path} tells no accuracy from 0 to 1: its record needs 'accuracy' or "
                "'validation_accuracy'."
            )
        network = load_network(path.parent).eval()
        key = repr((_same_settings(card), card.input_shape, card.layers))
        if key not in graphs:
            graphs[key] = trace(network, card.example())
        state = {name: value.detach() for name, value in own_state(network).items()}
        base = str(card.record.get("base", path.parent.relative_to(folder)))
        members.setdefault(key, []).append((state, float(accuracy), base))
    if not members:
        raise DataError(f"no stored network in '{folder}'. `metaprune data_models` makes some.")
    return [
        Architecture(
            graph=graphs[key],
            state={name: torch.stack([s[name] for s, _, _ in own]) for name in own[0][0]},
            accuracy=torch.tensor([accuracy for _, accuracy, _ in own]),
            bases=[base for _, _, base in own],
        )
        for key, own in members.items()
    ]
