"""Converted files return the detections that were recorded from the Object Detection API, through their own runtime."""

from __future__ import annotations

import os
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import reference
import test_parity as parity

from unfreeze.child_process import ModuleError
from unfreeze.config import parse_pipeline_config, with_keypoint_labels
from unfreeze.detectors import PORTABLE, build_detector
from unfreeze.errors import UnfreezeError
from unfreeze.formats import FORMATS, conversion
from unfreeze.formats.frozen import freeze
from unfreeze.formats.frozen_file import FrozenFile
from unfreeze.runtimes.process import run_in_process
from unfreeze.savedmodel import trace
from unfreeze.weights import Weights, open_checkpoint
from unfreeze.weights.bindings import STAND_INS

EVERY_RUNTIME = ("onnx", "openvino", "tflite")
WITHOUT_TFLITE = ("onnx", "openvino")

# Goldens by family, and the formats in which they are tested: docs/supported.md claims these. The first golden of a
# family is always tested, the others with UNFREEZE_ALL_GOLDENS=1.
FAMILIES: dict[str, dict[str, tuple[str, ...]]] = {
    "SSD": {"ssd_mobilenet_v2_coco": EVERY_RUNTIME},
    "SSD with FPN": {"v_ssd_mobilenet_v2_fpnlite": EVERY_RUNTIME},
    "EfficientDet": {"v_efficientdet_b0": EVERY_RUNTIME},
    "Faster R-CNN": {"faster_rcnn_inception_v2_coco": WITHOUT_TFLITE},
    "Mask R-CNN": {"v_mrcnn_pad_matmul": WITHOUT_TFLITE, "v_mrcnn_agnostic_upsampled": WITHOUT_TFLITE},
    "R-FCN": {"v_rfcn_padded": WITHOUT_TFLITE},
    "CenterNet: boxes, keypoints, depths": {
        "v_center_mobilenet_v2": EVERY_RUNTIME,
        "v_center_resnet18_depth": EVERY_RUNTIME,
        "v_center_resnet34_two_tasks": EVERY_RUNTIME,
    },
    "CenterNet: masks, DensePose, suppression": {
        "v_center_hourglass32_nms": WITHOUT_TFLITE,
        "v_center_hourglass20_densepose": WITHOUT_TFLITE,
    },
}
FORMATS_OF = {golden: formats for goldens in FAMILIES.values() for golden, formats in goldens.items()}
FIRST = {next(iter(goldens)) for goldens in FAMILIES.values()}
TESTED = [
    pytest.param(case, id=case.name)
    for case in parity.CASES
    if case.name in (FORMATS_OF if os.environ.get("UNFREEZE_ALL_GOLDENS") else FIRST)
]


@pytest.mark.slow
@pytest.mark.parametrize("case", TESTED)
def test_converted_files_return_the_recorded_detections(case: parity.Case, tmp_path: Path) -> None:
    golden = reference.golden(case.name, case.generation)
    prefix = reference.write_checkpoint(golden, tmp_path)
    config = with_keypoint_labels(parse_pipeline_config(golden.config), reference.HERE / "data")
    weights = Weights(open_checkpoint(prefix), STAND_INS, moving_averages=config.eval_config.use_moving_averages)
    exportable = trace(build_detector(config, weights, PORTABLE))

    @cache
    def frozen(shape: tuple[int | None, ...]) -> FrozenFile:
        folder = tmp_path / f"images of {shape[1]}, {shape[2]}"
        folder.mkdir()
        return freeze(exportable, shape, folder, weights.constants)

    @cache
    def converted(name: str, shape: tuple[int | None, ...]) -> Path:
        return conversion.convert(FORMATS[name], frozen(shape), frozen(shape).path.parent)

    def run(name: str, image: np.ndarray) -> dict[str, np.ndarray]:
        chosen = FORMATS[name]
        path = converted(name, (1, *image.shape) if chosen.needs_fixed_size else (None, None, None, 3))
        images = np.stack([image]) if chosen.needs_fixed_size else np.stack([image, image[:, ::-1]])
        [outputs] = run_in_process(path, [images]).outputs
        assert not isinstance(outputs, str), outputs
        return {key: value[:1] for key, value in outputs.items()}

    failures = {}
    for name in FORMATS_OF[case.name]:
        try:
            parity.assert_recorded(case, golden, config, partial(run, name))
        except (AssertionError, UnfreezeError, ModuleError) as error:
            failures[name] = error
    assert failures == {}
