"""Non-maximum suppression of all images and classes at once, against slow references and recorded outputs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unfreeze.config import messages
from unfreeze.detectors.post_processing import build_first_stage_nms, build_post_processing
from unfreeze.errors import ConfigError
from unfreeze.ops.nms import NmsOptions, Suppression, gathered, gathered_keypoints, multiclass_nms

RECORDED = dict(np.load(Path(__file__).parent / "data" / "nms.npz"))  # the Object Detection API on TensorFlow 1.15
CASES = json.loads(str(RECORDED["cases"]))
OPTIONS = NmsOptions(
    score_threshold=0.05,
    iou_threshold=0.5,
    max_detections_per_class=10,
    max_total_detections=20,
    change_coordinate_frame=True,
)


both_forms = pytest.mark.parametrize("form", Suppression, ids=lambda form: form.value)


def post_processing(text, tf2=False, form=Suppression.KERNEL):
    config = text_format.Parse(f"batch_non_max_suppression {{ {text} }}", messages.PostProcessing())
    return build_post_processing(config, tf2, form)


def of_own_class(values, kept):
    """`[N, A, q, ...] -> [N, D, ...]`: the values of the detections' anchors for their classes; 0 in empty rows."""
    images = np.arange(len(values))[:, np.newaxis]
    classes = 0 if values.shape[2] == 1 else np.int32(kept.classes)
    rows = values[images, kept.indices, classes]
    rows[kept.empty.numpy()] = 0
    return rows


@both_forms
@pytest.mark.parametrize("name", CASES)
def test_detections_equal_the_object_detection_apis(name, form):
    fields = {
        "boxes": lambda kept, _: kept.boxes,
        "scores": lambda kept, _: kept.scores,
        "classes": lambda kept, _: kept.classes,
        "num_detections": lambda kept, _: kept.num_detections,
        "indices": lambda kept, _: kept.indices,
        "keypoints": lambda kept, inputs: gathered_keypoints(inputs["keypoints"], kept),
        "masks": lambda kept, inputs: of_own_class(inputs["masks"], kept),
    }
    inputs = {key.split("/")[-1]: value for key, value in RECORDED.items() if key.startswith(f"{name}/in/")}
    expected = {key.split("/")[-1]: value for key, value in RECORDED.items() if key.startswith(f"{name}/out/")}
    kept = post_processing(CASES[name]["config"], form=form).nms(
        inputs["boxes"],
        inputs["scores"],
        inputs["clip_window"],
        num_valid_boxes=inputs.get("num_valid_boxes"),
        change_coordinate_frame=CASES[name]["frame"],
    )
    assert expected["num_detections"].max() > 0
    for field, value in expected.items():
        np.testing.assert_allclose(fields[field](kept, inputs), value, rtol=1e-6, atol=1e-7, err_msg=field)


# A slow reference, which follows the Object Detection API: one suppression per image and class.


