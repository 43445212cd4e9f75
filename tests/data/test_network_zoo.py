import csv
import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from scipy.stats import kendalltau
from torch import Tensor

from metaprune_pl.data.network_zoo import Batches, NetworkZoo
from metaprune_pl.errors import ConfigError, DataError
from metaprune_pl.metanetworks import ScalePredictor, load_metanetwork
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    create_network,
    read_card,
    save_network,
)
from metaprune_pl.stages import AccuracyPrediction, OptimizerSettings

SETTINGS = NetworkSettings(builder="small_cnn", arguments={"width": 4, "num_classes": 3})
LAYOUT = """varname,start_idx,end_idx,size,shape
sequential/conv2d/bias:0,0,4,4,"(4,)"
sequential/conv2d/kernel:0,4,40,36,"(3, 3, 1, 4)"
sequential/conv2d_1/bias:0,40,44,4,"(4,)"
sequential/conv2d_1/kernel:0,44,188,144,"(3, 3, 4, 4)"
sequential/conv2d_2/bias:0,188,192,4,"(4,)"
sequential/conv2d_2/kernel:0,192,336,144,"(3, 3, 4, 4)"
sequential/dense/bias:0,336,339,3,"(3,)"
sequential/dense/kernel:0,339,351,12,"(4, 3)"
"""


def network(seed: int) -> dict[str, Tensor]:
    return create_network("small_cnn", seed=seed, **SETTINGS.arguments).state_dict()


def row(state: dict[str, Tensor]) -> np.ndarray[Any, Any]:
    """A network as a row of the public zoo."""
    parts = []
    for layer in ("features.0", "features.3", "features.6", "classifier"):
        kernel = state[f"{layer}.weight"]
        turned = kernel.t() if kernel.dim() == 2 else kernel.permute(2, 3, 1, 0)
        parts += [state[f"{layer}.bias"], turned.flatten()]
    return torch.cat([part.flatten() for part in parts]).numpy()


def public_zoo(folder: Path, trainings: int = 12) -> Path:
    """Snapshots at epochs 20 and 86 of small networks, every third of them with tanh."""
    rows, metrics = [], []
    for training in range(trainings):
        for step in (20, 86):
            rows.append(row(network(100 * training + step)))
            activation = "tanh" if training % 3 == 2 else "relu"
            metrics.append([f"dir/{training}", step, 0.1 + 0.05 * training, activation, "unused"])
    folder.mkdir(exist_ok=True)
    np.save(folder / "weights.npy", np.stack(rows))
    (folder / "layout.csv").write_text(LAYOUT)
    with gzip.open(folder / "metrics.csv.gz", "wt", newline="") as file:
        header = ["modeldir", "step", "test_accuracy", "config.activation", "config.dropout"]
        csv.writer(file).writerows([header, *metrics])
    return folder


def stored_zoo(folder: Path, bases: int = 8) -> Path:
    """Two copies of each base network, of two architectures."""
    for base in range(bases):
        for copy in range(2):
            width = 4 + base % 2
            settings = NetworkSettings(builder="small_cnn", arguments={"width": width})
            record = {"base": f"base_{base}", "validation_accuracy": 0.1 * base}
            card = NetworkCard(settings=settings, input_shape=(1, 32, 32), record=record)
            built = create_network("small_cnn", seed=10 * base + copy, width=width)
            save_network(folder / f"{base}" / f"copy_{copy}", built, card)
    return folder


def test_the_public_zoo_is_read_as_the_networks_that_it_holds(tmp_path: Path) -> None:
    zoo = NetworkZoo(str(public_zoo(tmp_path)))
    zoo.setup("fit")
    (one,) = zoo.architectures
    assert one.bases == [f"dir/{i}" for i in range(12) if i % 3 != 2]
    for index, base in enumerate(one.bases):
        training = int(base.rpartition("/")[2])
        for name, value in network(100 * training + 86).items():
            assert torch.equal(one.state[name][index], value)
        assert one.accuracy[index] == pytest.approx(0.1 + 0.05 * training)
    tanh = NetworkZoo(str(tmp_path), activation="tanh", step=None)
    tanh.setup("fit")
    assert len(tanh.architectures[0].bases) == 8


