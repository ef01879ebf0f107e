"""Calibrates, verifies and measures the files of an export in a lower precision than float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unfreeze.callbacks import OnMessage
from unfreeze.child_process import ModuleError
from unfreeze.config import LabelMap
from unfreeze.errors import VerificationError
from unfreeze.export_record import AgreementRecord, CalibrationRecord, FormatRecord
from unfreeze.exporting.calibration import calibration_images
from unfreeze.exporting.precision_options import PrecisionOptions
from unfreeze.formats.calibration import write_calibration
from unfreeze.formats.precision import Precision
from unfreeze.runtimes.model import Model
from unfreeze.runtimes.process import run_in_process
from unfreeze.verification.detection_agreement import RULE, DetectionAgreement, detection_agreement

if TYPE_CHECKING:
    from unfreeze.exporting.accuracy import Accuracy

COMPARED_IMAGES = 32
# What share of the clear detections must match. A file that computes something else (another normalization, a layer
# that overflows) matches almost none; how good a file is, is what --max-map-loss is for.
MIN_SHARES = {Precision.HALF: 0.98, Precision.INT8: 0.8, Precision.INT8_WEIGHTS: 0.9}


class PrecisionChecks:
    """The checks of one export; the float model is measured once for all its files."""

    def __init__(self, options: PrecisionOptions, labels: LabelMap | None, on_progress: OnMessage) -> None:
        self.options = options
        self._on_progress = on_progress
        self._accuracy: Accuracy | None = None
        if options.annotations is not None:
            from unfreeze.exporting.accuracy import Accuracy  # imports Pillow, which few exports need

            self._accuracy = Accuracy(options, labels, on_progress)

    @property
    def is_float(self) -> bool:
        """Returns whether the files are in float32, and are verified to the last digits."""
        return self.options.precision is Precision.FLOAT

    def write_calibration(self, as_input: Callable[[np.ndarray], np.ndarray], folder: Path) -> CalibrationRecord | None:
        """Writes the inputs of a network for the calibration images into a folder; returns None if there are none."""
        source = self.options.calibration_images
        if source is None:
            return None
        self._on_progress(f"reading {source}")
        images = calibration_images(source, self.options.calibration_count)
        if self.options.edgetpu:
            images = _with_full_range(images)
        return CalibrationRecord(str(source), write_calibration(map(as_input, images), folder))

    def verified(
        self, record: FormatRecord, path: Path, float_model: Model, generated: Sequence[np.ndarray]
    ) -> FormatRecord:
        """Returns the record with the share of matched detections, on calibration images or else on generated ones.

        Without a detection to match, the file counts as run, and not as verified.

        Raises:
            VerificationError: the file does not run, or too few detections match.
        """
        source, images = "generated images", list(generated)
        if self.options.calibration_images is not None:
            source = str(self.options.calibration_images)
            images = list(calibration_images(self.options.calibration_images, COMPARED_IMAGES))
        agreement = _agreement(path, float_model, images)
        if not agreement.detections:
            detail = f"{self.options.precision.value}: it runs; the float model detects nothing on {source} to compare"
            return replace(record, detail=detail)
        min_share = MIN_SHARES[self.options.precision]
        if agreement.share < min_share:
            has_images = self.options.calibration_images is not None
            advice = "Pass calibration images that look like those in production, or choose" if has_images else "Choose"
            advice += " another precision; --no-verify exports the file nevertheless."
            raise VerificationError(
                f"not exported, since {path.name} differs too much from the float model: {agreement} (at least "
                f"{min_share:.0%} must match). {advice}"
            )
        return replace(
            record,
            verified=True,
            detail=f"{self.options.precision.value}: {agreement}",
            agreement=AgreementRecord(
                matched=agreement.matched,
                detections=agreement.detections,
                share=agreement.share,
                min_share=min_share,
                images=agreement.images,
                source=source,
                rule=RULE,
            ),
        )

    def measured(self, record: FormatRecord, path: Path, float_model: Callable[[], Model]) -> FormatRecord:
        """Returns the record with the mAP of the file, if there are annotations; else `float_model` is not called.

        Raises:
            VerificationError: the loss is above the limit.
        """
        if self._accuracy is None:
            return record
        accuracy = self._accuracy.measure(path, float_model())
        cost = f"mAP {accuracy.file_map:.4f}, float {accuracy.float_map:.4f}, loss {accuracy.loss:.4f}"
        return replace(record, accuracy=accuracy, detail="; ".join(filter(None, [record.detail, cost])))


def _with_full_range(images: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the images, the first with its darkest pixel at 0 and its brightest at 255.

    Pixels then are what a uint8 input stores: its range is the one that was measured.
    """
    first = next(images)
    low, high = int(first.min()), int(first.max())
    if high > low:
        first = np.rint((first.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)
    yield first
    yield from images


def _agreement(path: Path, float_model: Model, images: Sequence[np.ndarray]) -> DetectionAgreement:
    batches = [image[np.newaxis] for image in images]
    try:
        outputs = run_in_process(path, batches).outputs
    except ModuleError as error:
        raise VerificationError(f"not exported, since {path.name} does not run: {error}") from None
    failures = [result for result in outputs if isinstance(result, str)]
    if failures:
        raise VerificationError(f"not exported, since {path.name} does not run: {failures[0]}")
    return detection_agreement(
        (float_model.run(batch), result)
        for batch, result in zip(batches, outputs, strict=True)
        if not isinstance(result, str)
    )
