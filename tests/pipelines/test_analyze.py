"""`metaprune analyze` on the tiny line: what it writes, and that histograms count every value."""

import csv
import io
from pathlib import Path

import pytest
import torch

from conftest import QUIET
from metaprune_pl.__main__ import main
from metaprune_pl.networks import load_network
from metaprune_pl.reports import Curve
from metaprune_pl.reports.analysis import BINS, Analysis, histograms
from metaprune_pl.reports.curves import FLAT_DROP
from metaprune_pl.reports.figures import draw_beside
from metaprune_pl.reports.statistics_figures import draw_analysis

STATISTICS = ["l1", "l2", "taylor", "correlation", "effective_rank", "norm_scale", "group_score"]


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def analyze(line: Path, *flags: str) -> None:
    runs = line / "runs" / "quickstart"
    main(
        [
            "analyze",
            "--config=analyze_quickstart.yaml",
            f"--network={runs / 'data_models/networks/seed_0002'}",
            f"--metanetwork={runs / 'meta_training/metanetworks'}",
            "--trainer.default_root_dir=run",
            *QUIET,
            *flags,
        ]
    )


def test_analyze_writes_tables_pictures_and_events(
    line: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    analyze(line, "--finetune.epochs=1", "--sample.images=100")
    printed = capsys.readouterr().out
    assert "after metanetwork and finetuning" in printed and "effective rank of a layer" in printed
    summary = table(Path("run/summary.csv"))
    assert [row["statistic"] for row in summary] == STATISTICS
    assert all(float(row["origin"]) > 0 and row["origin"] != row["after"] for row in summary)
    layers = table(Path("run/layers.csv"))
    origin = load_network(line / "runs/quickstart/data_models/networks/seed_0002")
    after = load_network("run/finetuned/network")
    (first,) = [row for row in layers if (row["statistic"], row["layer"]) == ("l2", "conv1")]
    for who, network in (("origin", origin), ("after", after)):
        expected = float(
            network.get_parameter("conv1.weight").detach().double().flatten(1).norm(dim=1).mean()
        )
        assert float(first[f"{who}_mean"]) == pytest.approx(expected)
    for row in table(Path("run/histograms.csv"))[:BINS]:
        assert float(row["from"]) < float(row["to"])
    pictures = {path.stem for path in Path("run").glob("*.png")}
    assert pictures == {"layers"} | {
        f"histogram_{name}" for name in STATISTICS if name != "effective_rank"
    }
    assert list(Path("run/tensorboard/origin").glob("events*")) and list(
        Path("run/tensorboard/after").glob("events*")
    )
    analyze(line, "--finetune.epochs=1", "--sample.images=100")
    assert "run is finished" in capsys.readouterr().err


def test_nothing_to_compare_is_one_message(
    line: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        analyze(line, "--metanetwork=null", "--finetune.epochs=0")
    assert stop.value.code == 1
    assert "nothing would change in the network: set metanetwork" in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_histogram_counts_every_value_in_its_bin() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 500, dtype=torch.float64, generator=generator)
    b = 2 * b**3
    edges, (first, second) = histograms((a, b))
    assert (sum(first), sum(second), len(edges)) == (500, 500, BINS + 1)
    assert edges[0] == 0 and edges[-1] == float(max(a.max(), b.max()))
    inside = (a >= edges[3]) & (a < edges[4])
    assert first[3] == int(inside.sum())
    assert histograms((torch.zeros(4), torch.zeros(4)))[1] == [[4, *[0] * 7]] * 2
    many = torch.rand(5000, dtype=torch.float64, generator=generator)
    edges, (first, second) = histograms((many, torch.cat([many[:-100], torch.full((100,), 1e9)])))
    assert edges[-1] < 1 and sum(first) == sum(second) == 5000
    assert second[-1] >= 100  # what is out of range is in the last bin


def test_pictures_of_one_layer_and_of_many() -> None:
    for count in (1, 40):
        layers = {f"layer{number}": torch.rand(8, dtype=torch.float64) for number in range(count)}
        one = {"effective_rank": {"layer": torch.rand(1, dtype=torch.float64)}, "l2": layers}
        analysis = Analysis(
            network="n", origin=one, after=one, change="after it", images=9, accuracy=(0.5, 0.4)
        )
        assert set(draw_analysis(analysis)) == {"layers", "histogram_l2"}


def curve(line: Path, folder: str, *flags: str) -> None:
    network = f"--network={line / 'runs/quickstart/data_models/networks/seed_0002'}"
    main(
        [
            "curve",
            "--config=curve_quickstart.yaml",
            "--metanetwork=null",
            "--finetune.epochs=0",
            "--pruning.step=0.05",
            "--grid={points: 3, max_speed_up: 2}",
            f"--trainer.default_root_dir={folder}",
            network,
            *QUIET,
            *flags,
        ]
    )


def test_curves_of_several_runs_in_one_picture(
    line: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve(line, "a/one")
    assert not Path("a/one/beside.png").exists()
    curve(line, "a/two", "--finetune.epochs=1", "--beside=[a/one]")
    assert Path("a/two/beside.png").stat().st_size > 0
    first = Curve.from_json(Path("a/one/curve.json"))
    (axes,) = draw_beside({"a/one": first, "a/two": first}).axes
    said = f": {100 * first.points[0].accuracy:.1f} %, flat to {first.flat_region(FLAT_DROP):.2f}x"
    assert [line.get_label() for line in axes.lines] == [f"one{said}", f"two{said}"]
    for other, flags, said in (
        ("nowhere", [], "cannot read nowhere/curve.json"),
        (
            "a/one",
            ["--grid.split=validation"],
            "beside: 'a/one' is a curve of test images, and this one of validation.",
        ),
    ):
        with pytest.raises(SystemExit):
            curve(line, "a/three", f"--beside=[{other}]", *flags)
        assert said in capsys.readouterr().err
        assert not Path("a/three").exists()
