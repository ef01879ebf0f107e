"""A frozen graph with the tensor names of the Object Detection API's exporter. Source: object_detection/exporter.py."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.frozen_file import FrozenFile


def convert(frozen: FrozenFile, path: Path, options: ConversionOptions) -> None:
    """Writes the graph without attributes that have their default value, which older versions may not know."""
    with tf.Graph().as_default():
        exported = tf.compat.v1.train.export_meta_graph(graph_def=frozen.read(), strip_default_attrs=True)
    path.write_bytes(exported.graph_def.SerializeToString(deterministic=True))
