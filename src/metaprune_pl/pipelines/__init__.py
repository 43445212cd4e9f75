"""What people run, as plain functions that read top to bottom: prune, curve, inspect and the whole experiment."""
