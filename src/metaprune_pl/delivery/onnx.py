"""ONNX, which ONNX Runtime, TensorRT, OpenVINO and others run."""

import importlib.util
import logging
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from metaprune_pl.delivery.base import (
    KEY,
    Facts,
    Format,
    Forward,
    example_images,
    exported,
    not_written,
)
from metaprune_pl.errors import StorageError
from metaprune_pl.files import check_file

_REFUSED = (
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
)
"""What ONNX Runtime raises of a file that it cannot load; the exceptions have no common base."""


class Onnx(Format):
    """`torch.onnx`: input `images` [B, C, H, W], output `scores` [B, K]."""

    name: ClassVar[str] = "onnx"
    suffix: ClassVar[str] = ".onnx"
    program: ClassVar[str] = "ONNX Runtime"
    example: ClassVar[str] = """\
import onnxruntime

session = onnxruntime.InferenceSession(path)
facts = json.loads(session.get_modelmeta().custom_metadata_map["metaprune"])


def run(images):
    return session.run(["scores"], {"images": images})[0]
"""

    def write(self, network: nn.Module, facts: Facts, path: Path, batch: int | None) -> None:
        """Write a graph of ONNX operators: see `Format.write`."""
        _need("onnxscript")
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                exported(network, facts, batch),
                (example_images(facts, batch),),
                dynamo=True,
                input_names=["images"],
                output_names=["scores"],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise not_written(error, batch) from error
        assert program is not None
        program.model.metadata_props[KEY] = facts.text
        program.save(path)

    def load(self, path: Path, threads: int) -> tuple[Forward, Facts]:
        """Load a graph into ONNX Runtime: see `Format.load`."""
        check_file(path)
        _need("onnxruntime")
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        refused = tuple(getattr(state, name) for name in _REFUSED if hasattr(state, name))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Between runs its threads would keep the cores busy, and other programs be timed with them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except refused as error:
            reason = str(error).partition("\n")[0]
            raise StorageError(f"cannot read {path}: {reason}") from error
        told = session.get_modelmeta().custom_metadata_map.get(KEY, "")

        def run(images: Tensor) -> Tensor:
            try:
                scores = session.run(["scores"], {"images": images.numpy()})
            except (*refused, ValueError) as error:
                reason = str(error).partition("\n")[0]
                raise StorageError(f"cannot run {path}: {reason}") from error
            return torch.from_numpy(scores[0])

        return run, Facts.parse(told, path)

    def missing(self) -> str | None:
        """Return what is missing to run a file: see `Format.missing`."""
        return None if importlib.util.find_spec("onnxruntime") else "onnxruntime"


def _need(package: str) -> None:
    """Say how a package that is not installed is.

    Raises:
        StorageError: It is not.
    """
    if importlib.util.find_spec(package) is None:
        raise StorageError(f'ONNX needs {package}: pip install "metaprune_pl[export]"')
