"""Exports a checkpoint in the forms of the Object Detection API's two scripts for TensorFlow Lite.

Source: object_detection/export_tflite_ssd_graph_lib.py, export_tflite_graph_lib_tf2.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.config import PipelineConfig, is_keras_model, read_label_map, read_pipeline_config, with_keypoint_labels
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.staging import staged
from unfreeze.weights import locate_checkpoint, open_checkpoint

if TYPE_CHECKING:
    from unfreeze.detectors import Detector

GRAPH, TEXT_GRAPH = "tflite_graph.pb", "tflite_graph.pbtxt"
SAVED_MODEL = "saved_model"
TF1_SCRIPT, TF2_SCRIPT = "unfreeze.export_tflite_ssd_graph", "unfreeze.export_tflite_graph_tf2"


@dataclass(frozen=True)
class TFLiteExport:
    """What both scripts have in common: the model, where it goes, and the size of the detections."""

    pipeline_config_path: Path
    checkpoint: Path
    output_directory: Path
    config_override: str = ""
    max_detections: int = 10
    max_classes_per_detection: int = 1
    use_regular_nms: bool = False
    on_progress: OnMessage = ignore
    on_warning: OnMessage = ignore

    def __post_init__(self) -> None:
        for name in ("max_detections", "max_classes_per_detection"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}; it must be at least 1")

    def read_config(self) -> PipelineConfig:
        """Returns the config; raises an error if there is no config, or no checkpoint. Needs no TensorFlow."""
        locate_checkpoint(self.checkpoint)
        return read_pipeline_config(
            self.pipeline_config_path, override=self.config_override, on_warning=self.on_warning
        )


def export_tflite_ssd_graph(options: TFLiteExport, *, add_postprocessing_op: bool = True) -> Path:
    """Writes tflite_graph.pb and tflite_graph.pbtxt of an SSD of TensorFlow 1; returns the former.

    Raises:
        UnfreezeError: one of its subclasses (errors.py); nothing is left behind.
    """
    config = options.read_config()
    require_tflite_model(config, ["ssd"], TF1_SCRIPT)
    _require_script(config, is_tf2=False)
    from unfreeze.tflite.detection import append_postprocessing, raw_output_graph

    with staged(options.output_directory, (GRAPH, TEXT_GRAPH), overwrite=True) as folder:
        with _detector(config, options) as detector:
            graph = raw_output_graph(detector, config.model.ssd)
        if add_postprocessing_op:
            append_postprocessing(graph, config.model.ssd, _postprocess_options(config, options))
        options.on_progress(f"writing {GRAPH} and {TEXT_GRAPH}")
        (folder / GRAPH).write_bytes(graph.SerializeToString())
        (folder / TEXT_GRAPH).write_text(str(graph))
    return options.output_directory / GRAPH


def export_tflite_graph_tf2(
    options: TFLiteExport, *, include_keypoints: bool = False, keypoint_label_map_path: Path | None = None
) -> Path:
    """Writes saved_model/ of an SSD or a CenterNet of TensorFlow 2, for TensorFlow's converter; returns it.

    Raises:
        UnfreezeError: one of its subclasses (errors.py); nothing is left behind.
    """
    config = options.read_config()
    require_tflite_model(config, ["ssd", "center_net"], TF2_SCRIPT)
    _require_script(config, is_tf2=True)
    if config.model.WhichOneof("model") == "center_net":
        config = _center_net_config(config, options, include_keypoints, keypoint_label_map_path)
    import tensorflow as tf

    from unfreeze.tflite.detection import center_net_module, raw_output_graph, ssd_module

    with staged(options.output_directory, (SAVED_MODEL,), overwrite=True) as folder:
        with _detector(config, options) as detector:
            if config.model.WhichOneof("model") == "ssd":
                graph = raw_output_graph(detector, config.model.ssd)
                module, signature = ssd_module(graph, config.model.ssd, _postprocess_options(config, options))
            else:
                module, signature = center_net_module(detector, include_keypoints=include_keypoints)
        options.on_progress(f"writing {SAVED_MODEL}")
        tf.saved_model.save(module, str(folder / SAVED_MODEL), signatures=signature)
    return options.output_directory / SAVED_MODEL


@contextmanager
def _detector(config: PipelineConfig, options: TFLiteExport) -> Iterator[Detector]:
    """Yields the detector with constant weights; when the block has traced it, checks that all weights were found."""
    from unfreeze.detectors import Forms, build_detector
    from unfreeze.detectors.build import suppression_form
    from unfreeze.detectors.mismatch_diagnosis import likely_causes
    from unfreeze.weights import Weights

    opened = open_checkpoint(options.checkpoint)
    for note in opened.notes:
        options.on_warning(note)
    options.on_progress(f"reading {opened.prefix} with {options.pipeline_config_path}")
    weights = Weights(opened, "constants", moving_averages=config.eval_config.use_moving_averages)
    yield build_detector(config, weights, Forms(suppression_form("operations")))
    weights.require_fit(likely_causes(config))


def _postprocess_options(config: PipelineConfig, options: TFLiteExport) -> Any:
    from unfreeze.tflite.detection import PostprocessOptions

    coder = config.model.ssd.box_coder.WhichOneof("box_coder_oneof")
    if coder != "faster_rcnn_box_coder":
        options.on_warning(
            f"box_coder is {coder}, but TFLite_Detection_PostProcess decodes boxes as a faster_rcnn_box_coder with its "
            "default scales does (the Object Detection API exports the same): the boxes are wrong if the model was "
            "trained with other codes"
        )
    return PostprocessOptions(
        max_detections=options.max_detections,
        max_classes_per_detection=options.max_classes_per_detection,
        use_regular_nms=options.use_regular_nms,
    )


def require_tflite_model(config: PipelineConfig, models: Sequence[str], what: str) -> None:
    """Raises UnsupportedError unless it is one of these models, of a fixed size: the OD API rejects others too."""
    model = config.model.WhichOneof("model")
    if model not in models:
        raise UnsupportedError(
            f"model {model!r} is not supported: {what} exports {' and '.join(models)} only (the Object Detection API "
            "rejects others too). Use unfreeze export --format tflite"
        )
    resizer = getattr(config.model, model).image_resizer
    kind = resizer.WhichOneof("image_resizer_oneof")
    if kind != "fixed_shape_resizer":
        raise UnsupportedError(
            f"image_resizer: {kind} is not supported with TensorFlow Lite, which needs a fixed size (the Object "
            "Detection API rejects it too). Override the config by 'model { "
            f"{model} {{ image_resizer {{ fixed_shape_resizer {{ height: 320 width: 320 }} }} }} }}'"
        )
    if model == "center_net" and resizer.fixed_shape_resizer.convert_to_grayscale:
        raise UnsupportedError(
            "fixed_shape_resizer: convert_to_grayscale is not supported with a CenterNet for TensorFlow Lite (the "
            "Object Detection API fails on it too); set it to false"
        )


def _require_script(config: PipelineConfig, *, is_tf2: bool) -> None:
    """Raises ConfigError if the other of the two scripts exports this config."""
    model = config.model.WhichOneof("model")
    kind = getattr(config.model, model).feature_extractor.type
    if is_keras_model(config) != is_tf2:
        raise ConfigError(
            f"feature_extractor.type {kind!r} is an extractor of TensorFlow {1 if is_tf2 else 2}; use python -m "
            f"{TF1_SCRIPT if is_tf2 else TF2_SCRIPT}"
        )


def _center_net_config(
    config: PipelineConfig, options: TFLiteExport, include_keypoints: bool, keypoint_label_map_path: Path | None
) -> PipelineConfig:
    """Returns the config with the requested number of detections, and with keypoints or without."""
    center_net = config.model.center_net
    center_net.object_center_params.max_box_predictions = options.max_detections
    if not include_keypoints:
        del center_net.keypoint_estimation_task[:]
        return config
    if not center_net.keypoint_estimation_task:
        raise ConfigError(
            f"{options.pipeline_config_path}: --centernet_include_keypoints needs a model with keypoints, and this one "
            "has no keypoint_estimation_task; remove the flag"
        )
    if keypoint_label_map_path is not None:
        read_label_map(keypoint_label_map_path)
        center_net.keypoint_label_map_path = str(keypoint_label_map_path)
    return with_keypoint_labels(config, options.pipeline_config_path.parent, None, options.on_warning)
