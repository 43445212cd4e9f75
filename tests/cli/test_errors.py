"""Each mistake of a person: one short message, exit status 1 or 2, nothing half-written."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from metaprune_pl.__main__ import main
from metaprune_pl.cli.commands import COMMANDS, load
from metaprune_pl.errors import StorageError
from metaprune_pl.metanetworks import PNAMetanetwork, save_metanetwork
from metaprune_pl.networks import NetworkCard, NetworkSettings, create_network, save_network
from metaprune_pl.runs.run_folder import RunFolder
from metaprune_pl.settings.parsing import new_parser
from metaprune_pl.settings.shipped import shipped_configs
from scenes import draw_voc

DATA = ["data_models", "--config", "data_quickstart.yaml"]
FINETUNE = [
    "fit",
    "--model=Finetuning",
    "--model.network=net",
    "--model.optimizer.lr=0.02",
    "--data=Digits",
]
META = ["fit", "--config", "meta_quickstart.yaml"]
EXPERIMENT = ["experiment", "--config=quickstart.yaml"]
COMPARE = ["compare", "--config=transfer_datasets_quickstart.yaml"]
PRUNE = ["prune", "--config", "prune_quickstart.yaml", "--network", "net", "--metanetwork=null"]


def fails(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run the program and return its exit status and its message, which is short."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(args)
    message = capsys.readouterr().err
    lines = [line for line in message.splitlines() if line]
    lines = [
        line for line in lines if line.startswith("error: ") or " -> " not in line
    ]  # which stage it is of
    assert lines[0].startswith("error: ") and len(lines) <= 2, message
    assert isinstance(stop.value.code, int)
    return stop.value.code, lines[0]


def test_the_configs_to_start_with_are_there() -> None:
    starts = {new_parser(load(command)).start for command in COMMANDS} - {None}
    assert starts <= shipped_configs().keys() and len(starts) > 7


def store(folder: str = "net", *, frozen: bool = False) -> None:
    settings = NetworkSettings(
        arguments={"depth": 8, "width": 4, "num_classes": 10, "in_channels": 1}
    )
    network = create_network(settings.builder, seed=0, **settings.arguments).requires_grad_(
        not frozen
    )
    save_network(folder, network, NetworkCard(settings=settings, input_shape=(1, 8, 8)))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            [*DATA, "--trainer.max_epoch", "3"],
            "no setting 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'?",
        ),
        (
            [*DATA, "--model.init_args.optimizer.lrr", "3"],
            "no setting 'optimizer.lrr'. Did you mean 'optimizer.lr'?",
        ),
        (
            [*DATA, "--model.init_args.seedz", "3"],
            "DataModelTraining has no setting 'seedz'. Did you mean 'seeds'?",
        ),
        ([*DATA, "--data", "Digitz"], "data: there is no class 'Digitz'. Did you mean 'Digits'?"),
        (
            [*DATA, "--model", "MetaTrainin"],
            "there is no class 'MetaTrainin'. Did you mean 'MetaTraining'?",
        ),
        (
            [*META, "--model.init_args.metanetwork", "PNAMetanetwrk"],
            "Did you mean 'PNAMetanetwork'?",
        ),
        ([*DATA, "--trainer.max_epochs", "abc"], "trainer.max_epochs: expected int, got 'abc'."),
        ([*PRUNE, "--pruning.stepp=1"], "no setting 'pruning.stepp'. Did you mean 'pruning.step'?"),
        ([*PRUNE, "--speed-ups=[2]"], "no setting 'speed-ups'. Did you mean 'speed_ups'?"),
        ([*PRUNE, "--speedups", "[2]"], "no setting 'speedups'. Did you mean 'speed_ups'?"),
        (
            [*EXPERIMENT, "--chain.overrides={prune: {speedups: [2]}}"],
            "no setting 'speedups'. Did you mean 'speed_ups'?",
        ),
        (
            [*COMPARE, "--matrix.overrides={curve: {grid.point: 2}}"],
            "'grid.point'. Did you mean 'grid.points'?",
        ),
        (
            [*COMPARE, "--matrix.exchnge=false"],
            "no setting 'matrix.exchnge'. Did you mean 'matrix.exchange'?",
        ),
        (
            [*COMPARE, "--matrix.experiments={a: {config: quickstart.yaml, chain.speedups: [2]}}"],
            "'chain.speed_ups'?",
        ),
        (
            [
                *COMPARE,
                "--matrix.experiments="
                "{a: {config: quickstart.yaml, chain.images: {class_path: Digitz}}}",
            ],
            "data: there is no class 'Digitz'. Did you mean 'Digits'?",
        ),
        (["detect", "--data=Digits"], "data: Digits is none of the classes that go here"),
        ([*PRUNE, "--data=VOC"], "data: VOC is none of the classes that go here"),
        ([*PRUNE, "--data=DataModelZoo"], "data: DataModelZoo is none of the classes that go here"),
        ([*DATA, "--data=VOC"], "data: VOC is none of the classes that go here"),
        ([*DATA, "--model=Finetuning"], "model: Finetuning is none of the classes that go here"),
        (
            [*PRUNE, "--statistics=soon"],
            "statistics: 'soon' is none of stale. Or give settings, KEY: VALUE.",
        ),
        (["detect", "--data=VOCC"], "data: there is no class 'VOCC'. Did you mean 'VOC'?"),
        (
            ["detect", "--data=VOC", "--detection.speedups=[2]"],
            "Did you mean 'detection.speed_ups'?",
        ),
        (["experimnt"], "no command 'experimnt'. Did you mean 'experiment'?"),
        (
            ["fit"],
            "--model must be given, on the command line or in a config (--config CONFIG). "
            "For a start:",
        ),
        (["experiment"], "(--config CONFIG). For a start: --config quickstart.yaml"),
        (
            [*PRUNE, "--finetune.optimizer.name=adam"],
            "finetune.optimizer.name: 'adam' is none of sgd, adamw. Did you",
        ),
        (
            [*PRUNE, "--finetune.optimizer={name: adam}"],
            "error: finetune.optimizer.name: 'adam' is none of",
        ),
        (
            [*META, "--model.init_args.optimizer.name=adam"],
            "error: model.optimizer.name: 'adam' is none of",
        ),
        (
            [*PRUNE, "--data=ImageFolder", "--data.folder=x", "--data.normalization={mean: [0.5]}"],
            "error: --data.norm",
        ),
        (
            [*PRUNE, "--masks={sparsities: [0.5], patterns: [2:4]}"],
            'text (in quotes, as in "2:4", where YAML reads a',
        ),
        ([*PRUNE, "--spedup", "2"], "no setting 'spedup'. Did you mean 'speed_up'?"),
        ([*PRUNE, "--max_dro", "1%"], "no setting 'max_dro'. Did you mean 'max_drop'?"),
        ([*PRUNE, "--speed_ups", "2y"], "speed_ups: expected a list such as [2, 3], got '2y'."),
        (
            [*PRUNE, "--masks", "{sparsities: [0.5, 0.9]"],
            "masks: '{sparsities: [0.5, 0.9]' is no YAML: is a bracket, brace or quote missing?",
        ),
        ([*PRUNE, "--data", "{a: 3"], "data: '{a: 3' is no YAML: is a bracket"),
        ([*PRUNE, "--speed_ups=a"], "speed_ups: expected a list such as [2, 3], got 'a'."),
    ],
)
def test_misspelt(
    args: list[str], said: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = fails(args, capsys)
    assert (status, list(workdir.iterdir())) == (2, [])
    assert said in message


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["fit", "--config", "data_quikstart.yaml"],
            "no such file. Did you mean 'data_quickstart.yaml'? `metaprune --help` says where the "
            "shipped ones are.",
        ),
        (
            [*PRUNE, "--finetune.epochs=-1"],
            "error: finetune: epochs -1 and steps None are at least 0.",
        ),
        (
            [*PRUNE, "--finetune.optimizer.lr=-1"],
            "error: finetune.optimizer: lr -1.0 must be above 0",
        ),
        (
            [*DATA, "--model.init_args.network.builder", "cifar_resnt"],
            "Did you mean 'cifar_resnet'?",
        ),
        (
            [*DATA, "--model.init_args.network.builder", "torchvision/resnet19"],
            "Did you mean 'torchvision/resnet1",
        ),
        ([*DATA, "--model.init_args.network.arguments.depth=9"], "depth 9 is not 6n + 2"),
        (
            [*DATA, "--model.init_args.network.arguments.deep=9"],
            "Its arguments: depth, width, num_classes",
        ),
        (
            [*DATA, "--model.init_args.network={builder: 'helpers:PlainNet', arguments: {}}"],
            "the network does not turn an image of 1x8x8 into scores [1, K]: Given groups=1",
        ),
        (
            [*DATA, "--model.init_args.network={builder: 'helpers:PlainNet', arguments: {}}"],
            "It reads 3 channels: take such images (grayscale of a folder's), or build it for 1.",
        ),
        (
            [*DATA, "--model.init_args.network.arguments.num_classes=5"],
            "tells 5 classes apart and the data have 10",
        ),
        ([*DATA, "--model.init_args.optimizer.lr=-1"], "lr -1.0 must be above 0"),
        ([*DATA, "--model.init_args.seeds=[1, 1]"], "each once"),
        (
            [*DATA, "--data=ImageFolder", "--data.folder=nowhere"],
            "no folder 'nowhere'. Set data.init_args.folder",
        ),
        (
            [*DATA, "--data.batch_size=5000"],
            "Take a smaller batch_size or global_batch, among the data's init_args.",
        ),
        (META, "has 0 data models, of which 4 are held out"),
        (PRUNE, "no network 'net'. Did you mean"),
        (
            [*PRUNE, "--network=runs/a/b"],
            "no stored network in 'runs/a/b': it has no network.json. `metaprune fit` and",
        ),
        (
            [*PRUNE, "--network=cifar_resnet", "--state=none.pt"],
            "no file 'none.pt' with a network's state.",
        ),
        (
            [*PRUNE, "--network=resnet18"],
            "'resnet18' is ambiguous: torchvision/resnet18 or timm/resnet18?",
        ),
        (
            [*PRUNE, "--trainer.max_epochs=3"],
            "no effect on prune: set finetune_after.epochs.",
        ),
        ([*EXPERIMENT, "--trainer.max_epochs=3"], "no effect on experiment: set it for a"),
        ([*EXPERIMENT, "--chain.overrides={prun: {}}"], "'prun' is none of data_models"),
        (
            [*EXPERIMENT, "--chain.held_out=5"],
            "data_quickstart.yaml trains 5 data models, 5 of which are held out and 1 for",
        ),
        (
            [*COMPARE, "--matrix.overrides={data_models: {model.init_args.seeds: [0]}}"],
            "trains 1 data models, 3 of which",
        ),
        ([*COMPARE, "--trainer.max_epochs=3"], "no effect on compare: set it for a"),
        ([*COMPARE, "--matrix.overrides={prun: {}}"], "'prun' is none of data_models"),
        ([*COMPARE, "--matrix.controls=[nonee]"], "'nonee' is none of none, sparsity_learning"),
        ([*COMPARE, "--matrix.experiments={}"], "matrix.experiments: name at least one."),
        (
            [*COMPARE, "--matrix.experiments={a: {confg: x.yaml}}"],
            "a: name a config of `experiment`: {config:",
        ),
        (
            [*COMPARE, "--matrix.experiments={a: {config: quikstart.yaml}}"],
            "Did you mean 'quickstart.yaml'?",
        ),
        (
            [
                *COMPARE,
                "--matrix.experiments={a: {config: quickstart.yaml, chain.speed_ups: [0.5]}}",
            ],
            "speed-ups [0.5]: give one or more numbers of at least 1",
        ),
        (
            [
                *COMPARE,
                "--matrix.overrides="
                "{data_models: {data: ImageFolder, data.init_args.folder: nowhere}}",
            ],
            "no folder 'nowhere'",
        ),
        (
            ["detect", "--data=VOC", "--trainer.max_epochs=3"],
            "no effect on detect: set detection.finetune.epochs, "
            "detection.finetune_after.epochs and",
        ),
    ],
)
def test_impossible(
    args: list[str], said: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = fails(args, capsys)
    assert status == 1
    assert said in message
    assert [path for path in workdir.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--speed_ups=[0.5]"], "speed-ups [0.5]: give one or more numbers of at least 1"),
        (["--speed_ups=[3, 2]"], "in increasing order"),
        (["--speed_ups=[2, 5000]"], "speed-up 5000x is out of reach: at most "),
        (
            ["--pruning.max_ratio=0.2", "--speed_ups=[4]"],
            "max_ratio=0.2. Lower the target, or raise max_ratio.",
        ),
        (["--metanetwork=nowhere"], "no metanetwork in 'nowhere'"),
        (["--metanetwork=net", "--sparsity={weight: 0.1}"], "not both: they are two methods"),
        (["--data=ImageFolder", "--data.folder=nowhere"], "no folder 'nowhere'"),
    ],
)
def test_pruning(
    args: list[str], said: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store()
    status, message = fails([*PRUNE, *args], capsys)
    assert status == 1
    assert said in message
    assert [path.name for path in workdir.iterdir() if any(path.rglob("*.*"))] == ["net"]


OWN = """
from torch import nn

