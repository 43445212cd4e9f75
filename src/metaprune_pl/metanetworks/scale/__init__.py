"""Metanetworks that respect scales and signs of channels (ScaleGMN, Kalogeropoulos et al., 2024).

Letters in shapes: N nodes, H hidden width, G blocks of a connection, O (or R, some of them) output
and I input neurons per block, T taps.
"""

from metaprune_pl.metanetworks.scale.operator import ScaleMetanetwork
from metaprune_pl.metanetworks.scale.predictor import ScalePredictor

__all__ = ["ScaleMetanetwork", "ScalePredictor"]
