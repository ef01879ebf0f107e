"""OpenVINO's intermediate representation, by its reader of TensorFlow graphs."""

from __future__ import annotations

from pathlib import Path

import openvino

from unfreeze.formats.frozen_file import FrozenFile


def convert(frozen: FrozenFile, path: Path, opset: int | None) -> None:
    """Writes model.xml and model.bin, with weights in float32."""
    model = openvino.Core().read_model(str(frozen.path))  # convert_model splits a path at its commas
    for ports, tensors in ((model.inputs, frozen.inputs), (model.outputs, frozen.outputs)):
        for name, tensor in tensors.items():
            next(port for port in ports if tensor in port.get_names()).get_tensor().set_names({name})
    openvino.save_model(model, str(path), compress_to_fp16=False)