def test_no_base_network_is_in_two_parts_and_every_network_in_one(tmp_path: Path) -> None:
    zoo = NetworkZoo(str(stored_zoo(tmp_path)), batch_size=3, validation_share=0.3, test_share=0.2)
    zoo.setup("fit")
    assert len(zoo.architectures) == 2
    seen: dict[str, set[str]] = {}
    count = 0
    for part, own in zoo.parts.items():
        seen[part] = {
            zoo.architectures[a].bases[i] for a, indices in enumerate(own) for i in indices
        }
        count += sum(len(indices) for indices in own)
    assert count == 16 and all(seen.values())
    assert (
        not seen["train"] & seen["val"] | seen["train"] & seen["test"] | seen["val"] & seen["test"]
    )
    batches = list(zoo.train_dataloader())
    assert sum(len(batch.accuracy) for batch in batches) == 2 * len(seen["train"])
    for batch in batches:
        width = batch.state["classifier.weight"].shape[2]
        assert width == zoo.architectures[batch.architecture].state["classifier.weight"].shape[2]


def test_the_order_is_drawn_anew_for_each_epoch_and_the_same_again() -> None:
    batches = Batches([range(7), range(4)], 3, seed=1)  # type: ignore[list-item]
    first = list(batches)
    assert sorted(i for batch in first for i in batch) == list(range(11))
    assert len(first) == len(batches) == 5
    batches.set_epoch(1)
    assert list(batches) != first
    batches.set_epoch(0)
    assert list(batches) == first


def metrics(step: str = "86", accuracy: str = "0.5") -> bytes:
    header = "modeldir,step,test_accuracy,config.activation"
    return gzip.compress(f"{header}\ndir/0,{step},{accuracy},relu\n".encode(), mtime=0)


def several_arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, np.zeros(3), np.zeros(2))
    return file.getvalue()


def of_shape(*sizes: int) -> bytes:
    """A file that says so, without a number in it."""
    file = io.BytesIO()
    facts = {"descr": "<f4", "fortran_order": False, "shape": sizes}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.getvalue()


def damaged(folder: Path, name: str, content: bytes) -> Path:
    public_zoo(folder)
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("weights.npy", b"\x93NUMPY", "weights.npy is damaged"),
        ("weights.npy", b"", "weights.npy is damaged"),
        ("weights.npy", b"PK\x03\x04", "weights.npy is damaged"),
        ("weights.npy", several_arrays(), "holds several arrays"),
        ("weights.npy", of_shape(2**62, 10), "weights.npy is damaged"),
        ("metrics.csv.gz", b"no gzip", "metrics.csv.gz is damaged"),
        ("metrics.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0), "needs the columns modeldir"),
        ("metrics.csv.gz", metrics(step="nan"), "needs the columns modeldir"),
        ("metrics.csv.gz", metrics(step="inf"), "needs the columns modeldir"),
        ("metrics.csv.gz", metrics(accuracy="57.2"), "57.2 is not from 0 to 1"),
        ("metrics.csv.gz", metrics(accuracy="nan"), "nan is not from 0 to 1"),
        ("layout.csv", b"varname,shape\n", "not that of small_cnn"),
        ("layout.csv", LAYOUT.replace("(4, 3)", "__import__('os')").encode(), "not that of small"),
        ("layout.csv", LAYOUT.replace("351", "350").encode(), "not that of small_cnn"),
        ("layout.csv", LAYOUT.replace("0,44,188", "0,48,192").encode(), "begins where the one"),
    ],
)
def test_damaged_files_are_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        NetworkZoo(str(damaged(tmp_path, name, content))).setup("fit")


