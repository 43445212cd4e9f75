"""Networks that read a network's graph, most of them to give it new weights.

Letters in shapes: N nodes, F node features, H hidden width, G blocks of a connection, O and I its
output and input neurons per block, T taps.
"""

from metaprune_pl.metanetworks.base import Metanetwork, Rewriter
from metaprune_pl.metanetworks.pna import PNAMetanetwork
from metaprune_pl.metanetworks.pna_pyg import PyGMetanetwork
from metaprune_pl.metanetworks.scale import ScaleMetanetwork, ScalePredictor
from metaprune_pl.metanetworks.storage import load_metanetwork, save_metanetwork

__all__ = [
    "Metanetwork",
    "PNAMetanetwork",
    "PyGMetanetwork",
    "Rewriter",
    "ScaleMetanetwork",
    "ScalePredictor",
    "load_metanetwork",
    "save_metanetwork",
]
