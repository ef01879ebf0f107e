"""An SSD with the operation TFLite_Detection_PostProcess, as the Object Detection API exports it for TensorFlow Lite.

The operation decodes boxes and suppresses overlaps in the runtime. TensorFlow has no such operation: in a graph it is a
node that only the converter knows, in a SavedModel an empty function with the attribute `_implements`.

The input is normalized already; batch 1, of the size of the `fixed_shape_resizer`.
Source: object_detection/export_tflite_ssd_graph_lib.py, export_tflite_graph_lib_tf2.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from unfreeze.config import messages
from unfreeze.detectors import Detector
from unfreeze.detectors.normalizations import MEANS_AND_DEVIATIONS
from unfreeze.detectors.post_processing import build_score_converter
from unfreeze.detectors.ssd_extractors import SSD_EXTRACTORS
from unfreeze.errors import UnfreezeError
from unfreeze.graphs.operations import producer, without_defaults
from unfreeze.tflite.fast_suppression import fast_detections

INPUT = "normalized_input_image_tensor"
BOX_ENCODINGS = "raw_outputs/box_encodings"
CLASS_PREDICTIONS = "raw_outputs/class_predictions"
ANCHORS = "anchors"
POSTPROCESS = "TFLite_Detection_PostProcess"
# Boxes [1, D, 4], classes from 0 [1, D], scores [1, D], number of detections [1].
OUTPUTS = (POSTPROCESS, f"{POSTPROCESS}:1", f"{POSTPROCESS}:2", f"{POSTPROCESS}:3")


@dataclass(frozen=True)
class PostprocessOptions:
    """The attributes of TFLite_Detection_PostProcess that no config has, with the OD API's defaults.

    `detections_per_class` is read only with `use_regular_nms`, which suppresses overlaps class by class. Without it
    (fast NMS), only the `max_classes_per_detection` best classes of each anchor can become detections.
    """

    max_detections: int = 10
    max_classes_per_detection: int = 1
    detections_per_class: int = 100
    use_regular_nms: bool = False


def raw_output_graph(detector: Detector, config: messages.Ssd) -> graph_pb2.GraphDef:
    """Returns the graph from INPUT to BOX_ENCODINGS, CLASS_PREDICTIONS and ANCHORS.

    Box encodings are `[1, A, 4]`, class predictions `[1, A, C]` are scores including the background, and the anchors
    are a constant `[A, 4]`: center y, center x, height, width.

    Args:
        detector: an SSD whose weights are constants and whose input has a fixed size.
    """
    height, width, channels = detector.preprocessed_shape
    convert_scores = build_score_converter(config.post_processing)

    def raw_outputs(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        stages = detector.predict(image, tf.constant([[height, width, channels]], tf.int32))
        anchors.append(tf.get_static_value(stages["anchors"]))
        scores = convert_scores(stages["class_predictions_with_background"])
        with tf.name_scope("raw_outputs"):
            return (
                tf.identity(stages["box_encodings"], name="box_encodings"),
                tf.identity(scores, name="class_predictions"),
            )

    anchors: list[np.ndarray] = []
    image = tf.TensorSpec([1, height, width, channels], tf.float32, name=INPUT)
    concrete = tf.function(raw_outputs, autograph=False).get_concrete_function(image)
    if concrete.captured_inputs:
        raise UnfreezeError("a graph for TensorFlow Lite needs weights that are constants, and these are variables")
    graph = _pruned(concrete.graph.as_graph_def(), [BOX_ENCODINGS, CLASS_PREDICTIONS])
    for node in graph.node:
        node.attr.pop("_user_specified_name", None)
        without_defaults(node)  # so that converters of TensorFlow 1.15 read it
    node = graph.node.add(name=ANCHORS, op="Const")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(_center_size(anchors[0])))
    return graph


def append_postprocessing(graph: graph_pb2.GraphDef, config: messages.Ssd, options: PostprocessOptions) -> None:
    """Adds the node of TFLite_Detection_PostProcess to a graph of `raw_output_graph`."""
    node = graph.node.add(name=POSTPROCESS, op=POSTPROCESS, input=[BOX_ENCODINGS, CLASS_PREDICTIONS, ANCHORS])
    node.attr["_output_quantized"].b = True
    node.attr["_output_types"].list.type.extend([tf.float32.as_datatype_enum] * len(OUTPUTS))
    node.attr["_support_output_type_float_in_quantized_op"].b = True
    node.attr["max_detections"].i = options.max_detections
    node.attr["max_classes_per_detection"].i = options.max_classes_per_detection
    node.attr["detections_per_class"].i = options.detections_per_class
    node.attr["use_regular_nms"].b = options.use_regular_nms
    node.attr["num_classes"].i = config.num_classes
    for name, value in _thresholds_and_scales(config).items():
        node.attr[name].f = value


def ssd_module(graph: graph_pb2.GraphDef, config: messages.Ssd, options: PostprocessOptions) -> tuple[tf.Module, Any]:
    """Returns the module of a SavedModel around a graph of `raw_output_graph`, and the function of its signature.

    The input is `input`; the outputs are in reverse order, since TensorFlow's converter turns them round.
    """
    anchors = _constant(graph, ANCHORS)

    # An empty function that the converter replaces by the operation.
    def dummy_post_processing(
        box_encodings: tf.Tensor, class_predictions: tf.Tensor, anchors: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        return tuple(tf.constant(0.0, name=name) for name in ("boxes", "scores", "classes", "num_detections"))

    postprocess = tf.function(
        dummy_post_processing, experimental_implements=_implements(config, options), autograph=False
    )

    def inference_fn(image: tf.Tensor) -> tuple[tf.Tensor, ...]:
        raw = tf.graph_util.import_graph_def(
            graph, input_map={INPUT: image}, return_elements=[f"{BOX_ENCODINGS}:0", f"{CLASS_PREDICTIONS}:0"], name=""
        )
        outputs: tuple[tf.Tensor, ...] = postprocess(*raw, tf.constant(anchors, name=ANCHORS))
        return outputs[::-1]

    return _module(inference_fn, _input_shape(graph))


def center_net_module(detector: Detector, *, include_keypoints: bool) -> tuple[tf.Module, Any]:
    """Returns the module of a SavedModel of a CenterNet, and the function of its signature.

    It has no special operation. The input `input` are pixels 0..255; the outputs are boxes, classes from 0, scores,
    their number, and on request keypoints and their scores, in reverse order.
    """
    names = ["detection_boxes", "detection_classes", "detection_scores", "num_detections"]
    if include_keypoints:
        names += ["detection_keypoints", "detection_keypoint_scores"]

    def inference_fn(image: tf.Tensor) -> tuple[tf.Tensor, ...]:
        outputs = detector.detect(*detector.preprocess(image))
        outputs["detection_classes"] -= 1.0
        return tuple(tf.identity(outputs[name], name=name) for name in names[::-1])

    return _module(inference_fn, (1, *detector.preprocessed_shape))


def detection_graph(
    detector: Detector, config: messages.Ssd, options: PostprocessOptions
) -> tuple[graph_pb2.GraphDef, graph_pb2.GraphDef]:
    """Returns the graph of `raw_output_graph`, and that graph with TFLite_Detection_PostProcess, for converters."""
    raw = raw_output_graph(detector, config)
    graph = graph_pb2.GraphDef()
    graph.CopyFrom(raw)
    append_postprocessing(graph, config, options)
    return raw, graph


def normalization(config: messages.Ssd) -> tuple[Sequence[float], Sequence[float]]:
    """Returns means and deviations: the input of a model is `(pixel - mean) / deviation`; one, or one a channel."""
    return MEANS_AND_DEVIATIONS[SSD_EXTRACTORS[config.feature_extractor.type].normalize]


# Images [N, H, W, C] uint8, of the size of the input -> box encodings [N, A, 4] and class predictions [N, A, C].
RawOutputs = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def raw_outputs(raw: graph_pb2.GraphDef, config: messages.Ssd) -> RawOutputs:
    """Returns a function that runs a graph of `raw_output_graph` in TensorFlow."""
    means, deviations = (np.array(numbers, np.float32) for numbers in normalization(config))
    names = [BOX_ENCODINGS, CLASS_PREDICTIONS]
    with tf.Graph().as_default() as graph:
        fetches = tf.graph_util.import_graph_def(raw, return_elements=[f"{name}:0" for name in names], name="raw")
    session = tf.compat.v1.Session(graph=graph)

    def run(images: np.ndarray) -> Mapping[str, np.ndarray]:
        batches = (images[:, np.newaxis].astype(np.float32) - means) / deviations
        outputs = [session.run(fetches, {f"raw/{INPUT}:0": batch}) for batch in batches]
        return {name: np.concatenate(rows) for name, rows in zip(names, zip(*outputs, strict=True), strict=True)}

    return run


def expected_detections(
    raw: graph_pb2.GraphDef, config: messages.Ssd, options: PostprocessOptions, outputs: Mapping[str, np.ndarray]
) -> Mapping[str, np.ndarray]:
    """Returns what TFLite_Detection_PostProcess must make of box encodings and class predictions."""
    anchors, numbers = _constant(raw, ANCHORS), _thresholds_and_scales(config)
    detections = [
        fast_detections(encodings, scores, anchors, options.max_detections, numbers)
        for encodings, scores in zip(outputs[BOX_ENCODINGS], outputs[CLASS_PREDICTIONS], strict=True)
    ]
    return {name: np.stack([image[name] for image in detections]) for name in detections[0]}


def _module(
    inference_fn: Callable[[tf.Tensor], tuple[tf.Tensor, ...]], input_shape: Sequence[int | None]
) -> tuple[tf.Module, Any]:
    module = tf.Module()
    module.inference_fn = tf.function(inference_fn, autograph=False)
    return module, module.inference_fn.get_concrete_function(tf.TensorSpec(input_shape, tf.float32, name="input"))


def _implements(config: messages.Ssd, options: PostprocessOptions) -> str:
    """Returns the operation and its attributes as text, from which the converter makes it.

    Quirks of the Object Detection API that change numbers: `%f` keeps six decimals, so that a score threshold of 1e-8
    becomes 0; and `detections_per_class` is not in the text, so that the operation's default of 100 counts.
    """
    attributes = {
        "max_detections": f"i: {options.max_detections}",
        "max_classes_per_detection": f"i: {options.max_classes_per_detection}",
        "use_regular_nms": f"b: {str(options.use_regular_nms).lower()}",
        **{name: f"f: {value:f}" for name, value in _thresholds_and_scales(config).items()},
        "num_classes": f"i: {config.num_classes}",
    }
    texts = (f'attr {{ key: "{name}" value {{ {value} }} }}' for name, value in attributes.items())
    return " ".join([f'name: "{POSTPROCESS}"', *texts])


def _thresholds_and_scales(config: messages.Ssd) -> Mapping[str, float]:
    """Returns the attributes that are numbers of the config.

    With a box coder that is not the faster_rcnn_box_coder, the scales are that one's defaults, as in the OD API.
    """
    nms, coder = config.post_processing.batch_non_max_suppression, config.box_coder.faster_rcnn_box_coder
    return {
        "nms_score_threshold": nms.score_threshold,
        "nms_iou_threshold": nms.iou_threshold,
        "y_scale": coder.y_scale,
        "x_scale": coder.x_scale,
        "h_scale": coder.height_scale,
        "w_scale": coder.width_scale,
    }


def _pruned(graph: graph_pb2.GraphDef, outputs: Sequence[str]) -> graph_pb2.GraphDef:
    """Returns the nodes that the outputs need, without functions: the network of an SSD calls none."""
    nodes = {node.name: node for node in graph.node}
    needed, waiting = set[str](), list(outputs)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += map(producer, nodes[name].input)
    return graph_pb2.GraphDef(node=[node for node in graph.node if node.name in needed], versions=graph.versions)


def _center_size(boxes: np.ndarray) -> np.ndarray:
    """[A, 4] (ymin, xmin, ymax, xmax) -> [A, 4]: center y, center x, height, width."""
    ymin, xmin, ymax, xmax = boxes.astype(np.float32).T
    height, width = ymax - ymin, xmax - xmin
    return np.stack([ymin + height / np.float32(2), xmin + width / np.float32(2), height, width], axis=1)


def _constant(graph: graph_pb2.GraphDef, name: str) -> np.ndarray:
    array: np.ndarray = tf.make_ndarray(_node(graph, name).attr["value"].tensor)
    return array


def _input_shape(graph: graph_pb2.GraphDef) -> list[int]:
    return [dimension.size for dimension in _node(graph, INPUT).attr["shape"].shape.dim]


def _node(graph: graph_pb2.GraphDef, name: str) -> Any:
    return next(node for node in graph.node if node.name == name)
