"""The command line: LightningCLI with our subcommands, short errors and shipped configs."""
