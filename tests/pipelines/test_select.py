"""The choice of a metanetwork: binary search against all curves, figures, and resuming."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import QUIET
from metaprune_pl.__main__ import main
from metaprune_pl.metanetworks import load_metanetwork
from metaprune_pl.metanetworks.search import SearchSettings
from metaprune_pl.networks import read_card
from metaprune_pl.reports import Cost, Curve, CurvePoint, Experiment, Selection, StageCost
from metaprune_pl.reports.choice import Shape, best_shape, shapes_of
from metaprune_pl.reports.summary import amortised, break_even, cost_sentence, flat_region_sentence


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 100])
def test_binary_search_finds_the_last_epoch_that_keeps_accuracy_in_few_questions(
    count: int,
) -> None:
    for kept in range(count + 1):
        asked: list[int] = []

        def keeps(number: int, kept: int = kept, asked: list[int] = asked) -> bool:
            asked.append(number)
            return number < kept

        assert SearchSettings(how="binary").count_kept(count, keeps) == kept
        assert len(set(asked)) == len(asked) <= math.log2(count) + 1
        assert asked[0] == count // 2  # the middle epoch first
        assert SearchSettings(how="all").count_kept(count, keeps) == kept


def curve(*accuracies: float) -> Curve:
    points = [
        CurvePoint(speed_up=1.0 + n, accuracy=a, macs=1, parameters=1)
        for n, a in enumerate(accuracies)
    ]
    return Curve(network="a", method="metanetwork", split="validation", points=points)


TARGET = 0.91
SHAPES: dict[str, tuple[dict[str, list[tuple[float, ...]]], str]] = {
    "the longest that keeps the target": (
        {"a": [(0.92, 0.92, 0.5)], "b": [(0.91, 0.91, 0.91)], "c": [(0.85, 0.85, 0.85)]},
        "b",
    ),
    "a large area below the target is none": (
        {"a": [(0.85, 0.85, 0.85)], "b": [(0.92, 0.92, 0.2)], "c": [(0.95, 0.3, 0.2)]},
        "b",
    ),
    "exactly the target is kept": ({"a": [(0.91, 0.91, 0.9)], "b": [(0.99, 0.5, 0.5)]}, "a"),
    "equally long: the larger area": (
        {"a": [(0.91, 0.91, 0.91)], "b": [(0.93, 0.93, 0.93)], "c": [(0.92, 0.92, 0.92)]},
        "b",
    ),
    "equal in all: the first": ({"a": [(0.92, 0.92)], "b": [(0.92, 0.92)]}, "a"),
    "none keeps it: the most accurate": (
        {"a": [(0.5, 0.5, 0.5)], "b": [(0.64, 0.2, 0.1)], "c": [(0.6, 0.6, 0.6)]},
        "b",
    ),
    "one epoch": ({"a": [(0.1, 0.1)]}, "a"),
    "one point": ({"a": [(0.92,)], "b": [(0.93,)]}, "b"),
    "the mean of two networks": (
        {"a": [(0.92, 0.92, 0.92), (0.92, 0.92, 0.5)], "b": [(0.92, 0.92, 0.5)] * 2},
        "a",
    ),
    "the mean of two networks keeps it": (
        {"a": [(0.94, 0.94), (0.89, 0.89)], "b": [(0.99, 0.99), (0.8, 0.8)]},
        "a",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_longest_flat_region_at_the_target_is_taken(case: str) -> None:
    drawn, expected = SHAPES[case]
    shapes = {
        name: Shape.of([curve(*accuracies) for accuracies in networks])
        for name, networks in drawn.items()
    }
    assert best_shape(shapes, TARGET) == expected


def test_a_step_beyond_the_last_target_makes_no_flat_region_longer() -> None:
    def to(end: float, accuracy: float) -> Curve:
        drawn = curve(accuracy, accuracy)
        return replace(drawn, points=[drawn.points[0], replace(drawn.points[1], speed_up=end)])

    drawn = {"a": [to(4.02, 0.95)], "b": [to(4.0, 0.99)]}
    shapes = shapes_of(drawn)
    assert [shape.flat_region for shape in shapes.values()] == [4.0, 4.0]
    assert best_shape(shapes, TARGET) == "b"  # the larger area
    epochs = [Path("a"), Path("b")]
    curves = dict(enumerate(drawn.values()))
    selection = Selection.of(epochs, curves, 2, accuracy=0.9, target=TARGET, milestone=None)
    assert (selection.chosen, selection.shapes) == ("b", shapes)


def test_the_shape_of_two_networks_is_the_mean() -> None:
    shape = Shape.of([curve(0.9, 0.9, 0.5), curve(0.8, 0.8, 0.8)])
    assert shape.accuracy == pytest.approx(0.85)
    assert shape.flat_region == pytest.approx((2 + 0.02 / 0.4 + 3) / 2)
    assert shape.area == pytest.approx((0.8 + 0.8) / 2)


@pytest.mark.parametrize(
    ("target", "last_kept", "milestone", "said"),
    [
        (
            0.95,
            None,
            None,
            "None of 2 drawn of 3 keeps 95.00 % in the flat region (before the metanetwork: "
            "96.00 %): epoch_002 is the most accurate, 93.00 % of the validation images in the "
            "flat region, flat to 1.10x, area 0.8300. Meta-train with a lower learning rate or "
            "sparsity weight.",
        ),
        (
            0.93,
            "epoch_002",
            None,
            "epoch_002 has the longest flat region of those that keep 93.00 % (before the "
            "metanetwork: 96.00 %), 2 drawn of 3: 93.00 % of the validation images in the flat "
            "region, flat to 1.10x, area 0.8300. All up to the last, epoch_002, do: longer "
            "training may bring more.",
        ),
        (
            0.93,
            "epoch_002",
            2,
            "That is possible up to epoch_002: a new meta-training may lower its learning rate "
            "there, `milestones: [2]`.",
        ),
        (0.93, None, None, "Earlier epochs do not keep it."),
    ],
)
def test_the_choice_says_why(
    target: float, last_kept: str | None, milestone: int | None, said: str
) -> None:
    selection = Selection(
        metanetwork="m/epoch_002",
        curves={"epoch_001": [curve(0.9, 0.5)], "epoch_002": [curve(0.93, 0.73)]},
        candidates=3,
        accuracy=0.96,
        target=target,
        last_kept=last_kept,
        milestone=milestone,
    )
    assert selection.reason.endswith(said)
    assert [row["area"] for row in selection.rows()] == pytest.approx([0.7, 0.83])
    assert [row["chosen"] for row in selection.rows()] == [False, True]


@pytest.mark.parametrize("target", [0.93, 0.931])
def test_one_epoch_below_the_target_says_so(target: float) -> None:
    drawn = {0: [curve(0.93, 0.73)]}
    kept = int(target <= 0.93)
    only = Selection.of([Path("m")], drawn, kept, accuracy=0.96, target=target, milestone=None)
    missed = "That is below the target, 93.10 %."
    assert only.reason.startswith("m is the only one to choose from: 93.00 %")
    assert only.reason.endswith(missed) == (kept == 0)


def chosen(line: Path, folder: str, *flags: str) -> dict[str, object]:
    runs = line / "runs" / "quickstart"
    main(
        [
            "select",
            "--config=select_quickstart.yaml",
            "--finetune.epochs=1",
            "--grid={points: 4, max_speed_up: 3}",
            "--pruning.step=0.05",
            f"--network={runs / 'data_models/networks/seed_0000'}",
            f"--metanetwork={runs / 'meta_training/metanetworks'}",
            f"--trainer.default_root_dir={folder}",
            *QUIET,
            *flags,
        ]
    )
    found: dict[str, object] = json.loads(Path(folder, "choice.json").read_text())
    return found


def recorded_accuracy(network: Path) -> float:
    """Validation accuracy of a data model, as its card has it."""
    recorded: float = read_card(network).record["validation_accuracy"]
    return recorded


def test_all_curves_and_binary_search(
    line: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = chosen(line, "all", "--search.how=all")
    assert list(every["curves"]) == ["epoch_001", "epoch_002"]  # type: ignore[call-overload]
    assert str(every["reason"]) in " ".join(capsys.readouterr().out.split())
    best = load_metanetwork(line / str(every["metanetwork"])).state_dict()
    assert all(
        torch.equal(value, best[name])
        for name, value in load_metanetwork("all").state_dict().items()
    )
    found = chosen(line, "binary", "--search.drop=0.9")  # every epoch keeps that: on to the last
    assert list(found["curves"]) == ["epoch_002"]  # type: ignore[call-overload]
    assert found["milestone"] is None
    other = line / "runs/quickstart/data_models/networks/seed_0004"
    found = chosen(line, "first", "--search.epochs=[1]", f"--others=[{other}]")
    assert "is the only one to choose from" in str(found["reason"])
    assert list(found["curves"]) == ["epoch_001"]  # type: ignore[call-overload]
    drawn = found["curves"]["epoch_001"]  # type: ignore[index]
    assert [curve["network"] for curve in drawn] == ["seed_0000", "seed_0004"]
    means = [recorded_accuracy(other.parent / name) for name in ("seed_0000", "seed_0004")]
    assert found["accuracy"] == pytest.approx(sum(means) / 2)
    with pytest.raises(SystemExit):
        chosen(line, "ninth", "--search.epochs=[9]")
    assert (
        "holds no metanetwork of these epochs" in capsys.readouterr().err
        and not Path("ninth").exists()
    )
    found = chosen(line, "strict", "--search.target=1.0")  # no epoch keeps that: back to the first
    assert list(found["curves"]) == ["epoch_001", "epoch_002"]  # type: ignore[call-overload]
    assert found["last_kept"] is None and "None of 2 drawn of 2 keeps 100.00 %" in str(
        found["reason"]
    )
    for name in ("choice.csv", "curves.png", "curves/epoch_002/seed_0000/curve.json"):
        assert Path("all", name).stat().st_size > 0
    drawn = Path("all/curves/epoch_001/seed_0000/curve.json")
    assert Curve.from_json(drawn).split == "validation"
    before = drawn.stat().st_mtime_ns
    Path("all/run.json").write_text(
        Path("all/run.json").read_text().replace('"finished": true', '"finished": false')
    )
    Path("all/curves/epoch_002/seed_0000/curve.json").unlink()
    assert chosen(line, "all", "--search.how=all") == every  # as if it had been stopped
    assert drawn.stat().st_mtime_ns == before


def test_test_images_are_refused(
    line: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        chosen(line, "test", "--grid.split=test")
    assert "a metanetwork is chosen by validation images" in capsys.readouterr().err


def cost(
    stage: str, method: str, seconds: float, *, once: bool = False, images: int = 10
) -> StageCost:
    return StageCost(
        stage=stage, method=method, once=once, cost=Cost(seconds=seconds, images=images)
    )


def test_cost_is_shared_by_the_networks() -> None:
    costs = [
        cost("data models", "", 60, once=True),
        cost("meta-training", "metanetwork", 40, once=True),
        cost("curve", "none", 5),
        cost("curve", "sparsity_learning", 12),
        cost("prune", "sparsity_learning", 8),
        cost("curve", "metanetwork", 8),
        cost("prune", "metanetwork", 8, images=5),
    ]
    assert amortised(costs) == {
        "none": (0, 5),
        "sparsity_learning": (0, 20),
        "metanetwork": (100, 16),
    }
    assert break_even(costs) == ("sparsity_learning", {"metanetwork": 25})  # 100 / (20 - 16)
    assert cost_sentence(costs).endswith(
        "the metanetwork pays for itself against sparsity learning after about 25 networks."
    )
    as_many = [*costs, cost("more", "metanetwork", 0, images=5)]
    assert "no number of networks: each of them is trained on as many" in cost_sentence(as_many)
    assert break_even(as_many)[1] == {"metanetwork": None}
    slower = [*costs, cost("more", "metanetwork", 5, images=0)]
    assert "for no number of networks: it is not faster" in cost_sentence(slower)
    never = [*costs, cost("more", "metanetwork", 5)]
    assert break_even(never)[1] == {
        "metanetwork": None
    } and "for no number of networks" in cost_sentence(never)


def test_a_flat_region_at_low_accuracy_says_nothing() -> None:
    none, low = (
        replace(curve(*values), method=m)
        for m, values in {"none": (0.9, 0.7), "metanetwork": (0.1, 0.1)}.items()
    )
    said = flat_region_sentence(Experiment(curves=[none, low]))
    assert "80.0 points below" in said and "says nothing" in said
    said = flat_region_sentence(
        Experiment(curves=[none, replace(low, points=curve(0.89, 0.88).points)])
    )
    assert "lengthens the flat region over no metanetwork: +0.90x" in said