def build():
    norms = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*norms, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


def test_a_metanetwork_for_other_networks(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("biased_and_normed.py").write_text(OWN)
    save_metanetwork("meta", PNAMetanetwork(layers=1, hidden=4), {})
    (Path("run") / "metanetworks").mkdir(parents=True)
    Path("meta").rename("run/metanetworks/epoch_001")
    _, message = fails([*PRUNE, "--network=biased_and_normed:build", "--metanetwork=run"], capsys)
    assert message.endswith("no metanetwork in 'run'. Did you mean 'run/metanetworks'?")
    args = ["--network=biased_and_normed:build", "--metanetwork=run/metanetworks"]
    status, message = fails([*PRUNE, *args], capsys)
    assert status == 1
    assert (
        "the metanetwork 'run/metanetworks' does not go with the network: this schema has no "
        "place for 'bias' of '0'" in message
    )
    assert message.endswith(
        "Meta-training is `metaprune fit`; to go without, set metanetwork to null."
    )
    assert not list(workdir.glob("runs/**/*.*"))


def test_a_metanetwork_in_place_of_a_network(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_metanetwork("meta", PNAMetanetwork(layers=1, hidden=4), {})
    status, message = fails([*PRUNE, "--network=meta"], capsys)
    assert status == 1
    assert message.endswith("It is a metanetwork's: name that as metanetwork.")


DETECTOR = (
    "{backbone: timm/resnet18, channels: [8, 8, 8, 8], layers: [1, 1, 1, 1], "
    "min_size: 64, max_size: 96, head_width: 8}"
)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["network=nowhere"], "no network 'nowhere'."),
        (["network=net"], "the network is a CifarResNet, no detector. Set network to faster_rcnn."),
        (["network=meta"], "It is a metanetwork's: name that as metanetwork."),
        (
            [f"arguments={DETECTOR}", "speed_ups=[0.5]"],
            "speed-ups [0.5]: give one or more numbers of at least 1",
        ),
        ([f"arguments={DETECTOR}", "speed_ups=[5000]"], "speed-up 5000x is out of reach"),
        ([f"arguments={DETECTOR}", "metanetwork=net"], "no metanetwork in 'net'."),
        ([f"arguments={DETECTOR}", "metanetwork=meta"], "the metanetwork pads kernels to 3x3, and"),
    ],
)
def test_detecting(
    args: list[str], said: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store()
    save_metanetwork("meta", PNAMetanetwork(layers=1, hidden=4, taps=[9]), {})
    draw_voc(workdir / "datasets")
    flags = [f"--detection.{arg}" for arg in args]
    status, message = fails(["detect", "--data=VOC", "--trainer.accelerator=cpu", *flags], capsys)
    assert status == 1
    assert said in message
    assert sorted(path.name for path in workdir.iterdir() if any(path.rglob("*.*"))) == [
        "datasets",
        "meta",
        "net",
    ]


def test_a_folder_with_networks_in_it_names_one(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store("nets/speed_up_2/network")
    status, message = fails([*PRUNE, "--network=nets"], capsys)
    assert status == 1
    assert message.endswith("Did you mean 'nets/speed_up_2/network'?")


def test_another_number_of_classes(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(workdir / "images")
    store()
    data = [
        "--data=ImageFolder",
        "--data.folder=images",
        "--data.grayscale=true",
        "--data.cache=cache",
    ]
    status, message = fails([*PRUNE, *data], capsys)
    assert status == 1
    assert message.endswith("the network tells 10 classes apart and the data have 2.")


def test_a_frozen_network_is_refused(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(frozen=True)
    status, message = fails(PRUNE, capsys)
    assert status == 1
    assert "the network is frozen: no parameter requires a gradient" in message


def draw(folder: Path, size: int = 8) -> None:
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (folder / part / label).mkdir(parents=True)
            for number in range(4):
                Image.new("L", (size, size), 20 * number).save(
                    folder / part / label / f"{number}.jpg"
                )


def test_a_class_folder_without_images(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(workdir / "images")
    (workdir / "images" / "train" / "empty").mkdir()
    args = [*DATA, "--data=ImageFolder", "--data.folder=images", "--data.cache=cache"]
    status, message = fails(args, capsys)
    assert status == 1
    assert message.endswith(
        "the class folder 'images/train/empty' has no images. Add some or remove the folder."
    )
    assert sorted(path.name for path in workdir.iterdir() if any(path.rglob("*.*"))) == ["images"]


def test_a_truncated_image(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(workdir / "images", size=64)
    victim = workdir / "images" / "train" / "cat" / "1.jpg"
    victim.write_bytes(victim.read_bytes()[:200])
    args = [*DATA, "--data=ImageFolder", "--data.folder=images", "--data.cache=cache"]
    status, message = fails(args, capsys)
    assert status == 1
    assert "cannot read the image images/train/cat/1.jpg" in message and message.endswith(
        "Replace or remove it."
    )


class Evil:
    """Unpickling this would write a file."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, ("evil.txt", "w"))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_with_code_is_not_loaded(
    how: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store()
    if how == "torch":
        torch.save({"state_dict": {}, "evil": Evil()}, "evil.ckpt")
    else:
        Path("evil.ckpt").write_bytes(pickle.dumps(Evil()))
    status, message = fails([*FINETUNE, "--ckpt_path", "evil.ckpt"], capsys)
    assert status == 1
    assert "evil.ckpt is no checkpoint of tensors only; it is not loaded." in message
    assert not Path("evil.txt").exists()


def test_a_damaged_checkpoint(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store()
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, "half.ckpt")
    Path("half.ckpt").write_bytes(Path("half.ckpt").read_bytes()[:500])
    status, message = fails([*FINETUNE, "--ckpt_path", "half.ckpt"], capsys)
    assert status == 1
    assert "half.ckpt is" in message


def test_an_output_folder_with_another_run(
    line: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(line)
    config = (line / "runs/quickstart/data_models/config.yaml").read_text()
    status, message = fails([*DATA, "--trainer.max_epochs=7"], capsys)
    assert status == 1
    assert "'runs/quickstart/data_models' holds another run (" in message
    assert (
        "trainer.max_epochs: 2 -> 7, " in message
        and "width: 4 -> 16). Set --out NEW_FOLDER" in message
    )
    assert (line / "runs/quickstart/data_models/config.yaml").read_text() == config


def run(settings: dict[str, Any], key: str, command: str = "prune") -> tuple[RunFolder, str]:
    return RunFolder(Path("run"), command, key), yaml.safe_dump(settings, sort_keys=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"speed_ups": [2.0, 3.0]}, "another run (speed_ups: [2.0] -> [2.0, 3.0]). Set"),
        (
            {"network": "b", "data": {"class_path": "VOC"}},
            "another run (data.class_path: Digits -> VOC, data.init",
        ),
        (
            {"finetune": {"epochs": 1}, "speed_ups": None},
            "(speed_ups: [2.0] -> null, finetune.epochs: null -> 1)",
        ),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, "(a: null -> 1, b: null -> 2, c: null -> 3, ...). Set"),
        (
            {"trainer": {"devices": 2, "logger": {"a": 1}}, "config": ["x.yaml"]},
            "another run (its settings are the sa",
        ),
    ],
)
def test_another_run_says_what_differs(changes: dict[str, Any], said: str, workdir: Path) -> None:
    settings = {
        "data": {"class_path": "Digits", "init_args": {"seed": 0}},
        "network": "a",
        "speed_ups": [2.0],
    }
    folder, config = run(settings, "old")
    with folder.running(config):
        pass
    folder, config = run({**settings, **changes}, "new")
    with pytest.raises(StorageError) as caught:
        folder.running(config).__enter__()
    assert said in str(caught.value)
    with pytest.raises(StorageError, match=r"holds another run \(of `prune`\)\. Set"):
        run(settings, "new", "curve")[0].running(config).__enter__()
    Path("run/config.yaml").unlink()
    with pytest.raises(StorageError, match=r"holds another run\. Set"):
        folder.running(config).__enter__()


def test_an_output_folder_below_a_file(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.yaml").touch()
    for folder in ("my.yaml", "my.yaml/x/y"):
        status, message = fails([*DATA, f"--trainer.default_root_dir={folder}"], capsys)
        assert status == 1
        assert f"cannot make the folder '{folder}': " in message
    assert list(workdir.iterdir()) == [Path.cwd() / "my.yaml"]


STATE = [*PRUNE, "--network=cifar_resnet", "--arguments={depth: 8, width: 4}", "--state=state.pt"]


@pytest.mark.parametrize(
    "text", ["hello", "weights", "<html>", "version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_text_is_no_state(text: str, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("state.pt").write_text(text)
    assert fails(STATE, capsys)[0] == 1
    store()
    assert fails([*FINETUNE, "--ckpt_path=state.pt"], capsys)[0] == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_state_that_is_not_finite(
    value: float, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = create_network("cifar_resnet", depth=8, width=4, num_classes=10, in_channels=1)
    next(network.parameters()).data[0, 0, 0, 0] = value
    torch.save(network.state_dict(), "state.pt")
    status, message = fails(STATE, capsys)
    assert status == 1
    name = next(iter(network.state_dict()))
    assert f"'{name}' of 'state.pt' is not finite: NaN or infinity." in message
    assert [path.name for path in workdir.rglob("*") if path.is_file()] == ["state.pt"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: 1\nb: [1,\n", "the config my.yaml, line 3, column 1 is no YAML: "),
        (
            b"include: prune_quickstart.yaml\na: b: c",
            "the config my.yaml, line 2, column 5 is no YAML: ",
        ),
        (b"\xff\xfe\x00\x01", "the config my.yaml is no YAML: it is no text."),
        (b"hello", "the config my.yaml holds no settings, KEY: VALUE."),
        (b"config: {a: 1}", "the config my.yaml has a setting 'config'. Write include: NAME.yaml."),
        (b"include: quick\tstart.yaml", "no config 'quick\tstart.yaml'"),
        (b"include: '" + b"9" * 5000 + b"'", "no config '9999"),
    ],
)
def test_a_broken_config(
    content: bytes, said: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my.yaml").write_bytes(content)
    status, message = fails(["prune", "--config=my.yaml"], capsys)
    assert (status, list(workdir.iterdir())) == (1, [workdir / "my.yaml"])
    assert said in message


def test_processes_that_begin_within_the_program_are_refused(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store()
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp_spawn"]
    status, message = fails([*PRUNE, *two, "--trainer.default_root_dir=run"], capsys)
    assert status == 1 and message.endswith("cannot run a command. Take ddp.")
    assert not Path("run").exists()
