"""Writes the model.tflite with TFLite_Detection_PostProcess that Coral, MediaPipe and the Task library run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from tensorflow.core.framework import graph_pb2

from unfreeze.callbacks import OnMessage
from unfreeze.config import PipelineConfig, messages
from unfreeze.detectors import Detector
from unfreeze.export_record import FormatRecord
from unfreeze.exporting.other_formats import compared, format_record, run_written
from unfreeze.exporting.precision_checks import PrecisionChecks
from unfreeze.formats import FORMATS
from unfreeze.formats.conversion import convert
from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.frozen_file import write_frozen_file
from unfreeze.runtimes.image_input import resized
from unfreeze.savedmodel.slimming import Slimming
from unfreeze.tflite.detection import (
    INPUT,
    OUTPUTS,
    PostprocessOptions,
    RawOutputs,
    detection_graph,
    expected_detections,
    normalization,
    raw_outputs,
)
from unfreeze.tflite.metadata import POSTPROCESS_OUTPUTS, detection_metadata, label_lines, with_metadata
from unfreeze.verification import sample_images

POSTPROCESS_NAMES = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
FORMAT = replace(FORMATS["tflite"], module="unfreeze.formats.tflite_op")


def write_tflite_detection(
    config: PipelineConfig,
    detector: Detector,
    require_fit: Callable[[], None],
    folder: Path,
    *,
    slimming: Slimming,
    checks: PrecisionChecks,
    names: Mapping[int, str],
    verify: bool,
    on_progress: OnMessage,
) -> dict[str, FormatRecord]:
    """Writes model.tflite into `folder`; returns what export.json says about it.

    Two things are verified: that box encodings and scores before the operation equal those of TensorFlow, and that the
    operation makes of them the detections that fast_suppression.py does. It suppresses boxes in another way than the
    Object Detection API's detector does.

    Args:
        config: that of an SSD with images of a fixed size.
        detector: with weights that are constants.
        checks: the precision of the file; calibrates, verifies and measures it.
        require_fit: called once the detector is traced; raises an error if the checkpoint does not fit the config.
        names: the names of the classes by id.

    Raises:
        ConversionError: the converter failed. VerificationError: the file does not run, or has other outputs.
    """
    ssd = type(config.model.ssd)()
    ssd.CopyFrom(config.model.ssd)
    suppression = ssd.post_processing.batch_non_max_suppression
    if slimming.score_threshold is not None:
        suppression.score_threshold = max(suppression.score_threshold, slimming.score_threshold)
    options = PostprocessOptions(max_detections=slimming.max_detections or suppression.max_total_detections)
    raw, graph = detection_graph(detector, ssd, options)
    require_fit()
    on_progress(f"writing {FORMAT.file}")
    with tempfile.TemporaryDirectory(prefix="unfreeze-") as scratch:
        source = write_frozen_file(graph, {INPUT: INPUT}, dict(zip(OUTPUTS, OUTPUTS, strict=True)), Path(scratch), {})
        shape = [int(length or 0) for length in detector.preprocessed_shape]
        calibration = Path(tempfile.mkdtemp(dir=scratch))
        float_model = FloatModel(raw, ssd, options, (shape[0], shape[1]))
        calibration_record = checks.write_calibration(float_model.normalized, calibration)
        conversion = ConversionOptions(
            precision=checks.options.precision,
            calibration=calibration if calibration_record else None,
            integer_input=checks.options.edgetpu,
        )
        path = convert(FORMAT, source, folder, conversion)
        metadata = detection_metadata(shape, *normalization(ssd), POSTPROCESS_OUTPUTS, has_labels=bool(names))
        labels = label_lines(names, first=1, last=ssd.num_classes) if names else ()
        path.write_bytes(with_metadata(path.read_bytes(), metadata, labels))
        record = format_record(FORMAT, folder, source, checks.options.precision, calibration_record)
        if verify:
            on_progress(f"running {FORMAT.file}")
            images = sample_images(*shape[:2])
            outputs = run_written(path, images, batch_size=1)
            if checks.is_float:
                compared(path, outputs, float_model.raw_outputs(images))
                detections = expected_detections(raw, ssd, options, outputs)
                record = replace(record, verified=True, detail=compared(path, outputs, detections))
            else:
                record = checks.verified(record, path, float_model, list(images))
        record = checks.measured(record, path, lambda: float_model)
    return {FORMAT.name: record}


@dataclass(frozen=True)
class FloatModel:
    """The detector in TensorFlow up to its raw outputs, and the detections that the operation makes of them."""

    raw: graph_pb2.GraphDef
    ssd: messages.Ssd
    options: PostprocessOptions
    size: tuple[int, int]
    title: str = "the float model"
    output_names: tuple[str, ...] = POSTPROCESS_NAMES
    uses_gpu: bool = False

    @cached_property
    def raw_outputs(self) -> RawOutputs:
        """The function from images of the size of the input to raw outputs."""
        return raw_outputs(self.raw, self.ssd)

    def normalized(self, image: np.ndarray) -> np.ndarray:
        """Returns an image `[H, W, 3]` uint8 as the input of the network, `[1, h, w, 3]` float32."""
        means, deviations = (np.array(numbers, np.float32) for numbers in normalization(self.ssd))
        pixels = resized(image[np.newaxis], *self.size, np.dtype(np.float32))
        batch: np.ndarray = (pixels - means) / deviations
        return batch

    def run(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """Returns the detections for images `[N, H, W, 3]` uint8."""
        outputs = self.raw_outputs(resized(images, *self.size, images.dtype))
        return expected_detections(self.raw, self.ssd, self.options, outputs)
