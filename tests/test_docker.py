"""The image and its services: what is copied is there, nobody is root, nothing listens outside."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def instructions(name: str) -> list[str]:
    """What follows an instruction's name, wherever it comes in the Dockerfile."""
    return [line.removeprefix(name).strip() for line in LINES if line.startswith(f"{name} ")]


def test_what_is_copied_is_there_and_sent_to_the_builder() -> None:
    ignore = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {source for line in instructions("COPY") for source in line.split()[:-1]}
    assert ignore[0] == "*" and copied == sent
    for name in copied:
        assert (ROOT / name).exists(), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {project["project"]["readme"], "src", *wheel["force-include"]} <= copied


def test_the_program_does_not_run_as_root() -> None:
    users = [line for line in LINES if line.startswith(("USER ", "ENTRYPOINT "))]
    assert re.fullmatch(r"USER [1-9]\d*", users[-2]) and users[-1] == 'ENTRYPOINT ["metaprune"]'
    for name in ("metaprune", "metaprune-gpu"):
        assert SERVICES[name]["user"] == "${UID:-1000}:${GID:-1000}"


def test_versions_are_arguments_of_the_build() -> None:
    arguments = {line.partition("=")[0] for line in instructions("ARG")}
    assert {"PYTHON", "TORCH", "INDEX"} <= arguments
    assert instructions("FROM") == ["python:${PYTHON}-slim"]
    for service in SERVICES.values():
        build = service.get("build", {})
        assert build.get("args", {}).keys() <= arguments
        assert "build" not in service or (ROOT / build["dockerfile"]).is_file()


def test_ports_are_those_of_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
