"""Writes a detector in the formats of other runtimes; each file is run by its runtime before it counts as written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from unfreeze.callbacks import OnMessage
from unfreeze.child_process import ChildProcessError, run_module
from unfreeze.config import PipelineConfig
from unfreeze.detectors import PORTABLE, Detector, Forms, build_detector
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.export_record import FormatRecord, file_digest
from unfreeze.formats import Format
from unfreeze.formats.conversion import convert
from unfreeze.formats.frozen import FrozenDetector, frozen_graph
from unfreeze.input_types import FLOAT_IMAGE_TENSOR, IMAGE_TENSOR
from unfreeze.savedmodel import Exportable, trace
from unfreeze.verification import Tolerances, compare_detections
from unfreeze.verification.sample_inputs import sample_images
from unfreeze.weights import Weights

IMAGE_SIZE = (240, 320)  # of the images that a file is verified on, if its input has no fixed size
FROZEN_GRAPH_INPUT = "image_tensor"  # as in the Object Detection API's frozen graphs of both generations
TOLERANCES = Tolerances(boxes=1e-4, scores=1e-4, other=1e-4)

Shape = Sequence[int | None]


def write_formats(
    formats: Sequence[Format],
    config: PipelineConfig,
    weights: Weights,
    folder: Path,
    *,
    input_types: Sequence[str],
    input_shape: Shape | None,
    slim: Callable[[Detector], Detector],
    opset: int | None,
    verify: bool,
    on_progress: OnMessage,
) -> dict[str, FormatRecord]:
    """Writes the files of the formats into `folder`; returns what export.json says about each.

    Args:
        config: the pipeline.config, with the keypoint labels that it refers to.
        weights: bound as constants.
        slim: removes outputs and detections from a detector.
        verify: run each file by its runtime, and compare its outputs with those of the detector in TensorFlow.

    Raises:
        UnsupportedError: an option that a format does not have. ConversionError: a converter failed.
        ConfigError: the format needs a fixed size, and the config does not fix one.
    """
    input_type = _input_type(input_types, formats)
    as_served = trace(slim(build_detector(config, weights, Forms())))
    if as_served.detector.side_inputs:
        raise UnsupportedError(
            f"--format {formats[0].name}: this model takes side inputs ({', '.join(as_served.detector.side_inputs)}), "
            "which only saved_model supports; remove the format"
        )
    portable = trace(slim(build_detector(config, weights, PORTABLE))) if any(f.portable for f in formats) else None
    records = {}
    for chosen in formats:
        exportable = portable if chosen.portable and portable is not None else as_served
        shape = _shape(chosen, as_served.detector, input_shape)
        if chosen.needs_fixed_size and input_shape is None:
            on_progress(f"{chosen.name}: its images have the fixed size of the resizer, {shape[1]} x {shape[2]}")
        on_progress(f"writing {chosen.file}")
        frozen = frozen_graph(
            exportable,
            shape,
            input_type=input_type,
            input_name=FROZEN_GRAPH_INPUT if chosen.name == "frozen_graph" else None,
        )
        with tempfile.TemporaryDirectory(prefix="unfreeze-") as scratch:
            path = convert(chosen, frozen, Path(scratch), folder, opset=opset)
            record = _record(chosen, folder, frozen)
            if verify:
                on_progress(f"running {chosen.file}")
                verified, detail = _run(path, as_served, shape, input_type, Path(scratch))
                record = replace(record, verified=verified, detail=detail)
        records[chosen.name] = record
    return records


def _input_type(input_types: Sequence[str], formats: Sequence[Format]) -> str:
    """Returns the one input type; raises UnsupportedError for those that other runtimes cannot take."""
    input_type = input_types[0] if input_types else IMAGE_TENSOR
    if input_type not in (IMAGE_TENSOR, FLOAT_IMAGE_TENSOR):
        raise UnsupportedError(
            f"--input-type {input_type}: --format {formats[0].name} takes pixels only; "
            f"choose {IMAGE_TENSOR} or {FLOAT_IMAGE_TENSOR}"
        )
    return input_type


def _shape(chosen: Format, detector: Detector, input_shape: Shape | None) -> Shape:
    """Returns the shape of the images: what is asked for, or any size, or the resizer's if the format fixes it."""
    if input_shape is not None:
        if chosen.needs_fixed_size and None in tuple(input_shape):
            raise UnsupportedError(
                f"--format {chosen.name} needs a fixed shape (found: --input-shape with an open dimension); "
                "pass 4 numbers, such as 1,300,300,3"
            )
        return input_shape
    if not chosen.needs_fixed_size:
        return (None, None, None, 3)
    height, width, _ = detector.preprocessed_shape
    if height is None or width is None:
        raise ConfigError(
            f"--format {chosen.name} needs images of a fixed size, and the image_resizer of the config gives none; "
            "pass --input-shape, such as 1,600,1024,3"
        )
    return (1, height, width, 3)


def _record(chosen: Format, folder: Path, frozen: FrozenDetector) -> FormatRecord:
    path = folder / chosen.file
    written = sorted(path.parent.iterdir()) if path.parent != folder else [path]
    return FormatRecord(
        file=chosen.file,
        inputs=tuple(frozen.inputs),
        outputs=tuple(frozen.outputs),
        files={file.relative_to(folder).as_posix(): file_digest(file) for file in written},
    )


def _run(path: Path, exportable: Exportable, shape: Shape, input_type: str, scratch: Path) -> tuple[bool, str]:
    """Returns whether a file runs and has the detector's outputs, and how far they differ or what went wrong."""
    height, width = shape[1] or IMAGE_SIZE[0], shape[2] or IMAGE_SIZE[1]
    images = sample_images(height, width)
    np.save(scratch / "images.npy", images)
    try:
        run_module("unfreeze.runtimes.worker", [str(path), str(scratch / "images.npy"), str(scratch / "outputs.npz")])
    except ChildProcessError as error:
        return False, f"it does not run: {error}"
    pixels = tf.constant(images) if input_type == IMAGE_TENSOR else tf.constant(images.astype(np.float32))
    expected = {
        name: value.numpy() for name, value in exportable.detect(*exportable.detector.preprocess(pixels)).items()
    }
    with np.load(scratch / "outputs.npz") as outputs:
        comparison = compare_detections(dict(outputs), expected, TOLERANCES)
    if not comparison.ok:
        return False, "; ".join(comparison.problems[:3])
    largest = max((difference.largest for difference in comparison.differences), default=0.0)
    return True, f"{comparison.matched} of {comparison.detections} detections match, largest difference {largest:.1g}"
