"""Records a golden with the OD API on TensorFlow 2.10 (Python 3.9).

    PYTHONPATH=SITE python record_tf2.py NAME.config OUTPUT_FOLDER [PATTERN=FACTOR ...]

Writes NAME.json.gz (config, gains, checkpoint keys, object graph, outputs) and NAME.npz (the outputs for both reference
images). PATTERN=FACTOR scales the reference weights whose name matches: for networks whose scores would all be 0 or 1.
CONTRIBUTING.md says how to install the OD API into SITE.
"""

import os
import re
import sys
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "tests")]

import reference_weights
import tensorflow as tf
from google.protobuf import text_format
from object_detection import exporter_lib_v2
from object_detection.builders import model_builder
from object_detection.protos import pipeline_pb2
from recorded import add_outputs, write_golden

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# The person's 17 keypoints of COCO, for configs whose keypoint_label_map_path names a file of another machine.
KEYPOINTS = os.path.join(HERE, "..", "..", "src", "unfreeze", "config", "coco_person_keypoints.pbtxt")


def record(config_path, folder, gains):
    """Builds the detector, gives its checkpoint the reference weights, restores it and runs both images."""
    with open(config_path) as file:
        text = file.read()
    local = re.sub(r'keypoint_label_map_path: *"[^"]*"', f'keypoint_label_map_path: "{KEYPOINTS}"', text)
    config = text_format.Merge(local, pipeline_pb2.TrainEvalPipelineConfig())
    model = model_builder.build(config.model, is_training=False)
    detect = exporter_lib_v2.DetectionFromImageModule(model).__call__.get_concrete_function()
    variables, object_graph = restore_reference_weights(model, gains)
    recorded = {}
    for image, (height, width, seed) in reference_weights.IMAGES.items():
        pixels = tf.constant(reference_weights.image(height, width, seed)[None])
        add_outputs(recorded, image, {name: tensor.numpy() for name, tensor in detect(pixels).items()})
    write_golden(
        config_path,
        folder,
        recorded,
        {"config": text, "gains": gains, "variables": variables, "object_graph": object_graph.hex()},
        detect.structured_outputs,
    )


def restore_reference_weights(model, gains):
    """Gives the model the reference weights; returns [key, shape, dtype] of each variable and the object graph."""
    folder = tempfile.mkdtemp()
    reader = tf.train.load_checkpoint(tf.train.Checkpoint(model=model).save(os.path.join(folder, "ckpt")))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    object_graph = reader.get_tensor(OBJECT_GRAPH)
    rows = [[key, list(shapes[key]), dtypes[key].name] for key in sorted(shapes) if key != OBJECT_GRAPH]
    values = []
    for key, shape, dtype in rows:
        name = key[: -len(reference_weights.VALUE_SUFFIX)]
        value = reference_weights.value(name, shape, dtype)
        if value.dtype.kind == "f":
            value = (value * reference_weights.gain(name, gains)).astype(value.dtype)
        values.append(tf.constant(value))
    prefix = os.path.join(folder, "reference")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=[key for key, _, _ in rows] + [OBJECT_GRAPH],
        shape_and_slices=[""] * (len(rows) + 1),
        tensors=[*values, tf.constant(object_graph)],
    )
    tf.train.Checkpoint(model=model).restore(prefix).expect_partial().assert_nontrivial_match()
    return rows, bytes(object_graph)


if __name__ == "__main__":
    pairs = [argument.rsplit("=", 1) for argument in sys.argv[3:]]
    record(sys.argv[1], sys.argv[2], [(pattern, float(factor)) for pattern, factor in pairs])
