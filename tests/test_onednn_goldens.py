"""Tests with oneDNN on, with and without frozen weights assumed, that outputs do not depend on the image before.

CI runs a sample of the goldens; `UNFREEZE_ALL_GOLDENS=1 scripts/test tests/test_onednn_goldens.py` runs all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import tensorflow as tf
from test_parity import CASES, Case, assert_same, check_anchor_indices, in_recorded_shapes, recorded_rows

from unfreeze.config import parse_pipeline_config, with_keypoint_labels
from unfreeze.detectors import build_detector
from unfreeze.onednn import ASSUME_FROZEN_WEIGHTS, ENABLE
from unfreeze.savedmodel import trace
from unfreeze.weights import Weights, open_checkpoint

QUICK = {
    "ssd_mobilenet_v1_coco",
    "v_efficientdet_b0",
    "v_center_deepmac_cond_inst",
    "v_center_mobilenet_v2",
}
SAMPLE = QUICK | {"v_ssd_mobilenet_v2_fpnlite", "v_frcnn_shared_box_soft"}
ALL = os.environ.get("UNFREEZE_ALL_GOLDENS", "") not in ("", "0")
RUN = [case for case in CASES if ALL or case.name in SAMPLE]


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen weights assumed", "oneDNN only"])
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=[] if case.name in QUICK else [pytest.mark.slow]) for case in RUN],
)
def test_outputs_do_not_depend_on_the_image_before(case: Case, frozen: bool, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != ASSUME_FROZEN_WEIGHTS}
    environment |= {ENABLE: "1", **({ASSUME_FROZEN_WEIGHTS: "1"} if frozen else {})}
    program = f"import sys; sys.path.insert(0, {str(reference.HERE)!r}); import test_onednn_goldens as goldens; "
    program += f"goldens.compare({case.name!r}, {str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_golden_is_in_the_full_list() -> None:
    both = [(generation, name) for generation in ("tf1", "tf2") for name in reference.golden_names(generation)]
    assert {(case.generation, case.name) for case in CASES} <= set(both)
    assert {case.name for case in CASES} >= SAMPLE


def compare(name: str, folder: str) -> None:
    """Runs an image, one of another size, and the first again, and compares the outputs.

    Those of the second image must be the recorded ones, and those of the first must be the same both times.

    Raises: AssertionError.
    """
    case = next(case for case in CASES if case.name == name)
    golden = reference.golden(case.name, case.generation)
    config = with_keypoint_labels(parse_pipeline_config(golden.config), reference.HERE / "data")
    checkpoint = open_checkpoint(reference.write_checkpoint(golden, Path(folder)))
    weights = Weights(checkpoint, moving_averages=config.eval_config.use_moving_averages)
    exportable = trace(build_detector(config, weights))
    weights.fill()
    proposals = config.model.HasField("faster_rcnn")
    recorded = golden.recorded_outputs()

    def run(image: str) -> dict[str, np.ndarray]:
        size = reference.IMAGES[image]
        pixels = tf.constant(reference.image(*size)[np.newaxis])
        side = [reference.side_input(*like, seed=size[2]) for like in golden.side_inputs.values()]
        outputs = exportable.detect(*exportable.detector.preprocess(pixels), *side)
        values = {key: value.numpy() for key, value in outputs.items()}
        if case.generation == "tf2":
            values = in_recorded_shapes(values, golden)
            if proposals:
                check_anchor_indices(values)
        return values

    first, second = "ab" if "b" in case.images else "ba"
    before, values, after = run(first), run(second), run(first)
    prefix = f"{second}/"
    expected = {key.removeprefix(prefix): value for key, value in recorded.items() if key.startswith(prefix)}
    if case.generation == "tf2" and proposals:
        expected.pop("detection_anchor_indices")
    actual = recorded_rows(values, expected, proposals)
    for omitted in case.omitted:
        del actual[omitted], expected[omitted]
    assert_same(actual, expected, case.noise)
    assert_same(after, before, case.noise)
