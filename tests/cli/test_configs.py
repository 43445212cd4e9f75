from pathlib import Path

import pytest
import yaml

from metaprune_pl.__main__ import main
from metaprune_pl.cli.configs import find_config, shipped_configs
from metaprune_pl.errors import StorageError

COMMANDS = {"data": "fit", "meta": "fit", "curve": "curve", "prune": "prune"}


def command_of(name: str) -> str:
    return COMMANDS.get(name.partition("_")[0], "experiment")


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_config_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command_of(name), "--config", name, "--print_config"])
    assert stop.value.code == 0
    written, parsed = yaml.safe_load(find_config(name).read_text()), yaml.safe_load(capsys.readouterr().out)
    assert parsed["trainer"]["default_root_dir"] == written["trainer"]["default_root_dir"]


def test_a_file_comes_before_a_shipped_config(workdir: Path) -> None:
    (workdir / "quickstart.yaml").write_text("{}")
    assert find_config("quickstart.yaml") == Path("quickstart.yaml")
    assert find_config("meta_quickstart.yaml").is_absolute()


def test_an_unknown_config_names_the_closest() -> None:
    with pytest.raises(StorageError, match=r"no config 'meta_quikstart.yaml': no such file. Did you mean 'meta_quick"):
        find_config("meta_quikstart.yaml")


def test_a_config_printed_can_be_fed_back(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prune", "--config", "prune_quickstart.yaml", "--print_config"])
    printed = capsys.readouterr().out
    (workdir / "again.yaml").write_text(printed)
    with pytest.raises(SystemExit):
        main(["prune", "--config", "again.yaml", "--print_config"])
    assert capsys.readouterr().out == printed
