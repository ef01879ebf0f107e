"""Writes a detector in the formats of other runtimes; each file is run by its runtime before it counts as written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from unfreeze.callbacks import OnMessage
from unfreeze.detectors import PORTABLE, Detector, Forms
from unfreeze.detectors.raw_outputs import with_raw_outputs
from unfreeze.errors import ConfigError, UnsupportedError, VerificationError
from unfreeze.export_record import CalibrationRecord, FormatRecord, file_digest
from unfreeze.exporting.calibration import as_input
from unfreeze.exporting.float_model import TensorFlowModel, as_pixels
from unfreeze.exporting.precision_checks import PrecisionChecks
from unfreeze.exporting.tfjs_model import run_graph_model
from unfreeze.formats import NONE, TFJS, Format
from unfreeze.formats.conversion import convert
from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.frozen import freeze
from unfreeze.formats.frozen_file import FrozenFile
from unfreeze.formats.precision import Precision
from unfreeze.input_types import FLOAT_IMAGE_TENSOR, IMAGE_TENSOR
from unfreeze.savedmodel import Exportable, trace
from unfreeze.tfjs.graph_model import write_labels
from unfreeze.tflite.metadata import with_signature_metadata
from unfreeze.verification import Status, compare_detections, sample_images
from unfreeze.verification.model_file import check_batch, check_runtime, run_file
from unfreeze.verification.sample_inputs import SampleInput
from unfreeze.weights import Weights

IMAGE_SIZE = (240, 320)  # of the images that a file is verified on, if its input has no fixed size
FROZEN_GRAPH_INPUT = "image_tensor"  # as in the Object Detection API's frozen graphs of both generations

Shape = tuple[int | None, ...]
Outputs = Mapping[str, np.ndarray]


def write_formats(
    formats: Sequence[Format],
    stand_ins: Weights,
    variables: Weights,
    detector: Callable[[Weights, Forms], Detector],
    require_fit: Callable[[Weights], None],
    folder: Path,
    *,
    input_types: Sequence[str],
    input_shape: Sequence[int | None] | None,
    opset: int | None,
    postprocessing: str,
    checks: PrecisionChecks,
    names: Mapping[int, str],
    verify: bool,
    on_progress: OnMessage,
) -> dict[str, FormatRecord]:
    """Writes the files of the formats into `folder`; returns what export.json says about each.

    Args:
        checks: the precision of the files; calibrates, verifies and measures them.
        postprocessing: FULL or NONE.
        names: class names by id, for the metadata of formats that have it.
        stand_ins: the weights of the files.
        variables: the same weights, to run the detector in TensorFlow.
        detector: builds the detector in a form.
        require_fit: called once a detector is traced; raises an error if the checkpoint does not fit the config.
        verify: run each file by its runtime, and compare its outputs with those of the detector in TensorFlow.

    Raises:
        UnsupportedError: an option that a format does not have. ConversionError: a converter failed.
        VerificationError: a file does not run, or has other outputs.
        ConfigError: the format needs a fixed size, and the config does not fix one.
    """
    # The uint8 pixels that an Edge TPU takes become float32 by their scale of 1.
    input_type = FLOAT_IMAGE_TENSOR if checks.options.edgetpu else pixel_type(input_types, formats)
    untraced = detector(stand_ins, Forms())
    if untraced.side_inputs:
        raise UnsupportedError(
            f"--format {formats[0].name}: this model takes side inputs ({', '.join(untraced.side_inputs)}), which only "
            "saved_model supports; remove the format"
        )
    shapes = {chosen.name: image_shape(chosen, untraced, input_shape) for chosen in formats}

    def traced(weights: Weights, forms: Forms) -> Exportable:
        built = detector(weights, forms)
        exportable = trace(with_raw_outputs(built) if postprocessing == NONE else built)
        require_fit(weights)
        return exportable

    @cache
    def written(portable: bool) -> Exportable:
        return traced(stand_ins, PORTABLE if portable else Forms())

    @cache
    def frozen(portable: bool, shape: Shape) -> FrozenFile:
        return freeze(
            written(portable),
            shape,
            Path(tempfile.mkdtemp(dir=scratch)),
            stand_ins.constants,
            input_type=input_type,
            input_name=None if portable else FROZEN_GRAPH_INPUT,
            lower_control_flow=not portable,
        )

    @cache
    def reference() -> TensorFlowModel:
        exportable = traced(variables, Forms())
        variables.fill()
        return TensorFlowModel(exportable, input_type)

    @cache
    def expected(shape: Shape) -> tuple[np.ndarray, Outputs]:
        images = sample_images(shape[1] or IMAGE_SIZE[0], shape[2] or IMAGE_SIZE[1])
        return images, reference().run(images)

    @cache
    def calibration(shape: Shape) -> tuple[Path, CalibrationRecord | None]:
        inputs = Path(tempfile.mkdtemp(dir=scratch))
        dtype = np.dtype(np.uint8 if input_type == IMAGE_TENSOR else np.float32)
        return inputs, checks.write_calibration(lambda image: as_input(image, shape, dtype), inputs)

    records = {}
    with tempfile.TemporaryDirectory(prefix="unfreeze-") as scratch:
        for chosen in formats:
            shape = shapes[chosen.name]
            if chosen.needs_fixed_size and input_shape is None:
                on_progress(f"{chosen.name}: its images have the fixed size of the resizer, {shape[1]} x {shape[2]}")
            on_progress(f"writing {chosen.file}")
            source = frozen(chosen.portable, shape)
            _require_operations(chosen, source)
            calibrated, calibration_record = calibration(shape)
            options = ConversionOptions(
                opset, checks.options.precision, calibrated if calibration_record else None, checks.options.edgetpu
            )
            path = convert(chosen, source, folder, options)
            if chosen.has_metadata:
                path.write_bytes(
                    with_signature_metadata(path.read_bytes(), [length or 0 for length in shape[1:]], names)
                )
            if chosen.has_labels and names:
                write_labels(names, path.parent)
            record = format_record(chosen, folder, source, checks.options.precision, calibration_record)
            if verify:
                on_progress(f"running {chosen.file}")
                images, outputs_expected = expected(shape)
                if chosen.name == TFJS:
                    outputs = run_graph_model(path, as_pixels(images, input_type))
                else:
                    outputs = run_written(path, images, batch_size=shape[0])
                if checks.is_float:
                    record = replace(record, verified=True, detail=compared(path, outputs, outputs_expected))
                else:
                    record = checks.verified(record, path, reference(), list(images))
            records[chosen.name] = checks.measured(record, path, reference)
    return records


def pixel_type(input_types: Sequence[str], formats: Sequence[Format]) -> str:
    """Returns the one input type; raises UnsupportedError for those that other runtimes cannot take."""
    input_type = input_types[0] if input_types else IMAGE_TENSOR
    if input_type not in (IMAGE_TENSOR, FLOAT_IMAGE_TENSOR):
        raise UnsupportedError(
            f"--input-type {input_type}: --format {formats[0].name} takes pixels only; "
            f"choose {IMAGE_TENSOR} or {FLOAT_IMAGE_TENSOR}"
        )
    return input_type


def image_shape(chosen: Format, detector: Detector, input_shape: Sequence[int | None] | None) -> Shape:
    """Returns the shape of the images: what is asked for, or any size, or the resizer's if the format fixes it."""
    if input_shape is not None:
        if chosen.needs_fixed_size and None in tuple(input_shape):
            raise UnsupportedError(
                f"--format {chosen.name} needs a fixed shape (found: --input-shape with an open dimension); "
                "pass 4 numbers, such as 1,300,300,3"
            )
        if chosen.needs_one_image and input_shape[0] != 1:
            raise UnsupportedError(
                f"--format {chosen.name} takes one image at a time (found: --input-shape with another number of "
                "images); pass 1 as the first number, as in 1,-1,-1,3"
            )
        return tuple(input_shape)
    if not chosen.needs_fixed_size:
        return (1 if chosen.needs_one_image else None, None, None, 3)
    height, width, _ = detector.preprocessed_shape
    if height is None or width is None:
        raise ConfigError(
            f"--format {chosen.name} needs images of a fixed size, and the image_resizer of the config gives none; "
            "pass --input-shape, such as 1,600,1024,3"
        )
    return (1, height, width, 3)


