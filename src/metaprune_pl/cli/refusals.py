"""What ends in one line: our own errors, the system's about a file, and Lightning's own."""

import errno
import traceback

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from metaprune_pl.errors import MetapruneError
from metaprune_pl.files import way_out

REFUSALS = (
    MetapruneError,
    MisconfigurationException,
    ImportError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors that may be a person's mistake."""
_ALLOCATION = "DefaultCPUAllocator: can't allocate memory"


def refusal(error: BaseException) -> str | None:
    """Return what a person is told of an error; None is a bug of ours.

    Args:
        error: What was raised; jsonargparse wraps what a class raises.
    """
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, MetapruneError | MisconfigurationException):
        inner = inner.__cause__ or inner.__context__
    if inner is not None:
        return str(inner) if isinstance(inner, MetapruneError) else _sentence(inner)
    if isinstance(error, OSError) and error.filename is not None:
        return f"'{error.filename}': {error.strerror}. {way_out(error)}".strip()
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write: {error.strerror}. {way_out(error)}"
    if isinstance(error, torch.OutOfMemoryError) or _ALLOCATION in str(error):
        return "there is not enough memory. Take smaller batches, or fewer images at once."
    return f"trainer: {_sentence(error)}" if _is_lightnings(error) else None


def _is_lightnings(error: BaseException) -> bool:
    """Whether Lightning itself raised it, which it does for settings of its Trainer."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "/lightning/" in last.filename and (last.line or "").startswith("raise ")


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())
