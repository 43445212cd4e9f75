"""Writing is all or nothing: at a kill, a full disk, and over what somebody else keeps there."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from metaprune_pl import files
from metaprune_pl.errors import StorageError
from metaprune_pl.files import (
    UNFINISHED,
    claim,
    paths_below,
    read_json,
    remove_unfinished,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)

FOLDER = (
    "with whole_folder(Path('runs/networks/seed')) as new: (new / 'network.json').touch(); die()"
)
KILLED = {
    "file": "with whole_file(Path('runs/a.json')) as new: new.touch(); die()",
    "new folder": FOLDER,
    "replaced folder": FOLDER,
}


def die_while(code: str) -> None:
    """Run code in a process of its own that is killed where the code says so."""
    start = (
        "import os; from pathlib import Path; from metaprune_pl.files import *\n"
        "def die(*_): os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.run([sys.executable, "-c", start + code], check=False)
    assert process.returncode == -signal.SIGKILL


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", KILLED)
def test_what_a_kill_leaves_is_in_no_glob_and_goes_at_the_next_start(
    workdir: Path, kind: str
) -> None:
    Path("runs/networks").mkdir(parents=True)
    if kind == "replaced folder":
        Path("runs/networks/seed").mkdir()
    before = listing(workdir)
    die_while(KILLED[kind])
    assert listing(workdir) > before
    for pattern in ("*.json", "*/network.json", "networks/*/network.json", "*/*/network.json"):
        assert not list(Path("runs").glob(pattern))
    assert not list(Path("runs").rglob("a.json"))
    remove_unfinished(Path("runs"))
    assert listing(workdir) == before


def test_a_folder_that_was_moved_aside_when_its_writer_died_comes_back(workdir: Path) -> None:
    write_json(workdir / "network" / "network.json", 1)
    die_while(
        "from metaprune_pl import files; files._exchange = lambda *paths: False\n"
        "files.os.replace = lambda new, place: Path(place).suffix or die()\n"
        "with whole_folder(Path('network')) as new: (new / 'network.json').write_text('2')"
    )
    assert not Path("network").exists()
    remove_unfinished(workdir)
    assert listing(workdir) == {"network", "network/network.json"}
    assert read_json(Path("network/network.json")) == 1


@pytest.mark.parametrize("exchange", [True, False])
def test_an_older_folder_is_replaced(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    for text in ("old", "new"):
        with whole_folder(Path("network")) as folder:
            write_text(folder / "network.json", text)
    assert Path("network/network.json").read_text() == "new"
    assert listing(workdir) == {"network", "network/network.json"}


@pytest.mark.parametrize("through", ["models", "link"])
def test_what_somebody_keeps_in_a_folder_is_never_replaced(workdir: Path, through: str) -> None:
    write_text(Path("models/thesis.tex"), "all my work")
    Path("link").symlink_to("models")
    before = listing(workdir)
    with pytest.raises(StorageError, match=rf"'{through}' is not replaced: it holds 'thesis\.tex'"):
        with whole_folder(Path(through)) as new:
            write_text(new / "network.json", "")
    assert listing(workdir) == before


def test_a_symbolic_link_stays_one_when_its_folder_is_replaced(workdir: Path) -> None:
    write_text(Path("elsewhere/network.json"), "old")
    Path("link").symlink_to("elsewhere")
    with whole_folder(Path("link")) as new:
        write_text(new / "network.json", "new")
    assert Path("link").is_symlink()
    assert Path("elsewhere/network.json").read_text() == "new"


def test_a_start_leaves_alone_what_another_process_is_writing(workdir: Path) -> None:
    with whole_folder(Path("network")) as new:
        remove_unfinished(workdir)
        write_text(new / "network.json", "")
    assert listing(workdir) == {"network", "network/network.json"}


def full(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            errno.ENOSPC,
            "No space left on device. Free some space; the same command then continues.",
        ),
        (errno.EROFS, "Read-only file system. Choose a folder that you may write to."),
        (errno.EIO, "Input/output error."),
    ],
)
def test_what_the_system_refuses_is_one_line_and_leaves_the_older_file(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    write_text(Path("a.json"), "old")
    monkeypatch.setattr(os, "fsync", full(number))
    with pytest.raises(StorageError) as caught:
        write_text(Path("a.json"), "new")
    assert str(caught.value) == f"cannot write 'a.json': {said}"
    assert listing(workdir) == {"a.json"}
    assert Path("a.json").read_text() == "old"


def test_names_of_full_length_can_be_written(workdir: Path) -> None:
    write_text(Path("a" * 250 + ".json"), "")
    with whole_folder(Path("b" * 255)) as new:
        write_text(new / "c", "")
    with pytest.raises(StorageError, match=r"File name too long\. Choose a shorter name\."):
        write_text(Path("d" * 256), "")
    assert not list(workdir.glob(f"{UNFINISHED}*"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is not finite"),
        ("[-Infinity]", "-Infinity is not finite"),
        ("[1e999]", "1e999 is not finite"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
        ("{", "Expecting property name"),
    ],
)
def test_json_that_is_none_is_one_line(workdir: Path, text: str, said: str) -> None:
    Path("a.json").write_text(text)
    with pytest.raises(StorageError, match=rf"cannot read a\.json: {said}"):
        read_json(Path("a.json"))


def test_what_is_no_ordinary_file_is_not_read(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo("pipe")
    for name in ("pipe", "/dev/zero", "."):
        with pytest.raises(StorageError, match="it is no ordinary file"):
            read_json(Path(name))
    monkeypatch.setattr(files, "LARGEST_JSON", 3)
    Path("a.json").write_text("[1, 2]")
    with pytest.raises(StorageError, match="it has 6 bytes, and 3 at most are expected"):
        read_json(Path("a.json"))


def test_json_holds_finite_numbers_only(workdir: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(Path("a.json"), float("nan"))
    assert not listing(workdir)


def test_a_whole_file_keeps_its_suffix_for_those_who_go_by_it(workdir: Path) -> None:
    with whole_file(Path("made/curve.png")) as new:
        assert new.suffix == ".png"
        new.touch()
    assert listing(workdir) == {"made", "made/curve.png"}


def test_a_claim_is_one_holders(workdir: Path) -> None:
    with claim(Path("a/claim")) as mine, claim(Path("a/claim")) as other:
        assert (mine, other) == (True, False)
    with claim(Path("a/claim")) as mine:
        assert mine
        assert Path("a/claim").read_text().startswith(f"process {os.getpid()} on ")


def test_a_listing_survives_what_others_remove_meanwhile(tmp_path: Path) -> None:
    """Two processes write and finish thousands of files while this one lists the folder."""
    stop = tmp_path / "stop"
    folder = tmp_path / "shared"
    folder.mkdir()
    code = (
        "import sys; from pathlib import Path; from metaprune_pl.files import write_text\n"
        "folder, stop = map(Path, sys.argv[1:])\n"
        "while not stop.exists(): write_text(folder / 'a', '')"
    )
    command = [sys.executable, "-c", code, str(folder), str(stop)]
    writers = [subprocess.Popen(command) for _ in range(2)]
    try:
        while not (folder / "a").exists():
            assert all(writer.poll() is None for writer in writers)
        for _ in range(3000):
            paths_below(folder)
            remove_unfinished(folder)
    finally:
        stop.touch()
        assert [writer.wait() for writer in writers] == [0, 0]
    assert paths_below(folder) == [folder / "a"]
