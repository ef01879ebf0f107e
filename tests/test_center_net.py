"""CenterNet: the label map of keypoints, rejected options, heatmaps, and masks of boxes that a request contains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reference
import tensorflow as tf

from unfreeze.config import parse_pipeline_config, with_keypoint_labels
from unfreeze.detectors import build_detector
from unfreeze.errors import ConfigError
from unfreeze.heads.center import Head, prediction_net, sparse_prediction_net
from unfreeze.ops.heatmaps import map_size, top_peaks, top_peaks_by_channel, values_at, without_padding
from unfreeze.savedmodel import trace
from unfreeze.weights import Checkpoint, Weights, open_checkpoint

HEAD = """model { center_net { num_classes: 1 feature_extractor { type: "hourglass_10" }
image_resizer { fixed_shape_resizer { height: 64 width: 64 } } """
BOXES = "object_detection_task { localization_loss { l1_localization_loss {} } } "
TASK = 'keypoint_estimation_task {{ task_name: "pose" keypoint_class_name: "{name}" {more} }} '
LABELS = 'item { id: 1 name: "person" keypoints { id: 0 label: "nose" } keypoints { id: 1 label: "hand" } }'


def config_of(body: str):
    return parse_pipeline_config(HEAD + body + " } }")


def with_task(name: str = "person", more: str = "", path: str = "/elsewhere/labels.pbtxt", boxes: str = BOXES):
    return config_of(boxes + f'keypoint_label_map_path: "{path}" ' + TASK.format(name=name, more=more))


def build(config) -> None:
    trace(build_detector(config, Weights(Checkpoint(Path("none"), None, "tf2", {}))))


def test_label_map_is_found_beside_the_config_then_by_option_then_cocos(tmp_path: Path) -> None:
    warnings: list[str] = []
    option = tmp_path / "option.pbtxt"
    option.write_text(LABELS)
    config = with_keypoint_labels(with_task(), tmp_path, option, warnings.append)
    assert config.model.center_net.keypoint_label_map_path == str(option)
    (tmp_path / "labels.pbtxt").write_text(LABELS)
    config = with_keypoint_labels(with_task(), tmp_path, option, warnings.append)
    assert config.model.center_net.keypoint_label_map_path == str(tmp_path / "labels.pbtxt")
    coco = with_keypoint_labels(with_task("/m/01g317", path="PATH_TO_BE_CONFIGURED"), tmp_path, None, warnings.append)
    assert coco.model.center_net.keypoint_label_map_path.endswith("coco_person_keypoints.pbtxt")
    assert [line.split(";")[0] for line in warnings] == [
        "keypoint_label_map_path '/elsewhere/labels.pbtxt' is not on this machine",
        "keypoint_label_map_path '/elsewhere/labels.pbtxt' is not on this machine",
        "keypoint_label_map_path 'PATH_TO_BE_CONFIGURED' is not on this machine",
    ]


def test_missing_label_map_error_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'/elsewhere/labels.pbtxt' is not on this machine.*--label-map"):
        with_keypoint_labels(with_task(), tmp_path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "center_net: no task"),
        (BOXES + "densepose_estimation_task { num_parts: 2 }", "densepose_estimation_task needs masks"),
        (BOXES + "post_processing { batch_non_max_suppression { } }", "change_coordinate_frame is true"),
        (
            BOXES + "post_processing { batch_non_max_suppression { change_coordinate_frame: false "
            "use_combined_nms: true } }",
            "use_combined_nms is true",
        ),
        ("deepmac_mask_estimation { }", "needs boxes"),
        (BOXES + 'deepmac_mask_estimation { network_type: "fully_connected" }', "'fully_connected' is not supported"),
        (BOXES + 'deepmac_mask_estimation { network_type: "dense" }', "unknown network_type 'dense'; choose one of"),
        (BOXES + 'deepmac_mask_estimation { network_type: "cond_inst3" }', "use_instance_embedding: false"),
        (BOXES + "object_center_params { center_head_params { num_filters: 3 } }", "1 num_filters and 0 kernel_sizes"),
    ],
)
def test_unsupported_options_are_rejected(body: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(config_of(body))


@pytest.mark.parametrize(
    ("more", "boxes", "message"),
    [
        ('candidate_ranking_mode: "best"', BOXES, "candidate_ranking_mode is 'best'"),
        ('candidate_ranking_mode: "gaussian_weighted"', "", "needs boxes"),
        ("argmax_postprocessing: true", BOXES, "gaussian_weighted_const with argmax_postprocessing"),
    ],
)
def test_invalid_rankings_are_rejected(tmp_path: Path, more: str, boxes: str, message: str) -> None:
    (tmp_path / "labels.pbtxt").write_text(LABELS)
    with pytest.raises(ConfigError, match=message):
        build(with_keypoint_labels(with_task(more=more, boxes=boxes), tmp_path))


def test_masks_of_detected_boxes_equal_the_detected_masks(tmp_path: Path) -> None:
    golden = reference.golden("v_center_deepmac_projection", "tf2")
    weights = Weights(open_checkpoint(reference.write_checkpoint(golden, tmp_path)))
    exportable = trace(build_detector(parse_pipeline_config(golden.config), weights))
    weights.fill()
    preprocessed = exportable.detector.preprocess(tf.constant(reference.image(240, 320)[np.newaxis]))
    detections = exportable.detect(*preprocessed)
    boxes = detections["detection_boxes"]
    of_boxes = exportable.masks_of_boxes(*preprocessed, boxes[:, ::-1])
    np.testing.assert_allclose(of_boxes["detection_masks"][:, ::-1], detections["detection_masks"], atol=1e-4)
    np.testing.assert_array_equal(of_boxes["detection_scores"], detections["detection_scores"])


@pytest.mark.parametrize("kernel_size", [1, 3, 4])
def test_sparse_map_equals_the_whole_map_at_its_locations(tmp_path: Path, kernel_size: int) -> None:
    head = Head(2, (5,), (kernel_size,))
    shapes = {"0/kernel": [kernel_size, kernel_size, 3, 5], "0/bias": [5], "1/kernel": [1, 1, 5, 2], "1/bias": [2]}
    random = np.random.RandomState(0)
    values = {f"layer_with_weights-{key}": random.standard_normal(shape) for key, shape in shapes.items()}
    prefix = tmp_path / "model.ckpt-1"
    tensors = [tf.constant(value, tf.float32) for value in values.values()]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=list(values), shape_and_slices=[""] * 4, tensors=tensors)
    weights = Weights(open_checkpoint(prefix))
    features = tf.constant(random.standard_normal([2, 6, 7, 3]), tf.float32)
    places = tf.constant([[[y, x] for y in (0, 3, 5) for x in (0, 4, 6)]] * 2)

    @tf.function
    def both() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        whole = prediction_net(features, weights.branch(), head)
        sparse = sparse_prediction_net(features, weights.branch(), head)
        return values_at(whole, places), values_at(sparse, places), values_at(sparse, places[:, tf.newaxis])[:, 0]

    traced = both.get_concrete_function()
    weights.fill()
    of_whole, at_places, of_another_rank = traced()
    np.testing.assert_allclose(at_places, of_whole, atol=1e-5)
    np.testing.assert_allclose(of_another_rank, of_whole, atol=1e-5)
    assert (map_size(sparse_prediction_net(features, weights.branch(), head)), head.channels) == ((6, 7), 2)


def test_peaks_are_local_maxima() -> None:
    heatmap = np.zeros([1, 4, 4, 2], np.float32)
    heatmap[0, 1, 1, 0], heatmap[0, 1, 2, 0], heatmap[0, 3, 3, 1] = 0.9, 0.8, 0.5
    peaks = top_peaks(tf.constant(heatmap), 2, 3)
    np.testing.assert_allclose(peaks.scores, [[0.9, 0.5]])
    assert peaks.locations.numpy().tolist() == [[[1, 1], [3, 3]]]
    assert peaks.channels.numpy().tolist() == [[0, 1]]


def test_channel_with_fewer_pixels_than_candidates_is_filled_with_zeros() -> None:
    peaks = top_peaks_by_channel(tf.ones([1, 2, 2, 3]), 6, 1)
    assert peaks.scores.numpy().tolist() == [[[1, 1, 1, 1, 0, 0]] * 3]
    assert peaks.y.numpy().tolist() == [[[0, 0, 1, 1, 0, 0]] * 3]


@pytest.mark.parametrize(
    ("true_shape", "rows", "columns"),
    [([2, 8, 3], [1, 1, 0, 0], [1, 1, 1, 1, 1]), ([9, 3, 3], [1, 1, 1, 1], [1, 1, 1, 0, 0])],
    ids=["rows", "columns"],
)
def test_padding_is_removed_as_if_map_pixels_were_image_pixels(
    true_shape: list[int], rows: list[int], columns: list[int]
) -> None:
    heatmap = without_padding(tf.ones([1, 4, 5, 1]), tf.constant([true_shape])).numpy()
    np.testing.assert_array_equal(heatmap[0, :, :, 0], np.outer(rows, columns))
