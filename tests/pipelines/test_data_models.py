"""Data models: from seeds or given weights, pruned a little, each made once in all."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights

from conftest import QUIET
from metaprune_pl.__main__ import main
from metaprune_pl.data import Digits
from metaprune_pl.files import claim
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    create_network,
    load_network,
    read_card,
    save_network,
)
from metaprune_pl.pruning import count_macs
from metaprune_pl.runs.run_folder import RunFolder
from metaprune_pl.stages.accuracy import accuracy

CPU, EXAMPLE = torch.device("cpu"), torch.zeros(1, 1, 8, 8)
MAKE = [
    "data_models",
    "--model=DataModelTraining",
    "--model.optimizer={lr: 0.05}",
    "--data=Digits",
    "--trainer.accelerator=cpu",
    "--trainer.default_root_dir=made",
    *QUIET,
]
TINY = [*MAKE, "--model.network.arguments={depth: 8, width: 4}", "--trainer.max_epochs=1"]
PRUNED = "--initial={speed_up: 1.3, pruning: {step: 0.05}, finetune: {epochs: 1}}"
# records every data model that is stored, then does what `metaprune` does
RECORDING = (
    "import sys; from metaprune_pl.pipelines import data_models; real = data_models.store\n"
    "def save(context, folder, *rest):\n"
    "    if folder.parent.name == 'networks': open('stored.txt', 'a').write(folder.name + '\\n')\n"
    "    return real(context, folder, *rest)\n"
    "data_models.store = save\n"
    "from metaprune_pl.__main__ import main; main(sys.argv[1:])"
)


def start(args: list[str]) -> subprocess.Popen[str]:
    command, environment = (
        [sys.executable, "-c", RECORDING, *args],
        {**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0][-2000:]
        assert time.monotonic() < limit
        time.sleep(0.002)


def claimed_by(process: subprocess.Popen[str]) -> list[Path]:
    return [
        p
        for p in Path("made/claims").glob("*")
        if p.read_text().startswith(f"process {process.pid} ")
    ]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.slow
def test_three_processes_make_six_models_once_each_though_one_is_killed(workdir: Path) -> None:
    args = [*TINY, PRUNED, "--model.seeds=[0, 1, 2, 3, 4, 5]", "--trainer.max_epochs=2"]
    victim = start(args)
    wait_for(lambda: list(Path("made").glob("work/*/checkpoints/last.ckpt")), victim)
    victim.send_signal(signal.SIGSTOP)  # it lives, so its claim stands although it does nothing
    (seeds,) = (path.name for path in claimed_by(victim))
    processes = [start(args) for _ in range(2)]
    for process in processes:
        wait_for(lambda process=process: claimed_by(process), process)  # type: ignore[misc]
    assert [path.name for path in claimed_by(victim)] == [seeds]
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    processes.append(start(args))
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-2000:]
    assert all("│ 5 " in output for output in outputs[:2])  # each waits for all six and lists them
    assert f"work/{seeds}/checkpoints" in "".join(
        outputs
    )  # another process went on from the dead one's checkpoint
    names = [f"seed_{seed:04d}" for seed in range(6)]
    assert sorted(path.name for path in Path("made/networks").iterdir()) == names
    assert sorted(Path("stored.txt").read_text().split()) == names
    assert json.loads(Path("made/run.json").read_text())["finished"]
    main([*args, "--model.seeds=[2]", "--trainer.default_root_dir=alone"])
    assert same_weights(
        load_network("made/networks/seed_0002"), load_network("alone/networks/seed_0002")
    )


def test_what_was_stored_and_not_finished_is_finished(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: RunFolder) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(RunFolder, "_finish", die)
        main([*TINY, "--model.seeds=[0]"])
    assert Path("made/networks/seed_0000/network.json").is_file()
    main([*TINY, "--model.seeds=[0]"])
    for path in ("made/run.json", "made/work/seeds_0000/run.json"):
        assert json.loads(Path(path).read_text())["finished"]


def test_a_claim_ends_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from metaprune_pl.files import "
        "claim\n"
        "with claim(Path(sys.argv[1])) as mine: print(mine, flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "a"], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    with claim(tmp_path / "a") as mine, claim(tmp_path / "b") as other:
        assert (mine, other) == (False, True)
    assert (tmp_path / "a").read_text().startswith(f"process {holder.pid} on ")
    holder.kill()
    holder.wait()
    with claim(tmp_path / "a") as mine:
        assert mine


def test_an_initially_pruned_model_is_recorded_as_it_is(workdir: Path) -> None:
    main([*TINY, PRUNED, "--model.seeds=[3]"])
    folder = Path("made/networks/seed_0003")
    network, card = load_network(folder), read_card(folder)
    unpruned = create_network(card.settings.builder, seed=0, **card.settings.arguments)
    assert (
        card.record["speed_up"]
        == count_macs(unpruned, EXAMPLE) / count_macs(network, EXAMPLE)
        >= 1.3
    )
    assert card.record["validation_accuracy"] == accuracy(network, Digits(), "validation", CPU)
    trained = load_network("made/work/seeds_0003/networks/seed_0003")
    assert card.record["validation_accuracy_trained"] == accuracy(
        trained, Digits(), "validation", CPU
    )
    assert (card.record["seed"], card.record["epochs"], card.record["epochs_finetuned"]) == (
        3,
        1,
        1,
    )


def test_what_is_there_is_reused_and_more_are_added(workdir: Path) -> None:
    main([*TINY, "--model.seeds=[0, 1]"])
    before = {
        seed: Path(f"made/networks/seed_{seed:04d}/network.json").stat().st_mtime_ns
        for seed in (0, 1)
    }
    main([*TINY, "--model.seeds=[0, 1, 2]", "--side_by_side=2"])
    after = {
        seed: Path(f"made/networks/seed_{seed:04d}/network.json").stat().st_mtime_ns
        for seed in (0, 1, 2)
    }
    assert {**before, 2: after[2]} == after
    assert [line.split(",")[0] for line in Path("made/data_models.csv").read_text().split()] == [
        "seed",
        "0",
        "1",
        "2",
    ]


def test_side_by_side_or_one_by_one_is_the_same(workdir: Path) -> None:
    main([*TINY, "--model.seeds=[0, 1]", "--side_by_side=2"])
    main([*TINY, "--model.seeds=[1]", "--trainer.default_root_dir=alone"])
    assert same_weights(
        load_network("made/networks/seed_0001"), load_network("alone/networks/seed_0001")
    )


def store(folder: str) -> nn.Module:
    settings = NetworkSettings(
        arguments={"depth": 8, "width": 4, "num_classes": 10, "in_channels": 1}
    )
    network = create_network(settings.builder, seed=7, **settings.arguments).eval()
    save_network(
        folder,
        network,
        NetworkCard(settings=settings, input_shape=(1, 8, 8), record={"name": "given"}),
    )
    return network


def test_models_from_a_stored_network_differ_by_the_order_of_the_images(workdir: Path) -> None:
    store("given")
    args = [*MAKE, "--model.start.network=given", "--model.seeds=[0, 1]"]
    main([*args, "--trainer.max_epochs=1"])
    first, second = (load_network(f"made/networks/seed_{seed:04d}") for seed in (0, 1))
    assert not same_weights(first, second)
    assert read_card("made/networks/seed_0001").record["seed"] == 1


def test_no_epochs_take_a_stored_network_as_it_is(workdir: Path) -> None:
    given = store("given")
    main([*MAKE, "--model.start.network=given", "--model.seeds=[0]", "--trainer.max_epochs=0"])
    assert same_weights(load_network("made/networks/seed_0000"), given)
    assert read_card("made/networks/seed_0000").record["epochs"] == 0


def test_weights_that_torchvision_provides(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provided = create_network("torchvision/resnet18", seed=3).state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda self, *args, **kwargs: provided)
    images = Path("images")
    for part in ("train", "test"):
        for label in range(2):
            draw(images / part / str(label), 20)
    main(
        [
            *MAKE,
            "--model.network={builder: torchvision/resnet18, arguments: {weights: DEFAULT, "
            "num_classes: 1000}}",
            "--model.seeds=[0]",
            "--data={class_path: ImageFolder, init_args: {folder: images, batch_size: 4, "
            "cache: c}}",
            "--trainer.max_epochs=0",
        ]
    )
    made = load_network("made/networks/seed_0000").state_dict()
    assert all(torch.equal(made[name], value) for name, value in provided.items())


def draw(folder: Path, count: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(count):
        Image.effect_noise((32, 32), 60.0).convert("RGB").save(folder / f"{number}.png")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--model.start.network=given", "--model.network.arguments.depth=14"],
            "give model.network or model.start, not both",
        ),
        (
            ["--model.start.network=given", "--side_by_side=2"],
            "side_by_side is 1 for pretrained networks",
        ),
        (
            ["--initial.speed_up=1"],
            "initial.speed_up is 1; it is finite and above 1. Leave `initial` out for none.",
        ),
        (["--initial.speed_up=1000"], "is out of reach"),
        (
            ["--model=Finetuning", "--model.network=given"],
            "model: Finetuning is none of the classes that go here",
        ),
    ],
)
def test_impossible(
    flags: list[str], said: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store("given")
    with pytest.raises(SystemExit):
        main([*MAKE, "--trainer.max_epochs=1", "--model.seeds=[0, 1]", *flags])
    assert said in capsys.readouterr().err
