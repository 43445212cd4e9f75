"""`metaprune`: answers help and version without importing torch, and leaves the rest to `cli.app`."""

import sys

from metaprune_pl import __version__

COMMANDS = {
    "fit": "Train a metanetwork, or one network further.",
    "validate": "Evaluate on the validation images.",
    "test": "Evaluate on the test images.",
    "data_models": "Make data models: train, prune a little, finetune; several processes may share the work.",
    "prune": "Prune a network to speed-ups, or mask its weights.",
    "curve": "Draw accuracy over speed-up, or over compression by masks.",
    "select": "Choose among the metanetworks of all epochs by their validation curves.",
    "analyze": "Compare statistics of a network's weights before and after the metanetwork.",
    "detect": "Train a detector, and prune its backbone with and without a metanetwork.",
    "inspect": "Tell what can be pruned in a network, before any training.",
    "experiment": "Run the whole method with its controls, and report.",
    "compare": "Run experiments beside each other, with their metanetworks exchanged.",
}

HELP = """usage: metaprune COMMAND --config CONFIG [--KEY VALUE ...]

Makes a network faster: a metanetwork rewrites its weights so that pruning hurts less.

commands:
{commands}

Start with:        metaprune experiment --config quickstart.yaml
All settings:      metaprune COMMAND --help
What would run:    metaprune COMMAND --config CONFIG --print_config
A CONFIG that is no file is looked up among the shipped ones:
{configs}
"""


def main(args: list[str] | None = None) -> None:
    """Run the command line; exits with status 1 or 2 on a person's mistake."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in {"-h", "--help"}:
        from metaprune_pl.cli.configs import shipped_configs

        commands = "\n".join(f"  {name:<13}{text}" for name, text in COMMANDS.items())
        sys.stdout.write(HELP.format(commands=commands, configs="  " + " ".join(shipped_configs())))
    elif args[0] == "--version":
        sys.stdout.write(f"metaprune {__version__}\n")
    else:
        from metaprune_pl.cli.app import main as run

        run(args)


if __name__ == "__main__":
    main()
