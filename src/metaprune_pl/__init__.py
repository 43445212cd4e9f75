"""Meta pruning via graph metanetworks, as a PyTorch Lightning application.

The line that everything else feeds or reads::

    network -> graph -> metanetwork -> graph -> network -> criterion -> pruned network -> report
"""

__version__ = "0.1.0"
