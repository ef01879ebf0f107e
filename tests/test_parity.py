"""Every supported model returns the detections that were recorded from the Object Detection API."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import reference
import tensorflow as tf

from unfreeze.config import PipelineConfig, parse_pipeline_config, with_keypoint_labels
from unfreeze.detectors import Forms, build_detector
from unfreeze.detectors.mismatch_diagnosis import likely_causes
from unfreeze.ops.nms import Suppression
from unfreeze.savedmodel import trace
from unfreeze.verification import Tolerances, compare_detections
from unfreeze.weights import Weights, open_checkpoint

RAW = ("raw_detection_boxes", "raw_detection_scores")
# Further outputs of a TensorFlow 2 detector with masks, and their axis of the proposals.
PROPOSAL_OUTPUTS = {
    "proposal_boxes": 1,
    "proposal_boxes_normalized": 1,
    "final_anchors": 1,
    "box_classifier_features": 0,
    "refined_box_encodings": 0,
    "class_predictions_with_background": 0,
}


class Case(NamedTuple):
    """A golden, and how to compare with it.

    `omitted`: outputs that are not compared.
    `noise`: how much the network's outputs change when pixels change by one part in 10^7, the last bit of a float32: no
    recorded output can be more precise. Measured with the golden's weights, which are not trained, with oneDNN (which
    rounds in another order) and without.
    `images`: which images are compared; one is enough where inference takes long.
    """

    name: str
    generation: str = "tf1"
    slow: bool = False
    omitted: tuple[str, ...] = ()
    noise: float = 0.0
    images: str = "ab"


CASES = (
    Case("ssd_mobilenet_v1_coco"),
    Case("ssd_mobilenet_v1_0.75_depth_300x300_coco14_sync"),
    Case("ssd_mobilenet_v2_coco"),
    Case("ssd_mobilenet_v2_fullyconv_coco"),
    Case("ssdlite_mobilenet_v2_coco"),
    Case("ssd_inception_v2_coco"),
    Case("ssd_inception_v3_pets"),
    Case("p_fine_tuned_ssd_mobilenet_v2"),
    Case("p_ssd_mobilenet_v2_coco_2018_03_29"),
    Case("v_ssd_gray_bicubic"),
    Case("v_ssd_soft_nms"),
    Case("v_ssd_softmax_caps"),
    # The Object Detection API sorts the boxes for partitioned suppression, and gathers these scores as if it had not.
    Case("o_partitioned_static", omitted=("detection_multiclass_scores",)),
    Case("embedded_ssd_mobilenet_v1_coco"),
    Case("ssdlite_mobilenet_v3_large_320x320_coco"),
    Case("ssdlite_mobilenet_v3_small_320x320_coco"),
    Case("ssdlite_mobilenet_edgetpu_320x320_coco", noise=1e-3),
    Case("ssdlite_mobiledet_cpu_320x320_coco_sync_4x4"),
    Case("ssdlite_mobiledet_dsp_320x320_coco_sync_4x4"),
    Case("ssdlite_mobiledet_edgetpu_320x320_coco_sync_4x4"),
    Case("ssdlite_mobiledet_gpu_320x320_coco_sync_4x4"),
    Case("ssd_mobilenet_v1_ppn_shared_box_predictor_300x300_coco14_sync"),
    Case("ssd_mobilenet_v1_fpn_shared_box_predictor_640x640_coco14_sync"),
    Case("ssd_mobilenet_v2_mnasfpn_shared_box_predictor_320x320_coco_sync", noise=2.2e-3),
    Case("ssd_resnet50_v1_fpn_shared_box_predictor_640x640_coco14_sync", slow=True),
    Case("v_ssd_fpn_explicit_padding"),
    Case("v_ssd_resnet50_v1_ppn_override"),
    Case("v_ssd_shared_projection"),
    Case("v_ssd_mobilenet_v2_fpnlite"),
    Case("v_ssd_mobilenet_v2_fpn_override"),
    Case("v_ssd_spaghettinet_s", noise=2e-3),
    Case("v_ssd_resnet101_v1_fpn"),
    Case("v_ssd_resnet152_v1_fpn", slow=True),
    Case("v_ssd_resnet101_v1_ppn", slow=True),
    Case("v_ssd_resnet152_v1_ppn", slow=True),
    Case("v_ssd_pnasnet", slow=True),
    Case("v_ssd_pnasnet_override", slow=True),
    Case("v_ssd_embedded_explicit_padding"),
    Case("v_ssd_mobiledet_cpu_75"),
    Case("v_ssd_mobilenet_edgetpu_override"),
    Case("v_ssd_mobilenet_v3_explicit_padding"),
    Case("v_ssd_mobilenet_v3_override"),
    Case("v_frcnn_nas_small", slow=True),
    Case("v_frcnn_nas_unsaturated", slow=True),
    Case("v_frcnn_pnas", slow=True),
    Case("faster_rcnn_inception_v2_coco"),
    Case("faster_rcnn_inception_resnet_v2_atrous_coco", slow=True),
    Case("faster_rcnn_resnet50_coco", slow=True),
    # All high scores are 1, so that the order of detections of a class, the same box of other proposals, depends on
    # TensorFlow.
    Case("faster_rcnn_resnet101_ava_v2.1", slow=True, omitted=("detection_multiclass_scores",)),
    Case("mask_rcnn_inception_v2_coco", slow=True),
    Case("mask_rcnn_resnet50_atrous_coco", slow=True),
    Case("rfcn_resnet101_coco", slow=True),
    Case("v_frcnn_shared_box_soft"),
    Case("f_static"),
    Case("v_mrcnn_agnostic_upsampled"),
    Case("v_mrcnn_pad_matmul"),
    Case("v_rfcn_padded"),
    Case("v_frcnn_resnet152", slow=True),
    # In image b two neighbors have the same score to the last bit, so that both are peaks; when sums are computed in
    # another order, only one of them is.
    Case("centernet_resnet50_v1_fpn_512x512_kpts_coco17_tpu-8", "tf2", slow=True, images="a"),
    Case("centernet_resnet50_v2_512x512_kpts_coco17_tpu-8", "tf2", slow=True),
    Case("centernet_hourglass104_512x512_coco17_tpu-8", "tf2", slow=True, images="b"),
    Case("center_net_deepmac_512x512_voc_only_tpu-32", "tf2", slow=True, noise=3e-4, images="a"),
    Case("v_center_resnet18_depth", "tf2"),
    Case("v_center_resnet34_two_tasks", "tf2", slow=True),
    Case("v_center_resnet101_fpn_argmax", "tf2", slow=True),
    Case("v_center_hourglass10_no_boxes", "tf2"),
    Case("v_center_hourglass20_densepose", "tf2"),
    Case("v_center_hourglass32_nms", "tf2"),
    Case("v_center_hourglass52_gray", "tf2", slow=True),
    Case("v_center_deepmac_resnet20", "tf2"),
    Case("v_center_deepmac_projection", "tf2"),
    Case("v_center_deepmac_full", "tf2"),
    Case("v_center_deepmac_cond_inst", "tf2"),
    Case("v_center_deepmac_no_shortcut", "tf2"),
    Case("v_center_mobilenet_v2", "tf2"),
    Case("v_center_mobilenet_v2_fpn", "tf2", noise=5e-4),
    Case("v_center_mobilenet_v2_fpn_sep_conv", "tf2", noise=5e-4),
    Case("v_center_resnet101_v2_outputs", "tf2", slow=True, images="a"),
    Case("v_context_rcnn_resnet50", slow=True),
    Case("v_context_rcnn_self_attention"),
    Case("ssd_mobilenet_v2_320x320_coco17_tpu-8", "tf2"),
    Case("ssd_mobilenet_v2_fpnlite_320x320_coco17_tpu-8", "tf2"),
    Case("ssd_mobilenet_v1_fpn_640x640_coco17_tpu-8", "tf2"),
    Case("ssd_resnet50_v1_fpn_640x640_coco17_tpu-8", "tf2", slow=True),
    Case("ssd_efficientdet_d0_512x512_coco17_tpu-8", "tf2"),
    Case("v_ssd_mobilenet_v1_keras", "tf2"),
    Case("v_ssd_mobilenet_v2_keras_35", "tf2"),
    Case("v_ssd_mobilenet_v1_fpn_keras_thin", "tf2"),
    Case("v_ssd_mobilenet_v2_fpn_keras_levels_3_to_4", "tf2"),
    Case("v_ssd_resnet101_v1_fpn_keras", "tf2"),
    Case("v_ssd_resnet152_v1_fpn_keras", "tf2", slow=True, noise=1e-3),
    Case("v_efficientdet_b0", "tf2"),
    Case("v_efficientdet_b1", "tf2", slow=True),
    Case("v_efficientdet_b2", "tf2", slow=True),
    Case("v_efficientdet_b3", "tf2", slow=True),
    Case("v_efficientdet_b4", "tf2", slow=True),
    Case("v_efficientdet_b5", "tf2", slow=True),
    Case("v_efficientdet_b6", "tf2", slow=True),
    Case("v_efficientdet_b7", "tf2", slow=True),
    Case("faster_rcnn_resnet50_v1_640x640_coco17_tpu-8", "tf2", slow=True),
    Case("faster_rcnn_resnet50_v1_fpn_640x640_coco17_tpu-8", "tf2", slow=True),
    # In image a two proposals tie for the last place, within 1e-7 of their scores; one of them becomes a detection.
    Case("mask_rcnn_inception_resnet_v2_1024x1024_coco17_gpu-8", "tf2", slow=True, images="b"),
    Case("v_faster_rcnn_resnet50_fpn_matmul_override", "tf2"),
    Case("v_mask_rcnn_inception_resnet_v2_small", "tf2", slow=True),
    Case("v_rfcn_resnet50", "tf2", noise=2e-4),  # 2e-5 without oneDNN
    Case("v_faster_rcnn_resnet152_keras", "tf2", slow=True),
    Case("v_faster_rcnn_resnet101_fpn_keras", "tf2", slow=True),
    Case("v_faster_rcnn_resnet152_fpn_keras", "tf2", slow=True),
    Case("v_mask_rcnn_resnet101_agnostic_upsampled", "tf2"),
    # In image a the last sample of a crop is exactly at the border: one part in 1e7 decides whether it is outside.
    Case("v_context_rcnn_resnet50_keras", "tf2", images="b"),
    Case("v_context_rcnn_post_rpn_keras", "tf2", images="b"),
    Case("v_context_rcnn_resnet50_fpn_keras", "tf2"),
)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else []) for case in CASES],
)
def test_detections_equal_the_object_detection_apis(case: Case, tmp_path: Path) -> None:
    assert_parity(case, tmp_path)


# Bindings differ only in what the methods of a branch return, and forms of suppression only in ops/nms.py: one network
# of each kind is enough. test_formats.py tests constants with plain operations too. UNFREEZE_ALL_GOLDENS=1 runs all.
OTHER_FORMS = {
    ("constants", Suppression.KERNEL): ("v_ssd_mobilenet_v2_fpnlite", "v_mrcnn_pad_matmul"),
    ("trainable", Suppression.KERNEL): (
        "ssd_mobilenet_v2_coco",
        "v_ssd_mobilenet_v2_fpnlite",
        "v_efficientdet_b0",
        "v_center_mobilenet_v2",
        "v_mrcnn_pad_matmul",
        "v_rfcn_resnet50",
    ),
    ("variables", Suppression.OPERATIONS): ("v_ssd_soft_nms", "v_mrcnn_pad_matmul", "v_rfcn_resnet50"),
}


@pytest.mark.parametrize(
    ("case", "binding", "suppression"),
    [
        pytest.param(case, *form, id=f"{case.name}-{form[0]}-{form[1].value}")
        for form, names in OTHER_FORMS.items()
        for case in CASES
        if case.name in names or os.environ.get("UNFREEZE_ALL_GOLDENS")
    ],
)
def test_every_binding_and_form_of_suppression_returns_them(
    case: Case, binding: str, suppression: Suppression, tmp_path: Path
) -> None:
    assert_parity(case, tmp_path, binding, suppression)


def assert_parity(
    case: Case, tmp_path: Path, binding: str = "variables", suppression: Suppression = Suppression.KERNEL
) -> None:
    golden = reference.golden(case.name, case.generation)
    prefix = reference.write_checkpoint(golden, tmp_path)
    config = with_keypoint_labels(parse_pipeline_config(golden.config), reference.HERE / "data")
    weights = Weights(open_checkpoint(prefix), binding, moving_averages=config.eval_config.use_moving_averages)
    exportable = trace(build_detector(config, weights, Forms(suppression, whole_maps=binding == "trainable")))
    weights.require_fit(likely_causes(config))
    assert weights.unused() == []
    weights.fill()

    def run(image: np.ndarray, *side: np.ndarray) -> dict[str, np.ndarray]:
        preprocessed, true_shapes = exportable.detector.preprocess(tf.constant(image[np.newaxis]))
        return {key: value.numpy() for key, value in exportable.detect(preprocessed, true_shapes, *side).items()}

    assert_recorded(case, golden, config, run)


def assert_recorded(
    case: Case,
    golden: reference.Golden,
    config: PipelineConfig,
    run: Callable[..., dict[str, np.ndarray]],
) -> None:
    """Compares the golden with what `run` returns for an image `[H, W, 3]` and the side inputs."""
    recorded = golden.recorded_outputs()
    for name in case.images:
        size = reference.IMAGES[name]
        side = [reference.side_input(*like, seed=size[2]) for like in golden.side_inputs.values()]
        outputs = run(reference.image(*size), *side)
        theirs = {key.removeprefix(name + "/"): value for key, value in recorded.items() if key.startswith(name + "/")}
        proposals = config.model.HasField("faster_rcnn")
        if case.generation == "tf2":
            outputs = in_recorded_shapes(outputs, golden)
            if proposals:
                check_anchor_indices(outputs)
                theirs.pop("detection_anchor_indices")
        ours = recorded_rows(outputs, theirs, proposals)
        for omitted in case.omitted:
            del ours[omitted], theirs[omitted]
        assert_same(ours, theirs, case.noise)


def in_recorded_shapes(outputs: dict[str, np.ndarray], golden: reference.Golden) -> dict[str, np.ndarray]:
    """Returns outputs in the shapes recorded from TensorFlow 2, without those that are too large for a golden.

    Where a recorded shape has no dimension of images, ours has it first.
    """
    assert sorted(outputs) == sorted(golden.outputs)
    shaped = {}
    for key, values in outputs.items():
        shape = golden.outputs[key][1]
        shaped[key] = values if len(shape) == values.ndim else values[0]
        assert all(size in (None, actual) for size, actual in zip(shape, shaped[key].shape, strict=True)), key
    return {key: values for key, values in shaped.items() if values.nbytes < reference.LARGEST_BYTES or key in RAW}


def check_anchor_indices(outputs: dict[str, np.ndarray]) -> None:
    """Checks the rows that the anchor indices refer to, and removes the indices, which near-ties change."""
    rows = outputs.pop("detection_anchor_indices")[0].astype(int)[: int(outputs["num_detections"][0])]
    scores = outputs["raw_detection_scores"][0, rows]
    np.testing.assert_array_equal(scores, outputs["detection_multiclass_scores"][0, : len(rows)])


def recorded_rows(
    outputs: dict[str, np.ndarray], recorded: dict[str, np.ndarray], proposals: bool
) -> dict[str, np.ndarray]:
    """Returns the rows of our outputs that the golden contains.

    With `proposals`, a row that differs from the recorded one is searched among all rows: near-ties are in another
    order.
    """
    cut = dict(outputs)
    for key in outputs:
        if f"{key}/rows" in recorded:
            assert outputs[key].shape[1] == recorded[f"{key}/count"], key
            cut[key] = outputs[key][:, recorded[f"{key}/rows"]]
        if "mask" in key:
            cut[key] = outputs[key][:, :20]
    if "proposal_boxes" in recorded:
        features = [
            np.concatenate([side["proposal_boxes_normalized"][0], side["class_predictions_with_background"]], axis=1)
            for side in (outputs, recorded)
        ]
        rows = matching_rows(*features, np.arange(len(features[1])))
        cut |= {
            key: np.take(outputs[key], rows, axis=axis) for key, axis in PROPOSAL_OUTPUTS.items() if key in recorded
        }
    if proposals and "raw_detection_boxes/rows" in recorded:
        features = [np.concatenate([side[key][0] for key in RAW], axis=1) for side in (outputs, recorded)]
        rows = matching_rows(*features, recorded["raw_detection_boxes/rows"])
        cut |= {key: outputs[key][:, rows] for key in RAW}
    return cut


def matching_rows(ours: np.ndarray, theirs: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Returns the index among our rows of each recorded row: the expected one, or the closest that is not used yet."""
    rows = expected.copy()
    moved = np.flatnonzero(np.abs(ours[rows] - theirs).max(axis=1) > 1e-4)
    free = sorted(set(range(len(ours))) - set(np.delete(rows, moved)))
    for i in moved:
        rows[i] = free.pop(int(np.abs(ours[free] - theirs[i]).max(axis=1).argmin()))
    return rows


def assert_same(ours: dict[str, np.ndarray], recorded: dict[str, np.ndarray], noise: float = 0.0) -> None:
    theirs = {key: value for key, value in recorded.items() if not key.endswith(("/rows", "/count"))}
    assert sorted(ours) == sorted(theirs)
    if "detection_masks" in theirs:
        masks, their_masks = ours.pop("detection_masks"), theirs.pop("detection_masks")
        assert masks.shape == their_masks.shape
        assert np.abs(masks - their_masks).max() <= max(noise, min(1e-4, 0.02 * float(their_masks.std())))
    # Where raw scores hardly differ from each other, a tolerance of 1e-4 would accept anything; saturated scores do not
    # differ at all.
    all_scores = "raw_detection_scores" if "raw_detection_scores" in theirs else "detection_multiclass_scores"
    scores = max(noise, min(1e-4, 0.02 * float(theirs[all_scores].std())), float(np.finfo(np.float32).eps))
    tolerance = max(noise, 1e-4)
    comparison = compare_detections(ours, theirs, Tolerances(boxes=tolerance, scores=scores, other=tolerance))
    assert comparison.ok, "\n".join(comparison.problems)
