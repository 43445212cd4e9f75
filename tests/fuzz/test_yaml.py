"""Mutated configs: each is read, or refused in one line; nothing is imported, nothing hangs.

`METAPRUNE_FUZZ=500` tries as many mutations of each config instead of a few; `pytest -l` shows
the seed of one that fails.
"""

import os
import random
import sys
import time
from pathlib import Path

import pytest

from metaprune_pl.cli.commands import load
from metaprune_pl.errors import LONGEST, MetapruneError
from metaprune_pl.settings.parsing import parser_of
from metaprune_pl.settings.shipped import shipped_configs

MUTATIONS = int(os.environ.get("METAPRUNE_FUZZ", "12"))
LONGEST_SECONDS = 10
CANARY = "canary_of_the_yaml_fuzzer"
CONFIGS = {
    "data_models": "data_quickstart.yaml",
    "prune": "prune_quickstart.yaml",
    "curve": "curve_quickstart.yaml",
    "experiment": "quickstart.yaml",
}
VALUES = [
    "",
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "1e999",
    ".nan",
    ".inf",
    "9" * 5000,
    "2001-01-01",
    "2001-99-99",
    "!!bool maybe",
    "!!timestamp never",
    "!!int ''",
    "!!float x",
    "!!set [1]",
    "!!omap {a: 1}",
    "{[1]: 2}",
    "{{a: 1}: 2}",
    "!!python/object/apply:os.system [touch ran]",
    "!!python/name:os.system",
    "!!binary eA==",
    "&a [*a]",
    "*nothing",
    "<<",
    "[1, [2, [3]]]",
    "{a: {b: {c: 1}}}",
    "[" * 3000,
    "'\\0'",
    '"\\uD800"',
    "\x07",
    "..",
    "/dev/zero",
    "inner.yaml",
    f"{CANARY}.Build",
    f"{CANARY}:build",
    f"{{class_path: {CANARY}.Build}}",
    f"{{class_path: {CANARY}.Build, init_args: {{a: 1}}}}",
    f"[{{class_path: {CANARY}.Build}}]",
    "os.system",
    "{class_path: subprocess.Popen, init_args: {args: [touch, ran]}}",
    "{class_path: torch.utils.data.DataLoader}",
]
KEYS = ["include", "config", "class_path", "init_args", "network", "trainer", "criterion", "data"]


def mutated(text: str, rng: random.Random) -> str:
    """Exchange a value, remove, repeat or indent a line, add one, or change characters."""
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    way = rng.randrange(6)
    if way < 2:
        lines[at] = f"{lines[at].partition(':')[0]}: {rng.choice(VALUES)}"
    elif way == 2:
        del lines[at]
    elif way == 3:
        lines[at:at] = [rng.choice([" ", "  ", "\t", ""]) + lines[at]]
    elif way == 4:
        lines.append(f"{rng.choice(KEYS)}: {rng.choice(VALUES)}")
    else:
        characters = list("\n".join(lines))
        for _ in range(rng.randrange(1, 4)):
            characters[rng.randrange(len(characters))] = rng.choice(":[]{}&*!|>'\"%@-#, \n\tx0é")
        return "".join(characters)
    return "\n".join(lines)


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("command", CONFIGS)
def test_mutations(command: str, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shipped_configs()[CONFIGS[command]].read_text()
    Path(f"{CANARY}.py").write_text(f"open({str(workdir / 'ran')!r}, 'w')")
    Path("inner.yaml").write_text(f"class_path: {CANARY}.Build\n")
    monkeypatch.syspath_prepend(workdir)
    parser = parser_of(load(command))
    before, refused = sorted(workdir.iterdir()), 0
    for seed in range(MUTATIONS):
        rng = random.Random(seed)
        mutant = text
        for _ in range(rng.randrange(1, 3)):
            mutant = mutated(mutant, rng)
        config = workdir.parent / "mutant.yaml"
        config.write_text(mutant)
        start = time.process_time()
        try:
            parser.parse_args([f"--config={config}"])
        except MetapruneError as error:
            refused += 1
            assert "\n" not in str(error).strip(), seed
            assert len(str(error)) <= LONGEST + 4, seed
        assert time.process_time() - start < LONGEST_SECONDS, seed
        assert sorted(workdir.iterdir()) == before, seed
    assert CANARY not in sys.modules
    assert refused > MUTATIONS // 4
