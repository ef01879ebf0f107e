"""Runs a detector on images, and returns and draws its detections."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.callbacks import OnAdvance, OnMessage, ignore
from unfreeze.errors import OutputError, UnfreezeError
from unfreeze.images import (
    JPEG_SUFFIXES,
    Detection,
    Source,
    draw_detections,
    is_image_collection,
    read_image,
    require_image,
    write_image,
)
from unfreeze.prediction.addresses import is_address
from unfreeze.prediction.backends import open_backend, resolve_model
from unfreeze.prediction.predict_many import Engine, PredictionRun, predict_many
from unfreeze.prediction.results import ResultFormat
from unfreeze.prediction.tiles import Tiling, detect

OnFailure = Callable[[str, UnfreezeError], None]  # receives the path of an image and its error


@dataclass(frozen=True)
class Prediction:
    """The detections of one image, and where they were drawn."""

    image: Path
    width: int
    height: int
    detections: tuple[Detection, ...]
    drawn: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the prediction as JSON."""
        return {
            "image": str(self.image),
            "width": self.width,
            "height": self.height,
            "detections": [detection.to_dict(self.width, self.height) for detection in self.detections],
            "drawn": str(self.drawn) if self.drawn else None,
        }

    def __str__(self) -> str:
        names = ", ".join(f"{detection.name} {detection.score:.0%}" for detection in self.detections)
        return f"{self.image}: {names or 'no detections'}" + (f" -> {self.drawn}" if self.drawn else "")


class Predictions(list[Prediction]):
    """The predictions in the order of the images, and the images that failed, each with its error."""

    def __init__(
        self, predictions: Iterable[Prediction] = (), failures: Iterable[tuple[str, UnfreezeError]] = ()
    ) -> None:
        super().__init__(predictions)
        self.failures = list(failures)

    def to_dict(self) -> dict[str, Any]:
        """Returns the predictions as JSON."""
        return {
            "predictions": [prediction.to_dict() for prediction in self],
            "failures": [{"image": image, "error": str(error)} for image, error in self.failures],
        }

    def __str__(self) -> str:
        return "\n".join(map(str, self))


def predict(
    saved_model: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    label_map: str | Path | None = None,
    output_directory: str | Path | None = None,
    min_score: float = 0.5,
    draw: bool | None = None,
    magnify: int = 1,
    formats: ResultFormat | Sequence[ResultFormat] | None = None,
    annotations: str | Path | None = None,
    batch_size: int | None = None,
    video_step: int | None = None,
    tile_size: int | None = None,
    tile_overlap: float | None = None,
    engine: Engine | None = None,
    address: str | None = None,
    actors: int | None = None,
    cpus_per_actor: int | None = None,
    gpus_per_actor: float | None = None,
    overwrite: bool = False,
    on_progress: OnMessage | None = None,
    on_warning: OnMessage | None = None,
    on_advance: OnAdvance | None = None,
    on_failure: OnFailure | None = None,
) -> Predictions | PredictionRun:
    """Runs a detector on images, and draws the detections.

    Image files are run one by one, and their predictions are returned. Folders, patterns, lists, URLs and videos are
    run by `predict_many`, which writes result files; so are image files if one of its options is passed, from `formats`
    to `gpus_per_actor`.

    Args:
        saved_model: a SavedModel's folder or the export's folder above it, a frozen graph (.pb), or the address of a
            server: http://HOST:8501/v1/models/NAME, grpc://HOST:8500/NAME, sagemaker://ENDPOINT.
        label_map: names of the classes; by default the label map in the SavedModel's assets/, else "class 17".
        output_directory: a folder for NAME_detections.jpg or .png; by default the folder of each image. For
            `predict_many` a folder or a URL for the result files; by default predictions/.
        min_score: drop detections that score less.
        draw: write images with boxes, names and scores; by default for image files only.
        magnify: draw on an image this many times larger; what is returned stays in the image's own size.
        tile_size: run images that are larger than this in tiles of so many pixels, and as a whole.
        tile_overlap: the share of a tile that overlaps the next; by default 0.2.
        overwrite: replace drawings, or the results of an earlier run.
        on_failure: receives an image that failed, and the other images are still run; without it, the first error is
            raised. `predict_many` reports failures in its result instead.

    Raises: SavedModelError, RemoteError, ConfigError for the label map; ImageError, OutputError without `on_failure`.
    """
    paths = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    only_for_many = (
        formats, annotations, batch_size, video_step, engine, address, actors, cpus_per_actor, gpus_per_actor,
    )  # fmt: skip
    if any(option is not None for option in only_for_many) or any(map(is_image_collection, paths)):
        chosen: list[ResultFormat] = [formats] if isinstance(formats, str) else list(formats or ("jsonl",))
        return predict_many(
            saved_model,
            paths,
            output_directory=output_directory or "predictions",
            formats=[*chosen, "drawn"] if draw else chosen,
            label_map=label_map,
            annotations=annotations,
            min_score=min_score,
            magnify=magnify,
            batch_size=batch_size,
            video_step=video_step or 1,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            overwrite=overwrite,
            engine=engine or "threads",
            address=address,
            actors=actors,
            cpus_per_actor=cpus_per_actor,
            gpus_per_actor=gpus_per_actor or 0,
            on_progress=on_progress,
            on_warning=on_warning,
            on_advance=on_advance,
        )
    return predict_files(
        saved_model,
        [Path(path) for path in paths],
        label_map=label_map,
        output_directory=output_directory,
        min_score=min_score,
        draw=draw is not False,
        magnify=magnify,
        tile_size=tile_size,
        tile_overlap=tile_overlap,
        overwrite=overwrite,
        on_progress=on_progress,
        on_advance=on_advance,
        on_failure=on_failure,
    )


