"""Output that goes nowhere ends in one line at most."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("flag", ["--version", "--help"])
@pytest.mark.parametrize(
    ("where", "said", "code"),
    [
        ("> /dev/full", "error: cannot write the output: No space left on device.\n", 1),
        (">&-", "", 0),
        ("| true", "", 1),
    ],
)
def test_it_ends_quietly(flag: str, where: str, said: str, code: int) -> None:
    line = f"{sys.executable} -m metaprune_pl {flag} {where}"
    shell = ["bash", "-o", "pipefail", "-c", line]
    ended = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert ended.stderr == said and ended.returncode in {0, code}
