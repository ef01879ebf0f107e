"""The flags of the Object Detection API's two scripts for TensorFlow Lite; a saved command line continues to work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from absl import flags

from unfreeze.callbacks import OnMessage
from unfreeze.cli.od_api_scripts import parse_flags, print_flags, require_flags
from unfreeze.cli.terminal import progress, quiet_tensorflow, run_and_exit

COMMON_STRINGS = {
    "pipeline_config_path": "The pipeline.config of the training.",
    "output_directory": "The folder to write to.",
    "config_override": "Text in the format of pipeline.config that is merged over the file.",
}
NO_EFFECT = "Accepted for saved command lines; without effect, as in the Object Detection API."


@dataclass(frozen=True)
class TFLiteScript:
    """A script: the name of its module, its help text, its flags with their defaults and help, and what it does.

    `without_effect`: flags that the Object Detection API accepts and does not read, with their defaults.
    """

    name: str
    description: str
    checkpoint_flag: str
    strings: Mapping[str, str]
    integers: Mapping[str, tuple[int, str]]
    booleans: Mapping[str, tuple[bool, str]]
    export: Callable[[flags.FlagValues, OnMessage, OnMessage], Path]
    without_effect: Mapping[str, int | bool] = field(default_factory=dict)

    def flag_values(self) -> flags.FlagValues:
        """Returns the flags in a set of their own."""
        values = flags.FlagValues()
        values.set_gnu_getopt(True)  # as TensorFlow's own: flags may follow an argument
        for name, help_text in self.strings.items():
            flags.DEFINE_string(name, None, help_text, flag_values=values)
        for name, (number, help_text) in self.integers.items():
            flags.DEFINE_integer(name, number, help_text, flag_values=values)
        for name, (is_on, help_text) in self.booleans.items():
            flags.DEFINE_boolean(name, is_on, help_text, flag_values=values)
        for name, default in self.without_effect.items():
            define = flags.DEFINE_boolean if isinstance(default, bool) else flags.DEFINE_integer
            define(name, default, NO_EFFECT, flag_values=values)
        flags.DEFINE_boolean("help", False, "Show this message and exit.", short_name="h", flag_values=values)
        return values


def run(script: TFLiteScript, arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line of the script, and ends the process with its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)

    def work() -> None:
        values = script.flag_values()
        positional = parse_flags(values, script.name, arguments)
        if values.help:
            print_flags(values, script.description)
            return
        required = ("pipeline_config_path", script.checkpoint_flag, "output_directory")
        # The Object Detection API's documentation writes `--centernet_include_keypoints true`.
        require_flags(values, script.name, positional, required, allow_true=True)
        with progress(quiet=False) as (on_progress, on_warning), quiet_tensorflow():
            for name, default in script.without_effect.items():
                if values[name].value != default:
                    on_warning(f"--{name} has no effect, as in the Object Detection API")
            path = script.export(values, on_progress, on_warning)
        print(f"exported {path}", flush=True)

    run_and_exit(work, arguments)


def export_ssd_graph(values: flags.FlagValues, on_progress: OnMessage, on_warning: OnMessage) -> Path:
    """Exports as the flags of export_tflite_ssd_graph say."""
    from unfreeze.exporting.tflite_scripts import TFLiteExport, export_tflite_ssd_graph

    return export_tflite_ssd_graph(
        TFLiteExport(
            Path(values.pipeline_config_path),
            Path(values.trained_checkpoint_prefix),
            Path(values.output_directory),
            values.config_override or "",
            max_detections=values.max_detections,
            max_classes_per_detection=values.max_classes_per_detection,
            use_regular_nms=values.use_regular_nms,
            on_progress=on_progress,
            on_warning=on_warning,
        ),
        add_postprocessing_op=values.add_postprocessing_op,
    )


def export_graph_tf2(values: flags.FlagValues, on_progress: OnMessage, on_warning: OnMessage) -> Path:
    """Exports as the flags of export_tflite_graph_tf2 say."""
    from unfreeze.exporting.tflite_scripts import TFLiteExport, export_tflite_graph_tf2

    label_map = values.keypoint_label_map_path
    return export_tflite_graph_tf2(
        TFLiteExport(
            Path(values.pipeline_config_path),
            Path(values.trained_checkpoint_dir),
            Path(values.output_directory),
            values.config_override or "",
            max_detections=values.max_detections,
            use_regular_nms=values.ssd_use_regular_nms,
            on_progress=on_progress,
            on_warning=on_warning,
        ),
        include_keypoints=values.centernet_include_keypoints,
        keypoint_label_map_path=Path(label_map) if label_map else None,
    )
