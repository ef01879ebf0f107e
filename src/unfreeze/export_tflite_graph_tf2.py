"""`python -m unfreeze.export_tflite_graph_tf2`: the Object Detection API's TF2 script for TensorFlow Lite.

A saved command line continues to work: every flag of the script is accepted, in absl's spellings (one dash or two,
`--flag=value` or `--flag value`, `--noflag`). As with the Object Detection API, saved_model/ is written to the output
directory and replaced if it exists. It is for TensorFlow's converter: the SavedModel of an SSD has an empty function in
the place of TFLite_Detection_PostProcess. The input is `input`: pixels that are normalized already for an SSD, 0..255
for a CenterNet.

Source: object_detection/export_tflite_graph_tf2.py.
"""

from collections.abc import Sequence
from typing import NoReturn

from unfreeze.cli.tflite_scripts import COMMON_STRINGS, TFLiteScript, export_graph_tf2, run

SCRIPT = TFLiteScript(
    name="export_tflite_graph_tf2",
    description=__doc__,
    checkpoint_flag="trained_checkpoint_dir",
    strings={
        **COMMON_STRINGS,
        "trained_checkpoint_dir": "The training folder, or a folder with an exported ckpt-0.",
        "keypoint_label_map_path": "CenterNet only: the label map with the keypoints, in place of the config's.",
    },
    integers={"max_detections": (10, "The most detections that the model returns.")},
    booleans={
        "ssd_use_regular_nms": (False, "SSD only: suppress overlaps class by class, which is slower."),
        "centernet_include_keypoints": (False, "CenterNet only: also return keypoints and their scores."),
    },
    export=export_graph_tf2,
    without_effect={"ssd_add_postprocessing_op": True, "detections_per_class": 100},
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line of the script, and ends the process with its exit code."""
    run(SCRIPT, arguments)


if __name__ == "__main__":
    main()