def iou(box, others):
    """`[4], [S, 4] -> [S]`, in float32 and in the order of operations of TensorFlow's kernel."""
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    lows, highs = np.minimum(others[:, :2], others[:, 2:]), np.maximum(others[:, :2], others[:, 2:])
    size, sizes = np.prod(high - low), np.prod(highs - lows, axis=1)
    intersection = np.prod(np.maximum(np.minimum(high, highs) - np.maximum(low, lows), np.float32(0)), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((size <= 0) | (sizes <= 0), np.float32(0), intersection / (size + sizes - intersection))


def one_class_of_tensorflow_1(boxes, scores, options, limit):
    """Returns the indices and scores that one class keeps by the rules of TensorFlow 1.15."""
    threshold = np.float32(options.score_threshold)
    scores = np.where(scores > threshold, scores, np.float32(-np.inf))
    kept, kept_scores = [], []
    while len(kept) < limit and scores.max() > -np.inf:
        best = int(scores.argmax())
        kept.append(best)
        kept_scores.append(scores[best])
        overlap = iou(boxes[best], boxes)
        if options.soft_nms_sigma > 0:
            alive = scores > -np.inf
            scores[alive] *= np.exp(np.float32(-0.5 / options.soft_nms_sigma) * overlap * overlap)[alive]
            scores[scores <= threshold] = -np.inf
        scores[overlap >= np.float32(options.iou_threshold)] = -np.inf
        scores[best] = -np.inf
    return kept, kept_scores


def one_class_of_tensorflow_2(boxes, scores, options, limit):
    """Returns the indices and scores that one class keeps, by TensorFlow's own kernel."""
    kept, kept_scores = tf.image.non_max_suppression_with_scores(
        boxes, scores, limit, options.iou_threshold, options.score_threshold, options.soft_nms_sigma
    )
    return kept.numpy(), kept_scores.numpy()


def one_image(boxes, scores, window, options, one_class=None):
    """Returns the rows of one image: one suppression per class, then all sorted, clipped and cut."""
    if one_class is None:
        one_class = one_class_of_tensorflow_1 if options.suppress_at_threshold else one_class_of_tensorflow_2
    num_classes, per_class = scores.shape[1], options.max_detections_per_class
    rows, pads = [], []
    for k in range(num_classes):
        class_boxes = boxes[:, k if boxes.shape[1] > 1 else 0]
        kept, kept_scores = one_class(class_boxes, scores[:, k], options, min(per_class, len(boxes)))
        rows += [(anchor, k, score, class_boxes[anchor]) for anchor, score in zip(kept, kept_scores, strict=True)]
        pads += [(0, k, -1, class_boxes[0])] * (per_class - len(kept))
    rows.sort(key=lambda row: -row[2])  # keeps the order of equals
    low, high = np.tile(window[:2], 2), np.tile(window[2:], 2)
    rows, pads = (
        [(anchor, k, score, np.maximum(np.minimum(box, high), low)) for anchor, k, score, box in some]
        for some in (rows, pads)
    )
    area = lambda row: (row[3][2] - row[3][0]) * (row[3][3] - row[3][1])
    if options.use_static_shapes:
        size = min(options.max_total_detections, num_classes * per_class)
        good = [row for row in rows if area(row) != 0 and row[2] >= 0]
        pads = [(anchor, k, -1, box) for anchor, k, score, box in rows if area((anchor, k, score, box)) == 0] + pads
    else:
        size = options.max_total_detections
        good, pads = [row for row in rows if area(row) > 0 and row[2] >= 0], []
    result = {
        "indices": np.zeros(size, np.int32),
        "classes": np.zeros(size, np.float32),
        "scores": np.zeros(size, np.float32),
        "boxes": np.zeros((size, 4), np.float32),
        "num_detections": np.int32(min(len(good), size)),
    }
    for i, (anchor, k, score, box) in enumerate((good + pads)[:size]):
        if options.change_coordinate_frame:
            box = 1 / np.tile(window[2:] - window[:2], 2) * (box - np.tile(window[:2], 2))
        result["indices"][i], result["classes"][i], result["scores"][i], result["boxes"][i] = anchor, k, score, box
    return result


def assert_equals_reference(boxes, scores, window, options, signature=None):
    """Both forms of suppression give the rows of the slow reference."""
    images = [one_image(*image, options) for image in zip(boxes, scores, window, strict=True)]
    for form in Suppression:
        assert_equals_images(boxes, scores, window, replace(options, suppression=form), signature, images)


def assert_equals_images(boxes, scores, window, options, signature, images):
    nms = lambda *image: vars(multiclass_nms(*image, options))
    if signature:
        nms = tf.function(nms, input_signature=signature, autograph=False)
    kept = nms(*map(tf.constant, (boxes, scores, window)))
    for field in images[0]:
        expected = np.stack([image[field] for image in images])
        if options.soft_nms_sigma > 0 and field == "scores":  # products are in another order
            np.testing.assert_allclose(kept[field], expected, rtol=1e-6, atol=1e-7, err_msg=field)
        else:
            np.testing.assert_array_equal(kept[field], expected, err_msg=field)


def random_image(seed, shape=(2, 200, 12), q=1, *, grid=None, window=(-0.05, 0.1, 0.9, 1.0)):
    """Returns boxes, scores and windows; on a `grid` there are equal and touching boxes, and equal scores."""
    random = np.random.RandomState(seed)
    n, a, _ = shape
    center, size = random.uniform(-0.2, 1.2, (n, a, q, 2)), random.uniform(0.05, 0.6, (n, a, q, 2))
    scores = random.uniform(0, 1, shape)
    if grid:
        center, size, scores = (np.round(values * grid) / grid for values in (center, size, scores))
    boxes = np.concatenate([center - size / 2, center + size / 2], -1)
    return boxes.astype(np.float32), scores.astype(np.float32), np.tile(np.float32(window), (n, 1))


VARIANTS = {
    "as is": {},
    "one of each": {"max_detections_per_class": 1, "max_total_detections": 1},
    "more than there are": {"max_detections_per_class": 300, "max_total_detections": 3000},
    "nothing above": {"score_threshold": 2.0},
    "all above": {"score_threshold": -1.0, "max_detections_per_class": 20},
    "few above": {"score_threshold": 0.97},
    "iou 0": {"iou_threshold": 0.0},
    "iou 1": {"iou_threshold": 1.0, "max_total_detections": 100},
    "image frame": {"change_coordinate_frame": False},
    "static": {"use_static_shapes": True, "max_total_detections": 50, "score_threshold": 0.9},
    "static, cut": {"use_static_shapes": True, "max_total_detections": 500, "max_detections_per_class": 3},
    "soft": {"soft_nms_sigma": 0.5},
    "soft, sharp": {"soft_nms_sigma": 0.02, "max_detections_per_class": 4, "max_total_detections": 48},
}


@pytest.mark.parametrize("suppress_at_threshold", [False, True], ids=["tf2", "tf1"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(4))
def test_detections_equal_class_by_class_suppression(seed, variant, suppress_at_threshold):
    boxes, scores, window = random_image(
        seed,
        [(2, 200, 12), (1, 17, 1), (3, 60, 37), (2, 3, 5)][seed],
        q=[1, 1, 37, 1][seed],
        grid=[None, 8, None, 4][seed],
    )
    options = replace(OPTIONS, suppress_at_threshold=suppress_at_threshold, **VARIANTS[variant])
    assert_equals_reference(boxes, scores, window, options)


def test_equal_scores_are_ordered_by_class_and_anchor():
    boxes, scores, window = random_image(5, (2, 400, 30))
    for levels in (1, 2, 7):
        ties = np.ceil(scores * levels).astype(np.float32) / levels
        assert_equals_reference(boxes, ties, window, replace(OPTIONS, max_total_detections=100))


def test_all_pairs_are_considered_if_all_anchors_overlap():
    """Of the pairs that are considered first almost all are suppressed, so that all must be considered."""
    boxes, scores, window = random_image(6, (2, 500, 20))
    boxes = boxes * np.float32(0.01) + np.float32([0.2, 0.2, 0.7, 0.7])
    assert_equals_reference(boxes, scores, window, OPTIONS)
    assert_equals_reference(boxes, scores, window, replace(OPTIONS, soft_nms_sigma=0.1))


def test_boxes_outside_of_the_window_count_only_for_their_class():
    boxes, scores, window = random_image(7, (2, 100, 3))
    boxes[:, :80] += 5
    scores[:, :80] += 1
    assert_equals_reference(boxes, scores, window, OPTIONS)


def test_boxes_without_area_or_with_swapped_corners():
    boxes, scores, window = random_image(8, (2, 100, 3))
    boxes[:, ::5, :, 2] = boxes[:, ::5, :, 0]
    boxes[:, 1::5] = boxes[:, 1::5][..., [2, 1, 0, 3]]
    assert_equals_reference(boxes, scores, window, OPTIONS)
    assert_equals_reference(boxes, scores, window, replace(OPTIONS, use_static_shapes=True))


@pytest.mark.parametrize("name", ["as is", "soft", "static"])
def test_shapes_may_be_unknown(name):
    signature = [tf.TensorSpec([None, None, 1, 4]), tf.TensorSpec([None, None, 12]), tf.TensorSpec([None, 4])]
    options = replace(OPTIONS, **VARIANTS[name])
    assert_equals_reference(*random_image(9), options, signature)
    assert_equals_reference(*random_image(9, (1, 2, 12)), options, signature)


@both_forms
def test_combined_nms_equals_tensorflows(form):
    boxes, scores, window = random_image(10, q=12, window=(0, 0, 0.8, 0.9))
    options = replace(OPTIONS, use_combined_nms=True, change_coordinate_frame=False)
    for use_static_shapes in (False, True):
        options = replace(options, use_static_shapes=use_static_shapes, suppression=form)
        kept = multiclass_nms(boxes, scores, window, options)
        expected = tf.image.combined_non_max_suppression(
            boxes, scores, 10, 20, 0.5, 0.05, pad_per_class=use_static_shapes, clip_boxes=False
        )
        theirs = np.array(expected.nmsed_boxes)
        theirs[..., :2] = np.maximum(theirs[..., :2], window[:, np.newaxis, :2])
        theirs[..., 2:] = np.minimum(theirs[..., 2:], window[:, np.newaxis, 2:])
        np.testing.assert_array_equal(kept.boxes, theirs)
        np.testing.assert_array_equal(kept.scores, expected.nmsed_scores)
        np.testing.assert_array_equal(kept.classes, expected.nmsed_classes)
        np.testing.assert_array_equal(kept.num_detections, expected.valid_detections)


def test_class_agnostic_suppression_uses_the_best_classes():
    boxes, scores, window = random_image(11, q=12)
    best = scores.argmax(axis=2)
    own_boxes = np.take_along_axis(boxes, best[:, :, np.newaxis, np.newaxis], axis=2)
    expected = multiclass_nms(
        own_boxes, scores.max(axis=2, keepdims=True), window, replace(OPTIONS, max_detections_per_class=20)
    )
    kept = multiclass_nms(boxes, scores, window, replace(OPTIONS, use_class_agnostic_nms=True))
    np.testing.assert_array_equal(kept.boxes, expected.boxes)
    classes = np.take_along_axis(best, kept.indices.numpy(), axis=1)
    np.testing.assert_array_equal(kept.classes, np.where(kept.empty, 0, classes))


def test_gathered_values_belong_to_their_rows():
    boxes, scores, window = random_image(12, (2, 30, 4))
    kept = multiclass_nms(boxes, scores, window, replace(OPTIONS, score_threshold=0.97))
    assert 0 < kept.num_detections.numpy().min() < 20
    rows = gathered(scores, kept).numpy()
    for image in range(2):
        count = int(kept.num_detections[image])
        np.testing.assert_array_equal(rows[image, :count], scores[image, kept.indices[image, :count].numpy()])
        assert not rows[image, count:].any()


def test_suppression_runs_in_a_tensorflow_1_graph():
    boxes, scores, window = random_image(13)
    expected = multiclass_nms(boxes, scores, window, OPTIONS)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        inputs = [tf.compat.v1.placeholder(tf.float32, [None, *x.shape[1:]]) for x in (boxes, scores, window)]
        kept = multiclass_nms(*inputs, OPTIONS)
        outputs = session.run([kept.boxes, kept.indices], dict(zip(inputs, (boxes, scores, window), strict=True)))
    np.testing.assert_array_equal(outputs[0], expected.boxes)
    np.testing.assert_array_equal(outputs[1], expected.indices)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("iou_threshold: 1.5", ConfigError, "iou_threshold is 1.5; it must be between 0 and 1"),
        ("max_detections_per_class: 200", ConfigError, "max_detections_per_class is 200, more than"),
        ("max_detections_per_class: 0", ConfigError, "max_detections_per_class is 0; it must be at least 1"),
        ("soft_nms_sigma: -1", ConfigError, "soft_nms_sigma is -1; it must not be negative"),
        ("soft_nms_sigma: 0.5 use_static_shapes: true", ConfigError, "with use_static_shapes it must be 0"),
        ("soft_nms_sigma: 0.5 use_hard_nms: true", ConfigError, "while use_hard_nms is true"),
        ("use_class_agnostic_nms: true max_classes_per_detection: 2", ConfigError, "max_classes_per_detection is 2"),
        ("use_combined_nms: true", ConfigError, "does not support change_coordinate_frame; set it to false"),
        ("use_combined_nms: true use_class_agnostic_nms: true", ConfigError, "use_class_agnostic_nms are both true"),
        ("use_combined_nms: true soft_nms_sigma: 1", ConfigError, "with use_combined_nms it must be 0"),
    ],
)
def test_invalid_options_are_rejected(text, error, message):
    with pytest.raises(error, match=message):
        post_processing(text)


