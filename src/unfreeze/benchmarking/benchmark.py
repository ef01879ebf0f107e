"""Measures models side by side, each in a process of its own."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from unfreeze.benchmarking.measurement import (
    Subject,
    compare_scores,
    compare_with_first,
    evaluate_subject,
    measure_batch,
)
from unfreeze.benchmarking.requests import EvaluateRequest
from unfreeze.benchmarking.results import Benchmark, ModelResult
from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import ConfigError, ImageError, SavedModelError
from unfreeze.evaluation.annotations import read_annotations
from unfreeze.formatting import amount
from unfreeze.images import find_sources, is_video, read_image
from unfreeze.prediction.class_names import find_label_map
from unfreeze.runtimes import ModelFile, find_model
from unfreeze.staging import require_writable_file
from unfreeze.verification.meta_graph import MetaGraph, read_meta_graph
from unfreeze.verification.sample_inputs import sample_inputs

MAX_IMAGES = 32  # of a folder: for the agreement, each is run once by each model


def benchmark(
    models: Sequence[str | Path],
    *,
    images: str | Path | None = None,
    annotations: str | Path | None = None,
    label_map: str | Path | None = None,
    batch: Sequence[int] = (1,),
    threads: int | None = None,
    seconds: float = 10.0,
    chart: str | Path | None = None,
    overwrite: bool = False,
    on_progress: OnMessage | None = None,
) -> Benchmark:
    """Compares models: size, loading, time per image, memory, agreement with the first model, and mAP.

    Each model runs in a process of its own, one for each batch size: in one process, models and batch sizes distort
    each other's times (benchmarks/compare.py has the reasons). The processes are called in turn, in an order that
    changes each round, so that the noise of the machine hits all models equally.

    Args:
        models: files or folders of models; the first one that runs is what the others are compared with.
        images: the folder of the images to run, and of those that the annotations name. By default a generated image.
        annotations: COCO's JSON or TFRecord files, for the mAP.
        label_map: class names for the annotations; by default the label map of the first model that has one.
        batch: batch sizes.
        threads: limits the threads of each model; None leaves the choice to each runtime.
        seconds: how long to measure each batch size, all models together; at least ten rounds are run.
        chart: the PNG to write.
        overwrite: replace the chart if it exists.

    Raises: SavedModelError, ImageError, ConfigError, OutputError, MissingExtraError for wrong arguments. A model that
        fails does not raise: its result says why.
    """
    on_progress = on_progress or ignore
    if not models or not batch or min(batch) < 1:
        raise ConfigError("benchmark needs at least one model and one batch size above 0. Pass them.")
    files = [_existing_model(path) for path in models]
    if chart is not None:
        _require_chart_path(Path(chart), overwrite)
    if annotations is not None:
        _require_annotations(annotations, images)
    find_label_map(None if label_map is None else Path(label_map), files[0].path)
    samples, description = _sample_images(files, images)
    subjects = [
        Subject(file, ModelResult(str(path), file.runtime.name, file.runtime.library, _size_bytes(file.path)))
        for path, file in zip(models, files, strict=True)
    ]
    batches = tuple(dict.fromkeys(batch))
    for size in batches:
        on_progress(f"batch {size}: loading the models")
        measure_batch(subjects, samples, size, threads, seconds, on_progress)
    compare_with_first(subjects)
    if annotations is not None:
        labels = _label_map(files) if label_map is None else os.path.abspath(label_map)
        folder = None if images is None else os.path.abspath(images)
        for subject in subjects:
            on_progress(f"evaluating {subject.result.model}")
            evaluate_subject(subject, EvaluateRequest(subject.file, os.path.abspath(annotations), folder, labels))
        compare_scores(subjects)
    done = Benchmark(description, batches, threads, tuple(subject.result for subject in subjects))
    if chart is not None:
        from unfreeze.benchmarking.chart import write_chart

        write_chart(done, Path(chart))
    return done


# Arguments


def _existing_model(path: str | Path) -> ModelFile:
    """Returns the model by an absolute path: the processes have another current folder.

    Raises: SavedModelError if there is no model.
    """
    file = find_model(path)
    if not file.path.exists():
        raise SavedModelError(f"{path} does not exist. Pass a model.")
    return ModelFile(file.path.absolute(), file.runtime)


def _require_chart_path(path: Path, overwrite: bool) -> None:
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--chart {path}: only PNG can be written. Pass a name that ends with .png.")
    require_writable_file(path, "--chart", overwrite=overwrite)


def _require_annotations(annotations: str | Path, images: str | Path | None) -> None:
    """Raises an error for annotations that are missing or, if they are JSON, cannot be read, without TensorFlow."""
    if Path(annotations).suffix.lower() == ".json" or not glob.glob(str(annotations)):
        read_annotations(annotations, {}, images=images)


def _sample_images(files: Sequence[ModelFile], images: str | Path | None) -> tuple[list[np.ndarray], str]:
    """Returns images `[H, W, 3]` uint8 to run, and what they are.

    Raises: ImageError if the folder has no images, or if one cannot be read.
    """
    if images is None:
        meta_graphs: list[MetaGraph] = []
        for file in files:
            if not file.runtime.suffix:
                with suppress(SavedModelError):  # its process reports it
                    meta_graphs.append(read_meta_graph(file.path))
        [generated] = sample_inputs(meta_graphs, [])
        height, width = generated.images.shape[1:3]
        return list(generated.images), f"a generated image of {width} x {height} and its mirror image"
    locations = [source.location for source in find_sources([str(images)]) if not is_video(source.location)]
    if not locations:
        raise ImageError(f"{images} has no images. Pass a folder of images.")
    pixels = [np.asarray(read_image(Path(location))) for location in locations[:MAX_IMAGES]]
    return pixels, f"{amount(len(pixels), 'image')} of {images}"


def _label_map(files: Sequence[ModelFile]) -> str | None:
    """Returns the label map of the first model that has one: all models must match classes in the same way."""
    return next((str(path) for file in files for path in sorted(file.path.glob("assets/*.pbtxt"))), None)


def _size_bytes(path: Path) -> int:
    """Returns the size of a model: of its folder, or of its file and the weights beside it."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    weights = [path.with_suffix(".bin"), path.with_name(f"{path.name}.data"), path.with_name(f"{path.name}_data")]
    return sum(file.stat().st_size for file in [path, *weights] if file.is_file())
