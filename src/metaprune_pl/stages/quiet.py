"""What Lightning tells that nobody asked for."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_ADVERTS = (
    "💡",
    "Seed set to",
    "GPU available",
    "TPU available",
    "Loading `train_dataloader` to estimate",
    "`Trainer.fit` stopped",
)
_HINTS = (
    "does not have many workers",  # image sets live in memory
    "LightningCLI's args parameter",  # tests and the launcher call us with arguments
    "logging interval",  # toy epochs have few steps
    "Checkpoint directory .* exists",  # an unfinished run continues
    "in eval mode at the start of training",  # data models in meta-training
    "isinstance.treespec, LeafSpec",  # lightning 2.6 with torch 2.15
)
_ADVERTISERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")
_TRACING = "torch.fx.experimental.symbolic_shapes"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's adverts, and hints about what is meant to be so, out of the way."""
    loggers = [logging.getLogger(name) for name in (*_ADVERTISERS, _TRACING)]
    for logger in loggers:
        logger.addFilter(_matters)
    try:
        with warnings.catch_warnings():
            for hint in _HINTS:
                warnings.filterwarnings("ignore", message=f".*{hint}.*")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_matters)


def _matters(record: logging.LogRecord) -> bool:
    tracing = record.name == _TRACING  # our message follows
    return not tracing and not record.getMessage().startswith(_ADVERTS)
