"""What a person may name as a network.

A folder, a name of a library, a function of their own; with a state.
"""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.prune import l1_unstructured

from metaprune_pl.errors import ConfigError, NetworkError, StorageError
from metaprune_pl.networks import (
    NetworkCard,
    NetworkSettings,
    NetworkSource,
    create_network,
    load_network,
    save_network,
)
from metaprune_pl.networks.checks import plain_module
from metaprune_pl.networks.names import find_builder
from metaprune_pl.networks.states import read_state
from metaprune_pl.networks.trust import trust
from metaprune_pl.pruning import Magnitude, PruningSettings, prune

OWN = """
import torch
from torch import nn

def build(width=8, num_classes=10):
    pool = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(3, width, 3), *pool, nn.Linear(width, num_classes))

def broken():
    return undefined.thing

def no_network():
    return 3
"""


@pytest.fixture
def own(workdir: Path, request: pytest.FixtureRequest) -> str:
    """Write a module of the user's into the current folder and return its name."""
    name = f"own_{abs(hash(request.node.nodeid))}"
    (workdir / f"{name}.py").write_text(OWN)
    return name


# By name


@pytest.mark.parametrize(
    ("name", "full"),
    [("shufflenet_v2_x0_5", "torchvision"), ("test_vit", "timm"), ("timm/test_vit", "timm")],
)
def test_a_name_that_one_library_knows(name: str, full: str) -> None:
    network, card = NetworkSource(network=name).open()
    assert card.settings.builder == f"{full}/{name.rpartition('/')[2]}"
    assert card.input_shape == ((3, 160, 160) if full == "timm" else (3, 224, 224))
    assert not network.training


def test_a_name_that_both_libraries_know_is_refused() -> None:
    with pytest.raises(
        NetworkError, match=r"'resnet18' is ambiguous: torchvision/resnet18 or timm/resnet18\?"
    ):
        NetworkSource(network="resnet18").open()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mobilenet_v3_smal", "torchvision/mobilenet_v3_small"),
        ("timm/convnext_tinny", "timm/convnext_tiny"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_closest(name: str, meant: str) -> None:
    with pytest.raises(
        NetworkError, match=rf"no network '{name}'\. Did you mean '{meant}'\? Known: a folder of a"
    ):
        NetworkSource(network=name).open()


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", "/nowhere-to-write")
    monkeypatch.setattr("os.makedirs", lambda *a, **k: None)
    with pytest.raises(
        NetworkError,
        match=r"trained weights cannot be fetched \(Name or service not known\)\. Go online",
    ):
        NetworkSource(network="torchvision/resnet18", arguments={"weights": "DEFAULT"}).open()
    with pytest.raises(NetworkError, match=r"network 'torchvision/resnet18': no 'DEFALT'"):
        NetworkSource(network="torchvision/resnet18", arguments={"weights": "DEFALT"}).open()


def test_the_datas_classes_are_not_forced_on_trained_weights() -> None:
    settings = NetworkSettings(builder="torchvision/resnet18", arguments={"weights": "DEFAULT"})
    assert settings.for_data(10, 3).arguments == {"weights": "DEFAULT"}
    assert settings.without_downloads().arguments == {}


# Of one's own


def test_a_function_in_the_current_folder(own: str) -> None:
    network, card = NetworkSource(network=f"{own}:build", arguments={"width": 6}).open(
        input_shape=(3, 8, 8), num_classes=4
    )
    assert card.settings.arguments == {
        "width": 6,
        "num_classes": 4,
    }  # it has no `in_channels` to be filled in
    assert card.record == {"name": "build"}
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("buidl", r"has no function 'buidl' that builds a network\. Did you mean 'build'\?"),
        ("broken", r"name 'undefined' is not defined\. At .*own_\d+\.py:10\."),
        ("no_network", r"gave int, not a torch\.nn\.Module"),
    ],
)
def test_a_function_that_does_not_do(what: str, said: str, own: str) -> None:
    with pytest.raises(NetworkError, match=said):
        NetworkSource(network=f"{own}:{what}").open()
    with pytest.raises(NetworkError, match=r"import 'no_such_module' .* put that on PYTHONPATH\."):
        NetworkSource(network="no_such_module:build").open()


