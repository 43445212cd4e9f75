"""Kills the real quickstart at random times, continues it, and compares with an uninterrupted run.

    python tests/fuzz/kill_quickstart.py --runs 3 --kills 7

Takes some minutes a run. Each run's report must equal that of the run that was left alone, up to
what was measured of time and memory, and no unfinished file may be left.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from test_kills import differing, on_disk

COMMAND = [sys.executable, "-W", "ignore", "-m", "metaprune_pl", "experiment"]
FLAGS = [
    "--config=quickstart.yaml",
    "--trainer.default_root_dir=run",
    "--trainer.enable_progress_bar=false",
]
EARLIEST, LATEST = 6.0, 45.0
"""Seconds after the start of a process in which it is killed."""


def main() -> None:
    """Run the comparison; exits with status 1 where a run differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kills", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, kills, wrong = random.Random(asked.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        finish(whole)
        for index in range(asked.runs):
            own = Path(folder) / f"run_{index}"
            times = [rng.uniform(EARLIEST, LATEST) for _ in range(asked.kills)]
            done = sum(killed(own, seconds) for seconds in times)
            finish(own)
            names = differing(on_disk(own / "run"), on_disk(whole / "run"))
            facts = {"run": index, "kills": done, "differing": names}
            sys.stdout.write(f"{json.dumps(facts)}\n")
            sys.stdout.flush()
            kills, wrong = kills + done, wrong + bool(names)
    sys.stdout.write(f"{kills} kills in {asked.runs} runs, {wrong} of which differ\n")
    sys.exit(bool(wrong))


def killed(folder: Path, seconds: float) -> bool:
    """Start or continue a run, and return whether it was still at work when it was killed."""
    folder.mkdir(exist_ok=True)
    try:
        subprocess.run(
            [*COMMAND, *FLAGS], cwd=folder, timeout=seconds, capture_output=True, check=True
        )
    except subprocess.TimeoutExpired:  # `run` kills it then, by SIGKILL
        return True
    return False


def finish(folder: Path) -> None:
    """Run to the end."""
    folder.mkdir(exist_ok=True)
    subprocess.run([*COMMAND, *FLAGS], cwd=folder, capture_output=True, check=True)


if __name__ == "__main__":
    main()
