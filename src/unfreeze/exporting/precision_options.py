"""The options of an export about precision: what they are, and which of them go together. Needs no TensorFlow."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unfreeze.config import PipelineConfig, is_keras_model
from unfreeze.errors import ImageError, UnsupportedError
from unfreeze.formats import FULL, SAVED_MODEL, require_precision
from unfreeze.formats.precision import Precision

DEFAULT_COUNT = 200  # calibration images
IMAGE_FILE_STARTS = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM")


@dataclass(frozen=True)
class PrecisionOptions:
    """The precision of the files, the images for it, and what it may cost.

    `calibration_images` is a folder of images or TFRecord files. `annotations` are COCO's JSON or TFRecord files, and
    `images` the folder of the JSON's images. `edgetpu`: whether the file is for the Edge TPU.
    """

    precision: Precision = Precision.FLOAT
    calibration_images: Path | None = None
    calibration_count: int = DEFAULT_COUNT
    edgetpu: bool = False
    annotations: str | None = None
    images: Path | None = None
    max_map_loss: float | None = None


FLOAT = PrecisionOptions()


def precision_options(
    *,
    formats: Sequence[str],
    postprocessing: str,
    half: bool,
    int8: bool,
    int8_weights: bool,
    edgetpu: bool,
    calibration_images: str | Path | None,
    calibration_count: int | None,
    annotations: str | Path | None,
    images: str | Path | None,
    max_map_loss: float | None,
) -> PrecisionOptions:
    """Returns the options of an export as a record.

    Raises:
        UnsupportedError: options that do not go together, or that a format does not support. ImageError: no images are
        at the path. MissingExtraError: a package for int8 is not installed.
    """
    wanted = {Precision.HALF: half, Precision.INT8: int8, Precision.INT8_WEIGHTS: int8_weights}
    chosen = [precision for precision, is_wanted in wanted.items() if is_wanted]
    if len(chosen) > 1:
        raise UnsupportedError(
            f"{' and '.join(precision.option for precision in chosen)} exclude each other: a file has one precision; "
            "export twice"
        )
    precision = chosen[0] if chosen else Precision.FLOAT
    require_precision(formats, precision)
    if not int8:
        _reject_without("--int8", {"--calibration-images": calibration_images, "--edgetpu": edgetpu or None})
    if calibration_images is None:
        _reject_without("--calibration-images", {"--calibration-count": calibration_count})
    if calibration_count is not None and calibration_count < 1:
        raise UnsupportedError(f"--calibration-count {calibration_count}: must be 1 or more")
    if annotations is None:
        _reject_without("--annotations", {"--images": images, "--max-map-loss": max_map_loss})
    elif tuple(formats) == (SAVED_MODEL,):
        raise UnsupportedError(
            "--annotations measures files of other formats; remove it, and run unfreeze evaluate on the export"
        )
    elif postprocessing == "none":
        raise UnsupportedError("--annotations is not supported with --postprocessing none: there are no detections")
    if edgetpu and (tuple(formats) != ("tflite",) or postprocessing == FULL):
        raise UnsupportedError(
            "--edgetpu is for --format tflite with --postprocessing tflite_op or none (the loops of the full "
            "post-processing do not run on an Edge TPU); add them"
        )
    if calibration_images is not None:
        _require_images(Path(calibration_images))
    if annotations is not None:
        _require_annotations(annotations, images)
    return PrecisionOptions(
        precision,
        None if calibration_images is None else Path(calibration_images),
        DEFAULT_COUNT if calibration_count is None else calibration_count,
        edgetpu,
        None if annotations is None else str(annotations),
        None if images is None else Path(images),
        max_map_loss,
    )


def require_calibration(options: PrecisionOptions, formats: Sequence[str], config: PipelineConfig) -> None:
    """Raises UnsupportedError if int8 lacks the images that its ranges come from, or has ranges already."""
    if options.precision is not Precision.INT8:
        return
    if not is_quantization_aware(config):
        if options.calibration_images is None:
            raise UnsupportedError(
                "--int8 needs --calibration-images, a folder of images or a TFRecord file: the ranges of the network's "
                "values are measured on them"
            )
        return
    others = [name for name in formats if name != "tflite"]
    if others:
        raise UnsupportedError(
            f"--int8 is not supported with --format {others[0]} for a quantization-aware checkpoint (graph_rewriter in "
            "the config); use --format tflite"
        )
    if options.calibration_images is not None:
        raise UnsupportedError(
            "--calibration-images is not supported for a quantization-aware checkpoint (graph_rewriter in the config): "
            "it is exported with the ranges of its training; remove the option"
        )


def is_quantization_aware(config: PipelineConfig) -> bool:
    """Returns whether the graph of a config has the ranges of a quantization-aware training."""
    return config.HasField("graph_rewriter") and not is_keras_model(config)


def _reject_without(needed: str, options: Mapping[str, object]) -> None:
    """Raises UnsupportedError for the first option that is passed: without another one, it has no effect."""
    for option, value in options.items():
        if value is not None:
            raise UnsupportedError(f"{option} needs {needed}; add it, or remove {option}")


def _require_annotations(annotations: str | Path, images: str | Path | None) -> None:
    """Raises an error for annotations that are missing or, if they are JSON, cannot be read, without TensorFlow."""
    from unfreeze.evaluation.annotations import read_annotations  # imports Pillow, which few exports need

    if Path(annotations).suffix.lower() == ".json" or not glob.glob(str(annotations)):
        read_annotations(annotations, {}, images=images)


def _require_images(path: Path) -> None:
    """Raises ImageError unless a path is a folder of images, or a file that is not an image."""
    from unfreeze.images import find_sources, is_video

    if path.is_dir():
        if not any(not is_video(source.location) for source in find_sources([str(path)])):
            raise ImageError(f"{path}: has no images. Pass a folder of images or a TFRecord file.")
        return
    if not path.is_file():
        raise ImageError(f"{path}: no such file or folder. Pass a folder of images or a TFRecord file.")
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(IMAGE_FILE_STARTS) or not start:
        what = "is empty" if not start else "is one image"
        raise ImageError(f"{path}: {what}. Pass a folder of images or a TFRecord file.")
