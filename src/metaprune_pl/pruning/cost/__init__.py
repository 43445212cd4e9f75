"""Costs of networks, one class each, which a config names as `pruning.cost`; measured times."""

from metaprune_pl.pruning.cost.base import Cost
from metaprune_pl.pruning.cost.latency import Latency, measure_latencies
from metaprune_pl.pruning.cost.macs import Macs
from metaprune_pl.pruning.cost.parameters import Parameters, count_parameters

__all__ = ["Cost", "Latency", "Macs", "Parameters", "count_parameters", "measure_latencies"]