def test_a_file_is_one_module_and_nothing_elses(workdir: Path) -> None:
    Path("random.py").write_text("from torch import nn\n\nnet, build = nn.ReLU(), nn.Linear\n")
    trust("random:build")
    assert find_builder("random:build")[1] is find_builder("random.py:build")[1]
    assert hasattr(sys.modules["random"], "randint")
    trust("random:net")
    with pytest.raises(NetworkError, match=r"'random:net' is a network, not .*return net'"):
        find_builder("random:net")


def test_a_pruned_network_of_ones_own_loads_again(own: str, workdir: Path) -> None:
    network, card = NetworkSource(network=f"{own}:build").open(input_shape=(3, 8, 8), num_classes=4)
    image = torch.randn(1, 3, 8, 8)
    (small,) = prune(
        network,
        image,
        speed_ups=[2.0],
        criterion=Magnitude(),
        settings=PruningSettings(),
    )
    save_network("small", small, card)
    sys.modules.pop(own)
    assert torch.equal(load_network("small")(image), small(image))
    assert NetworkSource(network="small").open()[1].settings == card.settings


def stored_by(builder: str, **arguments: object) -> None:
    """Store a network that names its builder, as a stranger could."""
    card = NetworkCard(
        settings=NetworkSettings(arguments={"depth": 8, "width": 4}), input_shape=(3, 8, 8)
    )
    save_network("evil", create_network("cifar_resnet", depth=8, width=4), card)
    data = json.loads(Path("evil/network.json").read_text())
    data["settings"] = {"builder": builder, "arguments": arguments}
    Path("evil/network.json").write_text(json.dumps(data))