def test_soft_nms_with_use_hard_nms_is_accepted_if_class_agnostic():
    text = "soft_nms_sigma: 0.5 use_hard_nms: true use_class_agnostic_nms: true max_classes_per_detection: 1"
    assert post_processing(text).options.soft_nms_sigma == 0.5


def test_combined_nms_in_a_second_stage_is_rejected():
    combined = post_processing("use_combined_nms: true change_coordinate_frame: false")
    boxes, scores, window = random_image(14)
    with pytest.raises(ConfigError, match="padded"):
        combined.nms(boxes, scores, window, num_valid_boxes=np.int32([3, 4]))


def test_first_stage():
    config = text_format.Parse("first_stage_max_proposals: 7 first_stage_nms_iou_threshold: 0.5", messages.FasterRcnn())
    boxes, scores, window = random_image(15, (2, 300, 1))
    kept = build_first_stage_nms(config, tf2=True).nms(boxes, scores, window)
    expected = replace(
        OPTIONS, score_threshold=0.0, max_detections_per_class=7, max_total_detections=7, change_coordinate_frame=False
    )
    np.testing.assert_array_equal(kept.boxes, multiclass_nms(boxes, scores, window, expected).boxes)
    config.use_static_shapes = config.use_static_shapes_for_eval = True
    assert build_first_stage_nms(config).options.use_static_shapes
    config.first_stage_nms_iou_threshold = 2
    with pytest.raises(ConfigError, match="first_stage_nms_iou_threshold is 2"):
        build_first_stage_nms(config)