def _require_operations(chosen: Format, source: FrozenFile) -> None:
    """Raises UnsupportedError if the model has operations that the format does not have."""
    if not chosen.lacks:
        return
    graph_def = source.read()
    nodes = [graph_def.node, *(function.node_def for function in graph_def.library.function)]
    found = sorted({node.op for part in nodes for node in part} & {*chosen.lacks})
    if found:
        raise UnsupportedError(
            f"not supported: --format {chosen.name} of a model with {', '.join(found)}, which the crops of a second "
            f"stage or of masks need and {chosen.name} does not have; choose another format"
        )


def format_record(
    chosen: Format,
    folder: Path,
    frozen: FrozenFile,
    precision: Precision = Precision.FLOAT,
    calibration: CalibrationRecord | None = None,
) -> FormatRecord:
    """Returns what export.json says about a file that was written and not run yet."""
    path = folder / chosen.file
    written = sorted(path.parent.iterdir()) if path.parent != folder else [path]
    return FormatRecord(
        file=chosen.file,
        inputs=tuple(frozen.inputs),
        outputs=tuple(frozen.outputs),
        files={file.relative_to(folder).as_posix(): file_digest(file) for file in written},
        precision=precision.value,
        calibration=calibration,
    )


def run_written(path: Path, images: np.ndarray, *, batch_size: int | None) -> Outputs:
    """Returns the outputs of a file that was written for two images, from its runtime in a process of its own.

    Args:
        batch_size: how many images the file takes at once; None for any.

    Raises: VerificationError: it does not run, or returns other outputs for both images than for each alone.
    """
    sample = SampleInput("a generated image", images, generated=True)
    run = run_file(path, [sample], batch_size=batch_size)
    problems = {
        "does not run": check_runtime(run),
        "returns other outputs for a batch than for single images": check_batch(run),
    }
    for problem, check in problems.items():
        if check.status is Status.FAILED:
            raise VerificationError(f"not exported, since {path.name} {problem}: {check.detail}")
    outputs = run.together(sample)
    assert outputs is not None
    return outputs


def compared(path: Path, outputs: Outputs, expected: Outputs) -> str:
    """Returns in words how the outputs of a file agree with the expected ones.

    Raises: VerificationError: they differ.
    """
    comparison = compare_detections(outputs, expected)
    if not comparison.ok:
        problems = "; ".join(comparison.problems[:3])
        raise VerificationError(f"not exported, since {path.name} differs from the model in TensorFlow: {problems}")
    largest = f"largest difference {comparison.largest():.1g}"
    if not comparison.detections:
        return f"{len(comparison.differences)} outputs match, {largest}"
    return f"{comparison.matched} of {comparison.detections} detections match, {largest}"