HOSTILE = {
    "a function of the library": ("os:mkdir", {"path": "harm"}),
    "annotated to return a module": ("torch.fx.graph_module:reduce_graph_module", {"body": {}}),
    "a class of modules": ("torch.nn:Identity", {}),
    "a module beside it": ("evil_here:build", {}),
    "a backbone": ("faster_rcnn", {"backbone": "evil_here:build"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_network_runs_no_code(name: str, workdir: Path) -> None:
    Path("evil_here.py").write_text("open('harm', 'w')")
    builder, arguments = HOSTILE[name]
    stored_by(builder, **arguments)
    named = arguments.get("backbone", builder)
    with pytest.raises(StorageError, match=rf"^evil/network\.json .*--trust {named} "):
        load_network("evil")
    assert not Path("harm").exists()
    assert "evil_here" not in sys.modules


@pytest.mark.parametrize("argument", ["pretrained", "weights", "checkpoint_path", "pretrained_cfg"])
def test_a_strangers_network_fetches_nothing(argument: str, workdir: Path) -> None:
    stored_by("timm/test_vit", **{argument: "elsewhere"})
    with pytest.raises(StorageError, match=f"network.json is damaged .argument '{argument}'"):
        load_network("evil")


def test_a_network_that_a_person_knows_is_built(own: str, workdir: Path) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(NetworkError, match=f"is not imported. If you know it, add --trust {own}:"):
        create_network(f"{own}:build")
    trust(f"{own}:build")
    assert isinstance(create_network(f"{own}:build"), nn.Sequential)
    settings = NetworkSettings(builder=f"{own}_gone:build")
    save_network("mine", layers, NetworkCard(settings=settings, input_shape=(3, 1, 1)))
    code = "from metaprune_pl.networks import load_network\n" + (
        "from torch import nn\n"
        "def build(): return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))\n"
        "load_network('mine', builder=build)\nload_network('mine')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # where nobody has named it before


@pytest.mark.parametrize(
    "arguments",
    [{"width": 100_000}, {"depth": 6_000_002}, {"num_classes": 2**40}, {"width": 2**70}],
)
def test_a_small_file_does_not_make_a_huge_network(
    arguments: dict[str, int], workdir: Path
) -> None:
    stored_by("cifar_resnet", **{"depth": 8, "width": 4, **arguments})
    with pytest.raises((StorageError, NetworkError), match=r"far larger than its weights|network"):
        load_network("evil")


def test_a_stored_network_takes_no_arguments(workdir: Path) -> None:
    Path("net").mkdir()
    with pytest.raises(
        ConfigError, match="'net' is a stored network: it takes no arguments and no state"
    ):
        NetworkSource(network="net", arguments={"depth": 8})


# With a state


def resnet(**arguments: object) -> nn.Module:
    return create_network("cifar_resnet", seed=1, **{"depth": 8, "width": 4, **arguments})


def keep_torch(state: dict[str, Tensor]) -> str:
    torch.save(state, "state.pt")
    return "state.pt"


def keep_safetensors(state: dict[str, Tensor]) -> str:
    save_file(state, "state.safetensors")
    return "state.safetensors"


def keep_wrapped(state: dict[str, Tensor]) -> str:
    torch.save(
        {"epoch": 3, "model": {"state_dict": {f"module.{n}": v for n, v in state.items()}}},
        "state.ckpt",
    )
    return "state.ckpt"


@pytest.mark.parametrize("keep", [keep_torch, keep_safetensors, keep_wrapped])
def test_a_state_from_a_file(keep: Callable[[dict[str, Tensor]], str], workdir: Path) -> None:
    expected = resnet().state_dict()
    file = keep(expected)
    network, _ = NetworkSource(
        network="cifar_resnet", arguments={"depth": 8, "width": 4}, state=file
    ).open()
    assert all(torch.equal(expected[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"num_classes": 7},
            r"'fc' has weight 7x16, bias 7, and 'fc' of the file has weight 10x16, bias 10",
        ),
        ({"depth": 14}, r"the file has nothing for 'layer1\.1\.conv1' \(weight 4x4x3x3\)"),
        (
            {"shortcut": "pad"},
            r"the network has nothing for 'layer2\.0\.shortcut\.0' \(weight 8x4x1x1\)",
        ),
    ],
)
def test_a_state_that_does_not_fit(arguments: dict[str, object], said: str, workdir: Path) -> None:
    keep_torch(resnet().state_dict())
    source = NetworkSource(
        network="cifar_resnet", arguments={"depth": 8, "width": 4, **arguments}, state="state.pt"
    )
    with pytest.raises(StorageError, match=said):
        source.open()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, ("evil.txt", "w"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no file 'state.pt'"),
        ({"a": Evil()}, "more than tensors and plain values; it is not loaded"),
        (b"xyz", "'state.pt'"),
        ({"foo": {"bar": {"a": torch.zeros(1)}}}, "holds no state dict, .* but 'foo'"),
        ([1], "holds no state dict"),
    ],
)
def test_a_file_that_is_no_state(content: object, said: str, workdir: Path) -> None:
    if isinstance(content, bytes):
        Path("state.pt").write_bytes(content)
    elif content is not None:
        torch.save(content, "state.pt")
    with pytest.raises(StorageError, match=said):
        NetworkSource(network="cifar_resnet", state="state.pt").open()
    assert not Path("evil.txt").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_of_several_states_in_a_file_it_is_told_which_is_taken(
    workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = convolutions()
    state, own = network.state_dict(), {"epoch": 3, "optimizer": {"state": {0: {}}}}
    for others, said in ({}, ""), ({"model_ema": state}, "'model' is taken, and not 'model_ema'."):
        torch.save({**others, **own, "model": state}, "state.pth")
        with caplog.at_level("INFO"):
            assert read_state("state.pth", network).keys() == state.keys()
        assert (said in caplog.text) if said else not caplog.text


def test_a_program_is_no_state(workdir: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), "state.pt")
    with pytest.raises(StorageError, match=r"is a TorchScript program\. Store the state_dict"):
        read_state("state.pt", resnet())


def test_what_a_builder_prints_is_seen_once(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "from torch import nn\n\ndef build():\n    print('hello')\n    return nn.Linear(1, 1)\n"
    Path("talker.py").write_text(code)
    trust("talker:build")
    for _ in range(3):
        create_network("talker:build")
    assert capsys.readouterr().out == "hello\n"


def looped() -> dict[str, object]:
    state: dict[str, object] = {}
    state["state_dict"] = state
    return state


STATES = {
    "number as a name": ({1: torch.zeros(2)}, "names a tensor 1, which is no text"),
    "sparse": ({"a": torch.zeros(2, 2).to_sparse()}, r"'a' .* is no plain tensor \(sparse_coo"),
    "meta": ({"a": torch.zeros(2, 2, device="meta")}, "'a' .* is no plain tensor .*meta"),
    "quantised": (
        {"a": torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)},
        "'a' .* is no plain tensor .*qint8",
    ),
    "in itself": (looped(), "holds no state dict"),
}


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("name", STATES)
def test_a_state_of_odd_things_is_one_line(name: str, workdir: Path) -> None:
    content, said = STATES[name]
    torch.save(content, "state.pt")
    with pytest.raises(StorageError, match=said):
        read_state("state.pt", resnet())


def test_a_state_that_unpacks_to_far_more_than_the_network_is_not_read(workdir: Path) -> None:
    torch.save(resnet().state_dict(), "state.pt")
    with zipfile.ZipFile("state.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("state/data/999", bytes(2**27))
    assert Path("state.pt").stat().st_size < 2**20
    with pytest.raises(StorageError, match=r"unpacks to .* bytes, and .* at most are expected"):
        read_state("state.pt", resnet())


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_state_is_one_line(share: float, workdir: Path) -> None:
    torch.save(resnet().state_dict(), "state.pt")
    content = Path("state.pt").read_bytes()
    Path("state.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(StorageError, match="is damaged, or no file of a network's state"):
        read_state("state.pt", resnet())


def test_a_pipe_is_no_state(workdir: Path) -> None:
    os.mkfifo("state.pt")
    with pytest.raises(StorageError, match="it is no ordinary file"):
        read_state("state.pt", resnet())


def convolutions() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: torch.ao.quantization.quantize_dynamic(convolutions()),
            r"quantised \(layer '2' is a Linear\)",
        ),
        (
            lambda: torch.jit.trace(convolutions(), torch.zeros(1, 3, 1, 1)),
            "is a TorchScript module",
        ),
        (
            lambda: nn.Sequential(nn.LazyConv2d(4, 1)),
            r"not initialised \(layer '0' is a LazyConv2d\)",
        ),
        (
            lambda: nn.Sequential(masked(nn.Conv2d(3, 4, 1))),
            r"layer '0' has a pruning mask on its weight.*prune.remove",
        ),
        (
            lambda: nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 1))),
            "layer '0' computes its weight anew in each pass.*torch.nn.utils.remove_weight_norm",
        ),
        (
            lambda: nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 4, 1))),
            "layer '0' computes its weight anew in each pass.*torch.nn.utils.remove_spectral_norm",
        ),
        (lambda: nn.Sequential(WithComputed()), "layer '0' has computed its 'twice' once"),
        (lambda: {"state_dict": {}}, "gave dict, not a torch"),
    ],
)
def test_a_module_without_weights_of_its_own_is_refused(
    build: Callable[[], object], said: str
) -> None:
    with pytest.raises(NetworkError, match=said):
        plain_module(build(), "mine:build")


