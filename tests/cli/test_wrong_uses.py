"""Wrong uses of every command: one line, and the folder as it was."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers import random_resnet
from metaprune_pl.__main__ import main
from metaprune_pl.metanetworks import PNAMetanetwork, save_metanetwork
from metaprune_pl.networks import NetworkCard, NetworkSettings, save_network

META = [
    "--config=meta_quickstart.yaml",
    "--data.init_args.data_models=zoo",
    "--data.init_args.held_out=1",
]
SHORT = ["--data=Digits", "--finetune.epochs=0", "--trainer.accelerator=cpu"]
RUNS = {
    "fit": META,
    "validate": META,
    "data_models": ["--config=data_quickstart.yaml"],
    "prune": ["--network=net", "--speed_ups=[1.5]", *SHORT],
    "curve": ["--network=net", *SHORT],
    "select": ["--config=select_quickstart.yaml", "--network=net", "--metanetwork=meta"],
    "analyze": ["--config=analyze_quickstart.yaml", "--network=net", "--metanetwork=null"],
    "experiment": ["--config=quickstart.yaml"],
    "compare": ["--config=transfer_datasets_quickstart.yaml"],
    "detect": ["--data=VOC", "--data.folder=images"],
    "train": ["--network=net", "--data=Digits", "--trainer.accelerator=cpu"],
}
"""Commands with a run each; with one of `EVERYWHERE` it is refused."""
LONG = "n" * 300
LATIN = os.fsdecode(b"caf\xe9")
EVERYWHERE = [
    "--trainer.devices=-1",
    "--trainer.devices=abc",
    f"--trainer.default_root_dir={LONG}",
    f"--trainer.default_root_dir=a/{LONG}/b",
    "--trainer.default_root_dir=a\0b",
    f"--trainer.default_root_dir={LATIN}",
    "--trainer.accelerator=tpu",
    "--trainer.accelerator=xyz",
    "--trainer.strategy=xyz",
    "--trainer.precision=7",
    "--trainer.precision=16-true",
    "--trainer.num_nodes=0",
    "--trainer.check_val_every_n_epoch=0",
    "--trainer.accumulate_grad_batches=0",
    "--trainer.gradient_clip_val=-1",
    "--trainer.limit_train_batches=-1",
    "--trainer.callbacks=[3]",
    "--trainer.barebones=true",
    f"--config={LONG}",
    "--config=latin.yaml",
    "--config=a\0b",
    "--config=.",
    "--config={a: 1}",
    "--seed_everything=1.5",
    "--trust",
    "--trust=",
    "--trust=a b",
    "extra",
    "--=",
]
NET = ["inspect", "cifar_resnet", "--arguments={depth: 8, width: 4}"]
OTHERS = [
    ["inspect", "net", "--input_shape=1,-8,8"],
    ["inspect", "net", "--input_shape=1,8"],
    ["inspect", "net", "--figure=x"],
    ["inspect", "cifar_resnet", "--arguments={1: 2}"],
    ["inspect", "cifar_resnet", "--arguments={'a b': 2}"],
    ["inspect", "cifar_resnet", "--arguments={width: 1.5}"],
    ["inspect", "a b:c"],
    ["inspect", ":"],
    ["inspect", LONG],
    ["inspect", f"{LATIN}"],
    ["inspect", "a\0b"],
    *([*NET, f"--state={name}"] for name in ("complex.pt", "int8.pt", "nested.pt", LONG, "a\0b")),
    ["inspect", "own:zero"],
    ["inspect", "own:exits"],
    ["inspect", "own:fails"],
    ["inspect", "own_syntax:build"],
    ["inspect", "own_value:build"],
    ["inspect", "own_exit:build"],
    ["inspect", "own_import:build"],
    ["prune", *RUNS["prune"], "--finetune.optimizer={milestones: [9, 3]}"],
    ["prune", *RUNS["prune"], "--finetune.optimizer.lr=-1", "--print_config"],
    ["prune", *RUNS["prune"], "--sparsity={weight: -1}", "--print_config=skip_null"],
    ["prune", *RUNS["prune"], "--trainer.default_root_dir=damaged"],
    ["experiment", *RUNS["experiment"], "--chain.overrides={prune: 3}"],
    ["experiment", *RUNS["experiment"], "--chain.overrides={prune: {1: 2}}"],
    ["experiment", *RUNS["experiment"], "--chain.metanetworks={1: {}}"],
    ["experiment", *RUNS["experiment"], "--chain.metanetworks={a/b: {}}"],
    ["experiment", *RUNS["experiment"], "--chain.images={}"],
    ["experiment", *RUNS["experiment"], "--chain.overrides={curve: {grid.points: 0}}"],
    ["experiment", *RUNS["experiment"], "--chain.overrides={prune: {trainer.max_epochs: 2}}"],
    ["compare", *RUNS["compare"], "--matrix.experiments={1: {config: quickstart.yaml}}"],
    ["compare", *RUNS["compare"], "--matrix.experiments={a: {config: quickstart.yaml, 1: 2}}"],
    ["data_models", *RUNS["data_models"], "--model.init_args.seeds=[99999999999999999999]"],
    ["data_models", *RUNS["data_models"], "--model.init_args.network.arguments={seed: 3}"],
    ["fit", *META, "--trainer=[1]"],
    ["prune", *RUNS["prune"], "--network=builtins:int"],
    ["prune", *RUNS["prune"], "--data={class_path: Digits, dict_kwargs: {a: 2}}"],
    ["fit", *META, "--ckpt_path=state.pt"],
    ["test", *META],
    ["test", *META, "--ckpt_path=nowhere"],
    ["validate", *META, "--ckpt_path=last"],
    *(["export", "net", flag] for flag in ("--format=", "--batch=-1", "--batch=x", "--file=a\0b")),
    ["export", LONG],
    ["export", "a\0b"],
    ["export", "state.pt"],
    ["export", "damaged"],
    ["export"],
    ["benchmark", LONG],
    ["benchmark", "a\0b"],
    ["benchmark", "state.pt"],
    ["benchmark", "damaged"],
    ["benchmark", "net", "--batches=[]"],
    ["benchmark", "net", "--seconds=.inf"],
    ["push", "nowhere", "me/net"],
    ["push", "damaged", "me/net"],
    ["push", "net", "a b"],
    ["push", "net", "me/net/more"],
    ["push", "net"],
    ["pull", "a b"],
    ["pull", "me/net/more"],
    ["pull", ""],
    ["pull", "me/net", "--folder=a\0b"],
    ["pull", "me/net", f"--folder={LONG}"],
    ["pull", "me/net", "--folder=own.py"],
    ["pull", "me/net", "--folder=zoo"],
    ["pull"],
]
OWN = """
class Mine(Exception):
    pass

