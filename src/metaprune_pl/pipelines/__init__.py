"""What people run, as plain functions that read top to bottom.

Prune, curve, inspect and the whole experiment.
"""
