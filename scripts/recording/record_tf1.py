"""Records a golden with the OD API on TensorFlow 1.15 (Python 3.7).

    PYTHONPATH=SITE python record_tf1.py NAME.config OUTPUT_FOLDER [TENSOR ...]

Writes NAME.json.gz (config, variables, outputs) and NAME.npz (the outputs for both reference images). The values of
further TENSORs of the graph, such as FeatureExtractor/MobilenetV2/layer_19/output:0, are recorded as well: compare them
stage by stage to find where another implementation begins to differ. CONTRIBUTING.md says how to install the OD API
into SITE.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "tests")]

import reference_weights
import tensorflow.compat.v1 as tf
from google.protobuf import text_format
from object_detection import exporter
from object_detection.builders import graph_rewriter_builder, model_builder
from object_detection.protos import pipeline_pb2
from recorded import add_outputs, write_golden


def record(config_path, folder, tensors):
    """Builds the inference graph, gives every variable its reference value and runs both images."""
    with open(config_path) as file:
        text = file.read()
    config = text_format.Merge(text, pipeline_pb2.TrainEvalPipelineConfig())
    rewrite = None
    if config.HasField("graph_rewriter"):
        rewrite = graph_rewriter_builder.build(config.graph_rewriter, is_training=False)
    model = model_builder.build(config.model, is_training=False)
    outputs, inputs = exporter.build_detection_graph("image_tensor", model, None, None, rewrite)
    fetches = dict(outputs)
    fetches.update({"extra/" + name: tf.get_default_graph().get_tensor_by_name(name) for name in tensors})
    variables = tf.global_variables()
    rows = [(variable.op.name, variable.shape.as_list(), variable.dtype.base_dtype.name) for variable in variables]
    recorded = {}
    with tf.Session() as session:
        values = {
            variable.initializer.inputs[1]: reference_weights.value(*row) for variable, row in zip(variables, rows)
        }
        session.run([variable.initializer for variable in variables], values)
        for image, (height, width, seed) in reference_weights.IMAGES.items():
            pixels = reference_weights.image(height, width, seed)[None]
            add_outputs(recorded, image, session.run(fetches, {inputs["inputs"]: pixels}))
    write_golden(config_path, folder, recorded, {"config": text, "variables": rows}, outputs)


if __name__ == "__main__":
    record(sys.argv[1], sys.argv[2], sys.argv[3:])
