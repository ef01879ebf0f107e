"""`python -m unfreeze.export_tflite_ssd_graph`: the Object Detection API's TF1 script for TensorFlow Lite.

A saved command line continues to work: every flag of the script is accepted, in absl's spellings (one dash or two,
`--flag=value` or `--flag value`, `--noflag`). As with the Object Detection API, tflite_graph.pb and tflite_graph.pbtxt
are written to the output directory and replaced if they exist. The input is `normalized_input_image_tensor`; the
outputs are `TFLite_Detection_PostProcess`, `:1`, `:2` and `:3`, or with `--noadd_postprocessing_op`
`raw_outputs/box_encodings`, `raw_outputs/class_predictions` and `anchors`.

Source: object_detection/export_tflite_ssd_graph.py.
"""

from collections.abc import Sequence
from typing import NoReturn

from unfreeze.cli.tflite_scripts import COMMON_STRINGS, TFLiteScript, export_ssd_graph, run

SCRIPT = TFLiteScript(
    name="export_tflite_ssd_graph",
    description=__doc__,
    checkpoint_flag="trained_checkpoint_prefix",
    strings={
        **COMMON_STRINGS,
        "trained_checkpoint_prefix": "The checkpoint, as in path/to/model.ckpt-1000.",
    },
    integers={
        "max_detections": (10, "The most detections that the model returns."),
        "max_classes_per_detection": (1, "The most classes of one anchor that become detections."),
    },
    booleans={
        "add_postprocessing_op": (True, "Add the operation TFLite_Detection_PostProcess."),
        "use_regular_nms": (False, "Suppress overlaps class by class, which is slower and closer to the training."),
    },
    export=export_ssd_graph,
    without_effect={"detections_per_class": 100},
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line of the script, and ends the process with its exit code."""
    run(SCRIPT, arguments)


if __name__ == "__main__":
    main()
