"""Writes the model.onnx that ends in EfficientNMS_TRT, for TensorRT."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from unfreeze.callbacks import OnMessage
from unfreeze.config import PipelineConfig
from unfreeze.detectors import PORTABLE, Detector, Forms
from unfreeze.detectors.detector import Tensors
from unfreeze.errors import VerificationError
from unfreeze.export_record import FormatRecord
from unfreeze.exporting.float_model import TensorFlowModel, as_pixels
from unfreeze.exporting.other_formats import compared, format_record, image_shape, pixel_type, run_written
from unfreeze.formats import FORMATS
from unfreeze.formats.conversion import convert
from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.frozen import freeze
from unfreeze.savedmodel import trace
from unfreeze.savedmodel.slimming import Slimming, slim
from unfreeze.tensorrt.detector import efficient_nms, with_plugin_inputs
from unfreeze.tensorrt.efficient_nms import (
    INPUTS,
    OUTPUTS,
    PLUGIN,
    EfficientNms,
    detections,
    plugin_outputs,
    sigmoid,
    write_attributes,
)
from unfreeze.tensorrt.trtexec import find_trtexec, run_trtexec
from unfreeze.verification import sample_images

FORMAT = replace(FORMATS["onnx"], module="unfreeze.formats.onnx_tensorrt", needs_fixed_size=True)
NOT_RUN = f"{PLUGIN} itself was not run, since trtexec is not on PATH"

Arrays = Mapping[str, np.ndarray]


def write_tensorrt_detection(
    config: PipelineConfig,
    build: Callable[[Forms], Detector],
    require_fit: Callable[[], None],
    folder: Path,
    *,
    slimming: Slimming,
    input_types: Sequence[str],
    input_shape: Sequence[int | None] | None,
    opset: int | None,
    verify: bool,
    on_progress: OnMessage,
) -> dict[str, FormatRecord]:
    """Writes model.onnx into `folder`; returns what export.json says about it.

    ONNX Runtime has no EfficientNMS_TRT. It runs the graph up to this node, whose inputs must equal those of
    TensorFlow, and the plugin's rules in NumPy must make of them the detections of the Object Detection API. Where
    trtexec is on PATH, TensorRT runs the file too, and must return the same.

    Args:
        build: builds the detector in a form, with weights that are constants.
        require_fit: called once the detector is traced; raises an error if the checkpoint does not fit the config.

    Raises:
        ConversionError: the converter or trtexec failed. VerificationError: the file has other outputs.
        ConfigError: the config fixes no size of images, and `input_shape` does not either.
    """
    nms = efficient_nms(config, score_threshold=slimming.score_threshold, max_detections=slimming.max_detections)
    input_type = pixel_type(input_types, [FORMAT])
    detector = with_plugin_inputs(build(PORTABLE), config, nms)
    shape = image_shape(FORMAT, detector, input_shape)
    exportable = trace(detector)
    require_fit()
    on_progress(f"writing {FORMAT.file}")
    with tempfile.TemporaryDirectory(prefix="unfreeze-") as scratch:
        source = freeze(exportable, shape, Path(scratch), {}, input_type=input_type)
        write_attributes(nms, Path(scratch))
        path = convert(FORMAT, source, folder, ConversionOptions(opset))
        record = replace(format_record(FORMAT, folder, source), outputs=OUTPUTS)
        if verify:
            images = sample_images(*(int(length or 0) for length in shape[1:3]))
            on_progress(f"running {path.name} up to {PLUGIN}")
            inputs = _plugin_inputs(path, Path(scratch), images, shape[0])
            reference = _reference(build(Forms()), config, nms, slimming, input_type)
            detail, outputs = _compared(path, nms, inputs, reference.run(images))
            record = replace(record, detail=f"{detail}; {NOT_RUN}")
            trtexec = find_trtexec()
            if trtexec is not None:
                on_progress(f"running {path.name} by {trtexec}")
                batches = _batches(as_pixels(images, input_type), shape[0] or 1)
                rows = run_trtexec(trtexec, path, detector.input_name, batches)
                found = detections(nms, {name: values[: len(images)] for name, values in rows.items()})
                by_tensorrt = compared(path, found, outputs)
                record = replace(record, verified=True, detail=f"{detail}; by TensorRT {by_tensorrt}")
    return {FORMAT.name: record}


def _plugin_inputs(path: Path, scratch: Path, images: np.ndarray, batch_size: int | None) -> Arrays:
    """Returns the inputs of the plugin, by ONNX Runtime."""
    from unfreeze.tensorrt.onnx_graph import write_without_plugin  # here, since it imports onnx

    up_to_plugin = scratch / "up_to_plugin.onnx"
    write_without_plugin(path, up_to_plugin)
    return run_written(up_to_plugin, images, batch_size=batch_size)


def _reference(
    detector: Detector, config: PipelineConfig, nms: EfficientNms, slimming: Slimming, input_type: str
) -> TensorFlowModel:
    """Returns the model of the inputs of the plugin and of the detections of the Object Detection API."""
    upto_plugin = with_plugin_inputs(detector, config, nms)

    def postprocess(stages: Tensors, true_shapes: tf.Tensor) -> Tensors:
        return slim(detector.postprocess(stages, true_shapes), slimming) | upto_plugin.postprocess(stages, true_shapes)

    return TensorFlowModel(trace(replace(detector, postprocess=postprocess)), input_type)


def _compared(path: Path, nms: EfficientNms, inputs: Arrays, expected: Arrays) -> tuple[str, Arrays]:
    """Returns in words how the inputs of the plugin agree with the expected ones, and the detections by its rules.

    Raises: VerificationError: they differ, or the detections are not those of the Object Detection API.
    """
    agreement = compared(path, _with_scores(inputs, nms), _with_scores(expected, nms))
    found = detections(nms, plugin_outputs(nms, inputs))
    try:
        by_rules = compared(path, found, {name: expected[name] for name in OUTPUTS})
    except VerificationError as error:
        raise VerificationError(f"{error}, by the rules of {PLUGIN}") from None
    return f"up to {PLUGIN} {agreement}; by its rules {by_rules}", found


def _with_scores(arrays: Arrays, nms: EfficientNms) -> Arrays:
    """Returns the inputs of the plugin, with scores in place of logits."""
    boxes, scores = (arrays[name] for name in INPUTS)
    return dict(zip(INPUTS, (boxes, sigmoid(scores) if nms.score_activation else scores), strict=True))


def _batches(pixels: np.ndarray, size: int) -> list[np.ndarray]:
    """Returns images in batches of a size; the last is filled up."""
    parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
    return [np.resize(part, (size, *part.shape[1:])) for part in parts]
