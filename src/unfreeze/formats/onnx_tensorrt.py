"""ONNX for TensorRT: the graph of tf2onnx, and at its end one node of the plugin EfficientNMS_TRT."""

from __future__ import annotations

from pathlib import Path

from unfreeze.formats import onnx
from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.frozen_file import FrozenFile
from unfreeze.tensorrt.efficient_nms import read_attributes
from unfreeze.tensorrt.onnx_graph import append_plugin


def convert(frozen: FrozenFile, path: Path, options: ConversionOptions) -> None:
    """Writes an ONNX model whose outputs are those of the plugin, with the attributes beside the frozen graph.

    Raises: ValueError: as the converter to ONNX does.
    """
    onnx.convert(frozen, path, options)
    append_plugin(path, read_attributes(frozen.path.parent))