def predict_files(
    model: str | Path,
    paths: Sequence[Path],
    *,
    label_map: str | Path | None = None,
    output_directory: str | Path | None = None,
    min_score: float = 0.5,
    draw: bool = True,
    magnify: int = 1,
    tile_size: int | None = None,
    tile_overlap: float | None = None,
    overwrite: bool = False,
    on_progress: OnMessage | None = None,
    on_advance: OnAdvance | None = None,
    on_failure: OnFailure | None = None,
) -> Predictions:
    """Runs a detector on image files one by one; the arguments are those of `predict`.

    Images that do not exist or are no images are reported before the model is loaded, which takes seconds.
    """
    on_progress = on_progress or ignore
    tiling = Tiling.of(tile_size, tile_overlap)
    location, names = resolve_model(model, label_map)
    predictions = Predictions()

    @contextmanager
    def failures_of(path: Path) -> Iterator[None]:
        try:
            yield
        except UnfreezeError as error:
            if on_failure is None:
                raise
            predictions.failures.append((str(path), error))
            on_failure(str(path), error)

    readable: list[tuple[Path, Path]] = []
    for path, target in zip(paths, drawn_paths(paths, output_directory), strict=True):
        with failures_of(path):
            require_image(path)
            if draw and target.exists() and not overwrite:
                raise OutputError(f"{target} exists already. Pass --overwrite, or another --output-directory.")
            readable.append((path, target))
    if not readable:
        return predictions
    on_progress(f"{'connecting to' if is_address(location) else 'loading'} {location}")
    backend = open_backend(location, min_score)
    for number, (path, target) in enumerate(readable, start=1 + len(paths) - len(readable)):
        on_progress(f"image {number} of {len(paths)}: {path}")
        with failures_of(path):
            image = read_image(path)
            detections = detect(backend, Source(str(path), str(path)), image, names, min_score, tiling)
            if draw:
                write_image(draw_detections(image, detections, magnify), target)
            predictions.append(Prediction(path, image.width, image.height, detections, target if draw else None))
        if on_advance is not None:
            on_advance(number, len(paths))
    return predictions


def drawn_paths(images: Sequence[Path], output_directory: str | Path | None) -> Iterator[Path]:
    """Yields where each image's detections are drawn: no path twice, and no path of an input image."""
    used = Counter(image.resolve() for image in images)
    for image in images:
        folder = image.parent if output_directory is None else Path(output_directory)
        suffix = image.suffix if image.suffix.lower() in JPEG_SUFFIXES else ".png"
        path, number = folder / f"{image.stem}_detections{suffix}", 1
        while path.resolve() in used:
            number += 1
            path = folder / f"{image.stem}_detections_{number}{suffix}"
        used[path.resolve()] += 1
        yield path
