"""OpenVINO's intermediate representation, by its reader of TensorFlow graphs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import openvino

from unfreeze.formats.conversion import GRAPH
from unfreeze.formats.frozen import FrozenDetector


def convert(frozen: FrozenDetector, path: Path, opset: int | None) -> None:
    """Writes model.xml and model.bin, with weights in float32."""
    with tempfile.TemporaryDirectory(prefix="unfreeze-") as scratch:  # not beside `path`: a comma separates files
        graph = Path(scratch) / GRAPH
        graph.write_bytes(frozen.graph_def.SerializeToString())
        model = openvino.convert_model(str(graph))
    for ports, tensors in ((model.inputs, frozen.inputs), (model.outputs, frozen.outputs)):
        for name, tensor in tensors.items():
            next(port for port in ports if tensor in port.get_names()).get_tensor().set_names({name})
    openvino.save_model(model, str(path), compress_to_fp16=False)
