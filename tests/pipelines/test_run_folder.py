"""A run removes only what it made, and keeps others out of its folder."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.io_wrapper import (
    GetLogdirSubdirectories,
)

from metaprune_pl.__main__ import main
from metaprune_pl.errors import StorageError
from metaprune_pl.files import write_json
from metaprune_pl.networks import NetworkCard, NetworkSettings, create_network, save_network
from metaprune_pl.networks.trust import source_of
from metaprune_pl.pipelines.data_models import _name_of
from metaprune_pl.reports.events import Events
from metaprune_pl.runs.run_folder import RunFolder
from metaprune_pl.runs.run_key import run_key

OUT_OF_REACH = [
    "prune",
    "--config=prune_quickstart.yaml",
    "--network=net",
    "--metanetwork=null",
    "--finetune.epochs=0",
    "--speed_ups=[1000000]",
    "--trainer.enable_progress_bar=false",
]


def store(folder: str = "net") -> None:
    arguments = {"depth": 8, "width": 4, "num_classes": 10, "in_channels": 1}
    network = create_network("cifar_resnet", seed=0, **arguments)
    card = NetworkCard(settings=NetworkSettings(arguments=arguments), input_shape=(1, 8, 8))
    save_network(folder, network, card)


def listing(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def test_a_mistake_leaves_a_persons_folder_as_it_was(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store()
    Path("my_project").mkdir()
    Path("my_project/thesis.tex").write_text("all my work")
    before = listing(workdir)
    for folder in ("my_project", "."):
        with pytest.raises(SystemExit) as stop:
            main([*OUT_OF_REACH, f"--trainer.default_root_dir={folder}"])
        assert stop.value.code == 1
        assert "is not empty, and holds no run. Set --out" in capsys.readouterr().err
        assert listing(workdir) == before


@pytest.mark.parametrize("there", [True, False])
def test_a_mistake_leaves_nothing_of_a_run(
    there: bool, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store()
    if there:
        Path("out").mkdir()
    before = listing(workdir)
    with pytest.raises(SystemExit) as stop:
        main([*OUT_OF_REACH, "--trainer.default_root_dir=out"])
    assert stop.value.code == 1
    assert "speed-up" in capsys.readouterr().err
    assert listing(workdir) == before


def test_what_somebody_puts_into_a_running_runs_folder_stays(workdir: Path) -> None:
    folder = RunFolder(Path("out"), "prune", "key")
    with pytest.raises(ValueError), folder.running("a: 1"):
        Path("out/notes.txt").write_text("mine")
        raise ValueError
    assert Path("out/notes.txt").read_text() == "mine"
    with folder.running("a: 1"):
        assert Path("out/notes.txt").exists()


def test_a_stopped_run_that_fails_keeps_what_it_had(workdir: Path) -> None:
    folder = RunFolder(Path("out"), "prune", "key")
    with pytest.raises(KeyboardInterrupt), folder.running("a: 1"):
        write_json(Path("out/result.json"), 1)
        raise KeyboardInterrupt
    before = listing(workdir)
    with pytest.raises(ValueError), folder.running("a: 1"):
        raise ValueError
    assert listing(workdir).keys() == before.keys()


def test_the_second_process_is_told_who_is_at_the_run(workdir: Path) -> None:
    code = (
        "import time; from pathlib import Path\n"
        "from metaprune_pl.runs.run_folder import RunFolder\n"
        "with RunFolder(Path('out'), 'prune', 'key').running('a: 1'):\n"
        "    print('in', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "in\n"
    folder = RunFolder(Path("out"), "prune", "key")
    before = listing(workdir)
    with pytest.raises(
        StorageError, match=rf"'out' is in use by process {holder.pid} on .*\. Wait"
    ):
        folder.running("a: 1").__enter__()
    assert listing(workdir) == before
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with folder.running("a: 1"):
        assert not folder.finished
    assert folder.finished


def test_a_run_that_came_to_nothing_is_in_nobodys_way(workdir: Path) -> None:
    Path("out").mkdir()
    facts = {"command": "prune", "key": "other", "finished": False, "started": 3.0}
    write_json(Path("out/run.json"), facts | {"cost": {"seconds": 5.0}})
    Path("out/config.yaml").write_text("a: 2")
    Path("out/events.out.tfevents.1").write_text("")
    folder = RunFolder(Path("out"), "prune", "key")
    with folder.running("a: 1"):
        assert not Path("out/events.out.tfevents.1").exists()
        write_json(Path("out/result.json"), 1)
    assert folder.finished and json.loads(Path("out/run.json").read_text())["cost"]["seconds"] < 5
    other = RunFolder(Path("out"), "prune", "third")
    with pytest.raises(StorageError, match=r"'out' holds another run \(a: 1 -> 3\)"):
        other.running("a: 3").__enter__()


def test_a_run_that_finished_nothing_makes_room(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store()
    command = [*OUT_OF_REACH, "--finetune_after.epochs=0", "--trainer.default_root_dir=out"]
    earlier, checkpoint = RunFolder(Path("out"), "prune", "key"), "finetuned/checkpoints/last.ckpt"
    with pytest.raises(KeyboardInterrupt), earlier.running("a: 1"):
        store("out/source")
        Path("out", checkpoint).parent.mkdir(parents=True)
        Path("out", checkpoint).write_text("hours")
        raise KeyboardInterrupt
    with earlier.running("a: 1"), pytest.raises(SystemExit):
        main(command)
    assert "'out' is in use by process" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt), earlier.running("a: 1"):
        raise KeyboardInterrupt
    main([*command, "--speed_ups=[1.5]"])
    assert "out held a run with other settings" in capsys.readouterr().err
    assert Path("out/report.json").is_file()
    assert Path("out.old-1", checkpoint).read_text() == "hours"
    assert not earlier.abandoned  # what is there now is finished


def test_a_link_is_not_moved(workdir: Path) -> None:
    run = RunFolder(Path("elsewhere"), "prune", "key")
    with pytest.raises(KeyboardInterrupt), run.running("a: 1"):
        store("elsewhere/source")
        raise KeyboardInterrupt
    Path("out").symlink_to("elsewhere")
    assert run.abandoned and not RunFolder(Path("out"), "prune", "key").abandoned


@pytest.mark.parametrize(
    "name", ["speed_up_2/result.json", "finetuned/network/network.json", "networks/0/network.json"]
)
def test_a_run_that_has_finished_something_makes_no_room(name: str, workdir: Path) -> None:
    folder = RunFolder(Path("out"), "prune", "key")
    for path, is_abandoned in (("checkpoints/last.ckpt", True), (name, False)):
        with pytest.raises(KeyboardInterrupt), folder.running("a: 1"):
            Path("out", path).parent.mkdir(parents=True)
            Path("out", path).write_text("{}")
            raise KeyboardInterrupt
        assert folder.abandoned == is_abandoned
    other = RunFolder(Path("out"), "prune", "other")
    with pytest.raises(StorageError, match=r"'out' holds another run \(a: 1 -> 2\)"):
        other.running("a: 2").__enter__()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"command": 1}',
        '{"command": "prune", "key": "key", "finished": "no"}',
        '{"command": "prune", "key": "key", "finished": false, "cost": {"seconds": NaN}}',
    ],
)
def test_a_damaged_run_is_one_line(content: str, workdir: Path) -> None:
    Path("out").mkdir()
    Path("out/run.json").write_text(content)
    with pytest.raises(StorageError, match=r"out/run\.json"):
        RunFolder(Path("out"), "prune", "key").running("a: 1").__enter__()


def test_a_run_of_an_older_program_goes_on(workdir: Path) -> None:
    Path("out").mkdir()
    cost = {"seconds": 5.0, "images": 10, "host_bytes": 1, "device_bytes": 0}
    facts = {"command": "prune", "key": "key", "finished": False, "cost": cost, "started": 3.0}
    Path("out/run.json").write_text(json.dumps(facts))
    folder = RunFolder(Path("out"), "prune", "key")
    with folder.running("a: 1"):
        pass
    assert folder.finished


def test_a_run_of_other_images_is_another_one(workdir: Path) -> None:
    earlier, folder = (RunFolder(Path("out"), "prune", "key", images) for images in ("", "80"))
    with earlier.running("a: 1"):  # by an older program
        write_json(Path("out/result.json"), 1)
    with folder.running("a: 1"):
        pass
    with earlier.running("a: 1"):  # the images are gone
        pass
    other = RunFolder(Path("out"), "prune", "key", "76")
    assert other.finished and other.foreign and not folder.foreign
    with pytest.raises(StorageError, match=r"'out' holds another run \(images: 80 -> 76\)\. Set"):
        other.running("a: 1").__enter__()


def test_images_that_have_changed_are_told(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(20):
        path = Path("photos", "cat" if index % 2 else "dog", f"{index}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * index, 0, 0)).save(path)
    command = ["prune", "cifar_resnet", "--data=photos", "--out=run", "--finetune_after.epochs=0"]
    command += ["--latency_batches=[1]", "--repair=null", "--arguments={depth: 8}"]
    main([*command, "--speed_ups=2"])
    main([*command, "--speed_ups=2"])
    assert "run is finished; it is not run again." in capsys.readouterr().err
    Path("photos/dog/0.png").unlink()
    main([*command, "--speed_ups=2"])
    assert "not run again, although its images have changed since." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--speed_ups=2,3"])
    assert "'run' holds another run (images: 20 of digest " in capsys.readouterr().err
    assert not Path("run/speed_up_3").exists()


def test_the_work_of_many_seeds_has_a_name_that_a_file_can_have() -> None:
    assert _name_of(range(3)) == "seeds_0000_0001_0002"
    names = {_name_of(range(start, start + 51)) for start in (0, 1, 51)}
    assert len(names) == 3
    assert max(map(len, names)) <= 255


def test_square_brackets_in_a_name_are_printed_as_they_are(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store("[red]net")
    main(["inspect", "[red]net"])
    assert "[red]net" in capsys.readouterr().out
    command = [*OUT_OF_REACH, "--network=[red]net", "--finetune_after.epochs=0"]
    command += ["--speed_ups=[1.5]", "--trainer.default_root_dir=runs/[/b]x"]
    for said in ("Results are in runs/[/b]x.", "runs/[/b]x is finished"):
        main(command)
        assert said in capsys.readouterr().err
    assert Path("runs/[/b]x/report.json").is_file()


def test_networks_in_a_list_belong_to_the_key(workdir: Path) -> None:
    settings = {"network": "a", "others": ["b", "c"]}
    for name in "abc":
        Path(name).mkdir()
        Path(name, "weights.safetensors").write_bytes(name.encode())
    before = run_key("select", settings)
    assert run_key("select", settings) == before
    Path("c", "weights.safetensors").write_bytes(b"other")
    assert run_key("select", settings) != before


@pytest.mark.parametrize(
    ("settings", "file"),
    [
        ({"network": "own_code:build"}, "own_code.py"),
        ({"network": "nets/own_code.py:build"}, "nets/own_code.py"),
        ({"model": {"builder": "nets.own_code:build"}}, "nets/own_code.py"),
        ({"arguments": {"backbone": "nets:build"}}, "nets/__init__.py"),
        ({"criterion": {"class_path": "nets.own_code.Mine"}}, "nets/own_code.py"),
    ],
)
def test_the_users_own_code_belongs_to_the_key(
    settings: dict[str, Any], file: str, workdir: Path
) -> None:
    Path("nets").mkdir()
    for path in ("own_code.py", "nets/__init__.py", "nets/own_code.py"):
        Path(path).write_text("stride = 1")
    before = run_key("prune", settings)
    assert run_key("prune", settings) == before
    Path(file).write_text("stride = 2")
    assert run_key("prune", settings) != before


@pytest.mark.parametrize("name", ["cifar_resnet", "torch.optim.Adam", "metaprune_pl.data.Digits"])
def test_installed_code_is_nobodys_own(name: str) -> None:
    assert source_of(name) is None


def test_tensorboard_shows_no_run_that_was_moved_aside(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", "fit", "key")
    Events.of(run.path).log_scalars(run.path, [(1, {"loss": 0.5})])
    facts = {"command": "fit", "key": "key", "finished": True}
    write_json(run.path / "run.json", facts)

    def shown() -> list[str]:
        return [Path(path).name for path in GetLogdirSubdirectories(str(tmp_path))]

    assert shown() == ["run"]
    assert run.move_aside().name == "run.old-1" and shown() == []
