"""Commands that are printed run as they stand."""

from pathlib import Path

from metaprune_pl.pruning.cost.timing import Timing
from metaprune_pl.reports.benchmarked import Benchmarked, Setup, Subject
from metaprune_pl.reports.delivered import Delivered
from metaprune_pl.reports.next_step import command_line, shell_line


def test_paths_are_quoted_and_no_flags() -> None:
    script = "runs/a b é/predict_network_onnx.py"
    delivered = Delivered(
        file="x", format="onnx", program="", bytes=1, images=1, source=None, difference=0.0
    )
    assert delivered.tables()[1:] == []
    told = Delivered(**{**vars(delivered), "script": script}).tables()[1]
    assert told == f"Name the class of an image: python '{script}' IMAGE.jpg"
    assert shell_line("tensorboard", "--logdir", Path("-x y")) == "tensorboard --logdir './-x y'"
    assert command_line("export", Path("-dash/net")).startswith("metaprune export ./-dash/net")


def test_times_of_one_file_are_compared_with_nothing() -> None:
    subjects = [Subject(name=name, program="PyTorch", bytes=1, macs=None) for name in "ab"]
    times = {subject.name: Timing(median=1, low=1, high=1) for subject in subjects}
    setups = [Setup(batch=1, threads=1, times=times)]
    for shown in (subjects[:1], subjects):
        _, note = Benchmarked(machine="x", subjects=shown, setups=setups).tables()
        assert ("in brackets" in str(note)) == (len(shown) > 1)
