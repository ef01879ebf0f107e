"""TFLite with the operation TFLite_Detection_PostProcess, by TensorFlow's converter."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.frozen_file import FrozenFile
from unfreeze.formats.tflite_precision import convert_with_precision


def convert(frozen: FrozenFile, path: Path, options: ConversionOptions) -> None:
    """Writes a file with the outputs of the operation, in its order, and without a signature: what clients expect."""
    [image] = [node for node in frozen.read().node if node.op == "Placeholder"]
    shape = [dimension.size for dimension in image.attr["shape"].shape.dim]
    converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(
        str(frozen.path), [image.name], list(frozen.outputs.values()), {image.name: shape}
    )
    converter.allow_custom_ops = True
    path.write_bytes(convert_with_precision(converter, options))
