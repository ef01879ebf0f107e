"""An OpenVINO model whose network computes in int8, by NNCF."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from unfreeze.formats.calibration import read_calibration
from unfreeze.formats.openvino_network import network_nodes

os.environ.setdefault("NNCF_CI", "1")  # NNCF sends no usage statistics then
import nncf

# Operations that NNCF never quantizes on their own.
WITHOUT_VALUES = ("Constant", "Parameter", "Result", "ShapeOf")


def quantized(model: Any, calibration: Path) -> Any:
    """Returns a model whose network computes in int8, with the ranges of the calibration images."""
    batches = sorted(calibration.glob("*.npy"))
    network = network_nodes(model)
    outside = [
        node.get_friendly_name()
        for node in model.get_ops()
        if node.get_friendly_name() not in network and node.get_type_name() not in WITHOUT_VALUES
    ]
    dataset = nncf.Dataset(read_calibration(calibration))
    return nncf.quantize(
        model,
        dataset,
        subset_size=len(batches),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=outside, validate=False),
    )
