"""OpenVINO's intermediate representation, by its reader of TensorFlow graphs."""

from __future__ import annotations

from pathlib import Path

import openvino

from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.frozen_file import FrozenFile
from unfreeze.formats.openvino_network import store_weights_as_half
from unfreeze.formats.precision import Precision


def convert(frozen: FrozenFile, path: Path, options: ConversionOptions) -> None:
    """Writes model.xml and model.bin, with weights in float32, float16 or int8."""
    model = openvino.Core().read_model(str(frozen.path))  # convert_model splits a path at its commas
    for ports, tensors in ((model.inputs, frozen.inputs), (model.outputs, frozen.outputs)):
        for name, tensor in tensors.items():
            next(port for port in ports if tensor in port.get_names()).get_tensor().set_names({name})
    if options.precision is Precision.INT8:
        from unfreeze.formats.openvino_int8 import quantized  # needs NNCF

        assert options.calibration is not None
        model = quantized(model, options.calibration)
    elif options.precision is Precision.HALF:
        store_weights_as_half(model)
    openvino.save_model(model, str(path), compress_to_fp16=False)
