"""A network goes to a repository and comes back, with a local server for the Hub."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from helpers import random_resnet
from metaprune_pl.__main__ import main
from metaprune_pl.networks import NetworkCard, NetworkSettings, load_network, save_network

FILES: dict[str, bytes] = {}
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of its server, for files that fit into a commit."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, data: object, status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Make the repository, and take files and commits."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self._answer({"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    FILES[value["path"]] = base64.b64decode(value["content"])
            url = f"http://{self.headers['Host']}/me/net/commit/{COMMIT}"
            self._answer({"success": True, "commitOid": COMMIT, "commitUrl": url})
        elif self.path.endswith("/repos/create"):
            self._answer({"url": f"http://{self.headers['Host']}/me/net", "id": "me/net"})
        else:
            self._answer({})

    def _file(self, *, body: bool) -> None:
        content = FILES.get(self.path.rpartition("/")[2])
        if content is None or "/me/net/" not in self.path:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_GET(self) -> None:
        """Give a file, or tell of the repository."""
        if "/api/models/me/net" in self.path:
            self._answer({"id": "me/net"})
        else:
            self._file(body=True)

    def do_HEAD(self) -> None:
        """Tell of a file."""
        self._file(body=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A Hub of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    from huggingface_hub import constants, file_download, hf_api

    for module in (constants, hf_api):
        monkeypatch.setattr(module.__name__ + ".ENDPOINT", address, raising=False)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):
        monkeypatch.setattr(
            module.__name__ + ".HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
        )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    FILES.clear()
    yield
    server.shutdown()
    server.server_close()


def store() -> torch.nn.Module:
    arguments = {"depth": 8, "width": 4, "num_classes": 2, "in_channels": 3}
    network = random_resnet(**arguments)
    settings = NetworkSettings(builder="cifar_resnet", arguments=arguments)
    save_network("net", network, NetworkCard(settings=settings, input_shape=(3, 16, 16)))
    return network


def test_a_network_goes_there_and_back(
    hub: None, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = store()
    main(["push", "net", "me/net"])
    assert set(FILES) == {"network.json", "weights.safetensors", "README.md"}
    assert b"metaprune pull me/net" in FILES["README.md"]
    main(["pull", "me/net"])
    assert "pulled/net" in capsys.readouterr().out
    fetched = load_network("pulled/net")
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(fetched(images), network(images))


def test_nothing_that_is_there_is_replaced(
    hub: None, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store()
    FILES["README.md"] = b"my own page"
    main(["push", "net", "me/net"])
    assert FILES["README.md"] == b"my own page"
    before = Path("net/weights.safetensors").stat().st_mtime_ns
    with pytest.raises(SystemExit):
        main(["pull", "me/net", "--folder=net"])
    assert "'net' is there already" in capsys.readouterr().err
    assert Path("net/weights.safetensors").stat().st_mtime_ns == before


def test_code_that_a_repository_names_is_not_run(
    hub: None, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store()
    main(["push", "net", "me/net"])
    card = json.loads(FILES["network.json"])
    card["settings"] = {"builder": "os:system", "arguments": {}}
    FILES["network.json"] = json.dumps(card).encode()
    with pytest.raises(SystemExit) as stop:
        main(["pull", "me/net"])
    assert stop.value.code == 1 and not Path("pulled/net").exists()
    assert "is not imported" in capsys.readouterr().err.replace(
        "It is not imported", "is not imported"
    )


@pytest.mark.parametrize(
    "args", [["pull", "me/other"], ["pull", "a b/c"], ["push", "nowhere", "me/net"]]
)
def test_wrong_uses(
    args: list[str], hub: None, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 1
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message
    assert not Path("pulled").exists() or not list(Path("pulled").iterdir())
