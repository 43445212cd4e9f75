"""Where TensorBoard's events go: names say where from, and several runs share a folder."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metaprune_pl.reports.events import Events


def test_names_are_paths_in_the_runs_folder(workdir: Path) -> None:
    alone = Events.of(Path("run"))
    assert alone.name(Path("run")) == ""
    assert alone.name(workdir / "run" / "speed_up_2" / "finetuned") == "speed_up_2/finetuned"
    part = Events(root=Path("run"), folder=Path("all"), prefix="seed_0", is_part=True)
    assert part.name(Path("run")) == "seed_0"
    assert part.name(Path("run/curve")) == "seed_0/curve"


def test_runs_share_a_folder_and_are_forgotten_one_by_one(workdir: Path) -> None:
    for prefix, value in (("seed_0", 1.0), ("seed_1", 2.0)):
        events = Events(root=Path(prefix), folder=Path("all"), prefix=prefix, is_part=True)
        for stage in ("curve", "prune"):
            events.log_scalars(Path(prefix, stage), [(3, {"accuracy": value})])
    assert {file.parent for file in Path().rglob("*tfevents*")} == {Path("all")}

    def names() -> set[str]:
        read = EventAccumulator("all")
        read.Reload()
        return {name for name in read.Tags()["scalars"] if name.endswith("accuracy")}

    every = {f"seed_{n}/{stage}/accuracy" for n in (0, 1) for stage in ("curve", "prune")}
    assert names() == every
    first = Events(root=Path("seed_0"), folder=Path("all"), prefix="seed_0", is_part=True)
    first.forget(Path("seed_0/prune"))
    assert names() == every - {"seed_0/prune/accuracy"}
    Events.of(Path("all")).forget(Path("all"))
    assert names() == every - {"seed_0/prune/accuracy"}