def test_pickled_weights_too_few_networks_and_senseless_shares_are_refused(tmp_path: Path) -> None:
    public_zoo(tmp_path / "pickled")
    np.save(tmp_path / "pickled/weights.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"weights\.npy is damaged"):
        NetworkZoo(str(tmp_path / "pickled")).setup("fit")
    with pytest.raises(DataError, match="networks of 1 trainings: too few"):
        NetworkZoo(str(stored_zoo(tmp_path / "one", bases=1))).setup("fit")
    with pytest.raises(DataError, match="no stored network in"):
        NetworkZoo(str(tmp_path / "none")).setup("fit")
    for accuracy in ("high", 57.2, None):
        card = read_card(stored_zoo(tmp_path / "wrong", bases=1) / "0/copy_0")
        record = {**card.record, "validation_accuracy": accuracy}
        built = create_network("small_cnn", seed=0, **card.settings.arguments)
        save_network(tmp_path / "wrong/0/copy_0", built, replace(card, record=record))
        with pytest.raises(DataError, match="no accuracy from 0 to 1"):
            NetworkZoo(str(tmp_path / "wrong")).setup("fit")
    for shares in ({"test_share": 0.0}, {"validation_share": 1.0}, {"test_share": float("nan")}):
        with pytest.raises(ConfigError, match="above 0 and together below 1"):
            NetworkZoo("zoo", **shares)


def test_where_tau_is_not_known_the_last_epoch_is_kept(tmp_path: Path) -> None:
    folder = stored_zoo(tmp_path / "zoo")
    for path in folder.rglob("network.json"):
        card = json.loads(path.read_text())
        card["record"]["validation_accuracy"] = 0.5
        path.write_text(json.dumps(card))
    zoo = NetworkZoo(str(folder), validation_share=0.4, test_share=0.3)
    optimizer = OptimizerSettings(name="adamw", lr=0.01, schedule="constant")
    stage = AccuracyPrediction(predictor=ScalePredictor(layers=1, hidden=6), optimizer=optimizer)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **quiet).fit(stage, zoo)
    assert json.loads((tmp_path / "predictor/metanetwork.json").read_text())["record"] == {
        "epoch": 2
    }
    loaded = load_metanetwork(tmp_path / "predictor", ScalePredictor)
    for a, b in zip(loaded.parameters(), stage.predictor.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_predictor_learns_and_is_stored_with_the_best_tau(tmp_path: Path) -> None:
    zoo = NetworkZoo(str(stored_zoo(tmp_path / "zoo")), validation_share=0.4, test_share=0.3)
    predictor = ScalePredictor(layers=1, hidden=6)
    optimizer = OptimizerSettings(name="adamw", lr=0.01, schedule="constant")
    stage = AccuracyPrediction(predictor=predictor, optimizer=optimizer)
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=4, default_root_dir=tmp_path, enable_checkpointing=False, **options
    )
    trainer.fit(stage, zoo)
    (result,) = trainer.validate(stage, zoo, verbose=False)
    predicted, true = [], []
    with torch.no_grad():
        for batch in zoo.val_dataloader():
            predicted += stage(batch).tolist()
            true += batch.accuracy.tolist()
    assert len(set(true)) < len(true)  # ties
    assert result["val/tau"] == pytest.approx(kendalltau(predicted, true)[0], abs=1e-6)
    assert result["val/tau"] == pytest.approx(stage.best["tau"], abs=1e-6)
    predicted, true = [], []
    with torch.no_grad():
        for batch in zoo.test_dataloader():
            predicted += stage(batch).tolist()
            true += batch.accuracy.tolist()
    record = json.loads((tmp_path / "predictor/metanetwork.json").read_text())["record"]
    assert record["test_tau"] == pytest.approx(kendalltau(predicted, true)[0], abs=1e-6)
    loaded = load_metanetwork(tmp_path / "predictor", ScalePredictor)
    for a, b in zip(loaded.parameters(), predictor.parameters(), strict=True):
        assert torch.equal(a, b)
