"""Benchmarks: each prints what it measured beside the other way to do it, in one run.

`python -m tests.benchmarks` runs all of them, `python -m tests.benchmarks metanetwork sparsity`
some. The number of threads is that of OMP_NUM_THREADS. The other ways are the PyG reference, the
authors' meta-step, torch-pruning and torchvision.
"""

import argparse
import subprocess
import sys

NAMES = ("metanetwork", "scale", "meta_step", "scaling", "graphs", "sparsity", "input_pipeline")


def main() -> None:
    """Run benchmarks by name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        choices=[[], *NAMES],
        help=f"which, of {', '.join(NAMES)}; all by default",
    )
    for name in parser.parse_args().names or NAMES:
        print(f"\n== {name}", flush=True)
        subprocess.run(
            [sys.executable, "-W", "ignore", "-m", f"tests.benchmarks.{name}"], check=True
        )


if __name__ == "__main__":
    main()
