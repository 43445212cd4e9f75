"""Results on disk are read as they were written, old ones too; damaged ones are a line."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from metaprune_pl.errors import StorageError
from metaprune_pl.files import write_json
from metaprune_pl.reports import Curve, CurvePoint, Detected, Masked, Pruned, Result, Selection
from metaprune_pl.reports.writing import read_report

ACCURACIES = {"accuracy_given": 0.9, "accuracy_before": 0.9, "accuracy_finetuned": 1.0}
PRUNED = Pruned(
    network="net",
    method="none",
    target=2.0,
    speed_up=2.1,
    macs=100,
    parameters=10,
    accuracy_pruned=0.5,
    latency={"1": 0.2},
    **ACCURACIES,
)
MASKED = Masked(
    network="net",
    method="none",
    target="2:4",
    left=0.5,
    parameters=10,
    dense=["conv1"],
    accuracy_masked=0.5,
    **ACCURACIES,
)
DETECTED = Detected(
    method="none",
    target=2.5,
    speed_up=2.6,
    macs=100,
    parameters=10,
    milliseconds=1.0,
    milliseconds_unpruned=2.0,
    average_precision=0.4,
    average_precision_50=0.6,
)
POINT = CurvePoint(speed_up=1.0, accuracy=0.9, macs=100, parameters=10)
CURVE = Curve(network="net", method="none", split="test", points=[POINT])
CHOICE = Selection(
    metanetwork="fit/metanetworks/epoch_0001",
    curves={"epoch_0001": [CURVE]},
    candidates=1,
    accuracy=0.9,
    target=0.88,
    last_kept=None,
    milestone=None,
)
READERS: list[tuple[Any, Callable[[Path], Any]]] = [
    (PRUNED, Pruned.read),
    (MASKED, Masked.read),
    (DETECTED, Detected.read),
    (CURVE, Curve.from_json),
    (CHOICE, Selection.from_json),
]
FILE = Path("result.json")


@pytest.mark.parametrize(("result", "read"), READERS)
def test_round_trip(result: Any, read: Callable[[Path], Any], workdir: Path) -> None:
    write_json(FILE, asdict(result))
    assert read(FILE) == result


@pytest.mark.parametrize(("result", "read"), READERS)
@pytest.mark.parametrize("value", [None, [], {}, "text", -0.5, [[1]], {"a": {"b": 1}}])
def test_any_other_value_is_a_line(
    result: Any, read: Callable[[Path], Any], value: Any, workdir: Path
) -> None:
    plain = json.loads(json.dumps(asdict(result)))
    for damaged in (value, *({**plain, name: value} for name in plain)):
        write_json(FILE, damaged)
        try:
            again = read(FILE)
        except StorageError as error:
            assert str(FILE) in str(error) and "\n" not in str(error)
        else:  # a value that may stand there
            assert json.loads(json.dumps(asdict(again))) == {**plain, **damaged}


@pytest.mark.parametrize(("result", "read"), READERS)
def test_a_missing_key_and_half_a_file(
    result: Any, read: Callable[[Path], Any], workdir: Path
) -> None:
    plain = asdict(result)
    del plain["method" if "method" in plain else "metanetwork"]
    write_json(FILE, plain)
    with pytest.raises(StorageError, match="damaged"):
        read(FILE)
    FILE.write_text(FILE.read_text()[:30])
    with pytest.raises(StorageError, match="cannot read"):
        read(FILE)


def test_what_older_programs_wrote(workdir: Path) -> None:
    plain = asdict(PRUNED)
    for name in ("accuracy_stale", "plan", "latency", "latency_unpruned"):
        del plain[name]
    write_json(FILE, plain)
    assert Pruned.read(FILE).accuracy_finetuned == 1.0
    old = {key.removeprefix("average_"): value for key, value in asdict(DETECTED).items()}
    write_json(FILE, old)
    assert Detected.read(FILE) == DETECTED
    bare = {"speed_up": 1.0, "accuracy": 0.9, "macs": 100, "parameters": 10}
    write_json(FILE, {"network": "net", "method": "none", "split": "test", "points": [bare]})
    assert Curve.from_json(FILE) == CURVE
    derived = {"reason": CHOICE.reason}
    write_json(FILE, {**derived, **asdict(CHOICE)})
    assert Selection.from_json(FILE) == CHOICE


@pytest.mark.parametrize("result", [PRUNED, MASKED])
def test_reports(result: Result, workdir: Path) -> None:
    file = Path("report.json")
    write_json(file, [asdict(result)])
    assert read_report(Path(), type(result)) == [result]
    for damaged in ({}, [1], [{**asdict(result), "network": 1}]):
        write_json(file, damaged)
        with pytest.raises(StorageError, match=r"report\.json is damaged"):
            read_report(Path(), type(result))
