"""Records a TFLite golden with export_tflite_graph_tf2 of the OD API on TensorFlow 2.10 (Python 3.9).

    PYTHONPATH=SITE python record_tflite_tf2.py GOLDEN CHECKPOINT_FOLDER OUTPUT_FOLDER IMAGE [FLAG ...]

IMAGE is a PNG of any size or `-` for the reference image. The FLAGs are those of the script. Writes GOLDEN.json (the
flags, the attributes of TFLite_Detection_PostProcess) and GOLDEN.npz (the pixels, and the outputs of the .tflite that
TensorFlow 2.10 makes of the SavedModel). SSD gets pixels in -1..1, CenterNet in 0..255.
"""

import os
import subprocess
import sys
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "tests")]

import numpy as np
import tensorflow as tf
from recorded import add_outputs, tflite_pixels, write_tflite_golden
from tensorflow.core.protobuf import saved_model_pb2


def export(checkpoint, flags):
    """Runs the script of the OD API; returns its SavedModel."""
    folder = tempfile.mkdtemp()
    config = os.path.join(checkpoint, "pipeline.config")
    subprocess.check_call(
        [sys.executable, "-m", "object_detection.export_tflite_graph_tf2", "--pipeline_config_path=" + config]
        + ["--trained_checkpoint_dir=" + checkpoint, "--output_directory=" + folder]
        + flags
    )
    return os.path.join(folder, "saved_model")


def record(name, checkpoint, folder, image, flags):
    """Exports, converts the SavedModel, and runs the .tflite."""
    saved_model = export(checkpoint, flags)
    signature = tf.saved_model.load(saved_model).signatures["serving_default"]
    _, height, width, _ = signature.structured_input_signature[1]["input"].shape
    pixels = tflite_pixels(image, height, width)
    operation = implements(saved_model)
    normalized = pixels[np.newaxis].astype(np.float32)
    if operation:
        normalized = normalized * np.float32(2.0 / 255.0) - np.float32(1.0)
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=["serving_default"])
    converter.allow_custom_ops = True
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    runner = interpreter.get_signature_runner("serving_default")
    recorded = {"pixels": pixels}
    add_outputs(recorded, "tflite", runner(input=normalized))
    write_tflite_golden(name, folder, recorded, flags, operation)


def implements(saved_model):
    """Returns the attributes of the operation in the SavedModel, as text; None if it has no such operation."""
    with open(os.path.join(saved_model, "saved_model.pb"), "rb") as file:
        library = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0].graph_def.library
    texts = [str(function.attr["_implements"].func) for function in library.function if "_implements" in function.attr]
    return texts[0] if texts else None


if __name__ == "__main__":
    record(*sys.argv[1:5], flags=sys.argv[5:])
