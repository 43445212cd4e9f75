"""Graph in, graph of the same shape out: networks that rewrite a network's weights.

Letters in shapes: N nodes, F node features, H hidden width, G blocks of a connection, O and I its
output and input neurons per block, T taps.
"""

from metaprune_pl.metanetworks.base import Metanetwork
from metaprune_pl.metanetworks.pna import PNAMetanetwork
from metaprune_pl.metanetworks.storage import load_metanetwork, save_metanetwork

__all__ = ["Metanetwork", "PNAMetanetwork", "load_metanetwork", "save_metanetwork"]