class WithComputed(nn.Linear):
    """Keeps a tensor that it computed from its weight when it was made."""

    def __init__(self) -> None:
        super().__init__(3, 4)
        self.twice = 2 * self.weight


def masked(layer: nn.Module) -> nn.Module:
    return l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-any-return, no-untyped-call]


def normed() -> nn.Module:
    """A network that computes weights in each pass."""
    middle = weight_norm(nn.Conv2d(8, 8, 3)), nn.ReLU(), spectral_norm(nn.Conv2d(8, 4, 1))
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *middle, nn.Flatten(), nn.Linear(64, 2))


def test_a_network_that_computes_weights_is_built_pruned_stored_and_loaded(tmp_path: Path) -> None:
    trust(f"{__name__}:normed")
    network = create_network(f"{__name__}:normed", seed=0).eval()
    image = torch.randn(1, 3, 8, 8)
    (pruned,) = prune(network, image, speed_ups=[1.3])
    card = NetworkCard(
        settings=NetworkSettings(builder=f"{__name__}:normed"), input_shape=(3, 8, 8)
    )
    save_network(tmp_path / "network", pruned, card)
    assert torch.equal(load_network(tmp_path / "network")(image), pruned(image))


def test_wrappers_are_taken_off() -> None:
    network = convolutions()
    for wrapped in (
        nn.DataParallel(network),
        torch.compile(network),
        torch.compile(nn.DataParallel(network)),
    ):
        assert plain_module(wrapped, "mine:build") is network