# Properties: random boxes on a grid, so that corners, overlaps and scores tie.


def one_class_in_numpy(boxes, scores, options, limit):
    """Returns the indices and scores that one class keeps by hard suppression, by the rules of either TensorFlow."""
    at_threshold = np.greater_equal if options.suppress_at_threshold else np.greater
    candidates = [i for i in np.argsort(-scores, kind="stable") if scores[i] > np.float32(options.score_threshold)]
    kept = []
    for i in candidates:
        suppressed = len(kept) > 0 and at_threshold(iou(boxes[i], boxes[kept]), np.float32(options.iou_threshold)).any()
        if len(kept) < limit and not suppressed:
            kept.append(i)
    return kept, scores[kept]


@st.composite
def nms_inputs(draw):
    images, anchors, classes = draw(st.integers(1, 2)), draw(st.integers(1, 14)), draw(st.integers(1, 4))
    q = draw(st.sampled_from([1, classes]))
    corners = draw(arrays(np.int8, (images, anchors, q, 4), elements=st.integers(0, 6)))
    scores = draw(arrays(np.int8, (images, anchors, classes), elements=st.integers(0, 5)))
    window = draw(st.sampled_from([(0, 0, 1, 1), (0.25, 0, 0.75, 1), (-1, -1, 2, 0.5)]))
    per_class = draw(st.integers(1, 5))
    options = NmsOptions(
        score_threshold=draw(st.sampled_from([-1.0, 0.0, 0.2, 0.5])),
        iou_threshold=draw(st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0])),
        max_detections_per_class=per_class,
        max_total_detections=draw(st.integers(per_class, 12)),
        use_static_shapes=draw(st.booleans()),
        change_coordinate_frame=draw(st.booleans()),
        suppress_at_threshold=draw(st.booleans()),
    )
    windows = np.tile(np.float32(window), (images, 1))
    return np.float32(corners) / 6, np.float32(scores) / 5, windows, options


@given(inputs=nms_inputs())
@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_both_forms_equal_a_slow_reference_with_ties(inputs):
    *tensors, options = inputs
    images = [one_image(*image, options, one_class_in_numpy) for image in zip(*tensors, strict=True)]
    for form in Suppression:
        assert_equals_images(*tensors, replace(options, suppression=form), None, images)
