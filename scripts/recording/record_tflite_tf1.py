"""Records a TFLite golden with export_tflite_ssd_graph of the OD API on TensorFlow 1.15 (Python 3.7).

    PYTHONPATH=SITE python record_tflite_tf1.py GOLDEN CHECKPOINT OUTPUT_FOLDER IMAGE [FLAG ...]

CHECKPOINT is a prefix beside a pipeline.config, IMAGE a PNG of any size or `-` for the reference image. The FLAGs are
those of the script. Writes GOLDEN.json (the flags, the attributes of TFLite_Detection_PostProcess) and GOLDEN.npz (the
pixels, the raw outputs of the graph, and the outputs of the .tflite that TensorFlow 1.15 makes of it).
"""

import os
import subprocess
import sys
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "tests")]

import numpy as np
import tensorflow.compat.v1 as tf
from recorded import add_outputs, tflite_pixels, write_tflite_golden

INPUT = "normalized_input_image_tensor"
RAW = ["raw_outputs/box_encodings", "raw_outputs/class_predictions", "anchors"]
POSTPROCESS = "TFLite_Detection_PostProcess"


def export(prefix, flags):
    """Runs the script of the OD API; returns its graph."""
    folder = tempfile.mkdtemp()
    config = os.path.join(os.path.dirname(prefix), "pipeline.config")
    subprocess.check_call(
        [sys.executable, "-m", "object_detection.export_tflite_ssd_graph", "--pipeline_config_path=" + config]
        + ["--trained_checkpoint_prefix=" + prefix, "--output_directory=" + folder]
        + flags
    )
    with open(os.path.join(folder, "tflite_graph.pb"), "rb") as file:
        return file.read()


def record(name, prefix, folder, image, flags):
    """Exports, runs the graph in TensorFlow, converts it, and runs the .tflite."""
    content = export(prefix, flags)
    graph = tf.GraphDef.FromString(content)
    shape = next(node for node in graph.node if node.name == INPUT).attr["shape"].shape
    _, height, width, _ = [dimension.size for dimension in shape.dim]
    pixels = tflite_pixels(image, height, width)
    normalized = pixels[np.newaxis].astype(np.float32) * np.float32(2.0 / 255.0) - np.float32(1.0)
    operation = [node for node in graph.node if node.op == POSTPROCESS]
    recorded = {"pixels": pixels}
    for node in operation:
        graph.node.remove(node)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(graph, name="")
        add_outputs(recorded, "graph", session.run({key: key + ":0" for key in RAW}, {INPUT + ":0": normalized}))
    if operation:
        path = os.path.join(tempfile.mkdtemp(), "graph.pb")
        with open(path, "wb") as file:
            file.write(content)
        outputs = [POSTPROCESS] + [POSTPROCESS + ":%d" % number for number in (1, 2, 3)]
        converter = tf.lite.TFLiteConverter.from_frozen_graph(path, [INPUT], outputs, {INPUT: [1, height, width, 3]})
        converter.allow_custom_ops = True
        add_outputs(recorded, "tflite", run_tflite(converter.convert(), normalized, outputs))
    write_tflite_golden(name, folder, recorded, flags, str(operation[0]) if operation else None)


def run_tflite(model, normalized, names):
    """Returns the outputs of a .tflite by name."""
    interpreter = tf.lite.Interpreter(model_content=model)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], normalized)
    interpreter.invoke()
    details = interpreter.get_output_details()
    return {name: interpreter.get_tensor(detail["index"]) for name, detail in zip(names, details)}


if __name__ == "__main__":
    record(*sys.argv[1:5], flags=sys.argv[5:])