def zero():
    return 1 / 0

def exits():
    raise SystemExit(3)

def fails():
    raise Mine("no good")
"""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Fill a folder with things to use wrongly, and go there."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("wrong")
    os.chdir(folder)
    settings = NetworkSettings(arguments={"depth": 8, "width": 4, "in_channels": 1})
    network = random_resnet(in_channels=1)
    card = NetworkCard(settings=settings, input_shape=(1, 8, 8), record={"name": "net"})
    for name in ("net", *(f"zoo/seed_000{seed}" for seed in range(3))):
        save_network(name, network, card)
    save_metanetwork("meta", PNAMetanetwork(layers=1, hidden=4), {"epoch": 1})
    state = random_resnet().state_dict()
    torch.save(state, "state.pt")
    torch.save({name: value.to(torch.complex64) for name, value in state.items()}, "complex.pt")
    torch.save({name: value.to(torch.int8) for name, value in state.items()}, "int8.pt")
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    torch.save(dict.fromkeys(state, nested), "nested.pt")
    Path("latin.yaml").write_bytes("trainer: {default_root_dir: café}\n".encode("latin1"))
    Path("damaged").mkdir()
    Path("damaged/run.json").write_text("{")
    Path("own.py").write_text(OWN)
    Path("own_syntax.py").write_text("def build(:\n")
    Path("own_value.py").write_text("\nraise ValueError('no good')\n")
    Path("own_exit.py").write_text("import sys\nsys.exit(3)\n")
    Path("own_import.py").write_text("import os\nimport not_there_at_all\n")
    yield folder
    os.chdir(before)


def wrong_uses() -> Iterator[list[str]]:
    for number, flag in enumerate(EVERYWHERE):
        names = list(RUNS)
        for name in (names[number % len(names)], names[(3 * number + 1) % len(names)]):
            yield [name, *RUNS[name], flag]
    yield from OTHERS


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("args", list(wrong_uses()), ids=lambda args: ascii(" ".join(args))[-60:])
def test_one_line(args: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(folder)
    with pytest.raises(SystemExit) as stop:
        main(args)
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert stop.value.code in {1, 2}
    assert lines[0].startswith("error: ") and len(lines) == stop.value.code
    assert listing(folder) == before


def listing(folder: Path) -> dict[Path, bytes | None]:
    """Return all that is there, but what Python keeps of modules."""
    paths = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["inspect", "own:zero"], "network 'own:zero': ZeroDivisionError: division by zero. At "),
        (["inspect", "own:fails"], "own.py:12."),
        (["inspect", "own_syntax:build"], "own_syntax.py:1."),
        (["inspect", "own_value:build"], "ValueError: no good. At "),
        (["inspect", "own_import:build"], "own_import.py:2."),
        (["experiment", *RUNS["experiment"], "--chain.overrides.curve.grid.pts=3"],
         "curve_quickstart.yaml with the overrides of curve: there is no setting 'grid.pts'"),
        (["prune", *RUNS["prune"], "--trainer.default_root_dir=damaged"], "--out NEW_FOLDER"),
        (["test", *META], "MetaTraining"),
    ],
)  # fmt: skip
def test_it_says_where(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(args)
    assert said in capsys.readouterr().err


INCLUDES = [
    "include:\n- quickstart.yaml\nchain: {held_out: 99}",
    "{include: quickstart.yaml, chain: {held_out: 99}}",
    "{include: [quickstart.yaml], chain: {held_out: 99}}",
    "'include': quickstart.yaml\nchain: {held_out: 99}",
    "---\ninclude: [\nquickstart.yaml,\n]\nchain: {held_out: 99}",
    "chain: {held_out: 99}\ninclude: >-\n  quickstart.yaml\n",
]


@pytest.mark.parametrize("text", INCLUDES)
def test_every_spelling_of_include(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "own.yaml").write_text(text)
    with pytest.raises(SystemExit):
        main(["experiment", "--config=own.yaml"])
    assert "99 of which are held out" in capsys.readouterr().err
    (folder / "own.yaml").unlink()


def test_an_evaluation_leaves_the_folder_to_the_fit(folder: Path) -> None:
    flags = [*META, "--trainer.default_root_dir=fitted", "--trainer.max_epochs=0"]
    main(["validate", *flags])
    assert not (folder / "fitted").exists()
    main(["fit", *flags])
    assert (folder / "fitted" / "run.json").is_file()
    before = listing(folder)
    main(["validate", *flags])
    assert listing(folder) == before
