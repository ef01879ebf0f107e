"""Pictures in, pictures with boxes, names and scores out, by any SavedModel with the original's outputs."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unfreeze import config
from unfreeze.errors import OutputError, UnfreezeError
from unfreeze.images import JPEG_SUFFIXES, Detection, draw_detections, read_image, write_image
from unfreeze.model_paths import saved_model_folder
from unfreeze.prediction.class_names import Names, class_names, names_in_outputs
from unfreeze.prediction.detections import parse_detections
from unfreeze.prediction.model import answer, load_model
from unfreeze.prediction.remote import connect, is_address


@dataclass(frozen=True)
class Prediction:
    """What a model found in one picture."""

    image: Path
    width: int
    height: int
    detections: tuple[Detection, ...]
    drawn: Path | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "image": str(self.image),
            "width": self.width,
            "height": self.height,
            "detections": [detection.to_dict(self.width, self.height) for detection in self.detections],
            "drawn": str(self.drawn) if self.drawn else None,
        }

    def __str__(self) -> str:
        found = ", ".join(f"{detection.name} {detection.score:.0%}" for detection in self.detections) or "nothing"
        return f"{self.image}: {found}" + (f" -> {self.drawn}" if self.drawn else "")


def predict(
    saved_model: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    label_map: str | Path | None = None,
    output_directory: str | Path | None = None,
    min_score: float = 0.5,
    draw: bool = True,
    magnify: int = 1,
    overwrite: bool = False,
    on_progress: Callable[[str], None] | None = None,
    on_failure: Callable[[str, UnfreezeError], None] | None = None,
) -> list[Prediction]:
    """Run a SavedModel on each picture, and draw what scores at least `min_score`.

    Args:
        saved_model: the folder with saved_model.pb, or the export's folder above it; or the address of a server:
            http://HOST:8501/v1/models/NAME, grpc://HOST:8500/NAME, sagemaker://ENDPOINT.
        label_map: names of the classes; by default the label map in the SavedModel's assets/, else "class 17".
        output_directory: where NAME_detections.jpg or .png go; by default beside each picture.
        magnify: draw on a picture so many times larger; what is returned stays in the picture's own size.
        on_failure: told of a picture that failed, and the others go on; without it, the first failure is raised.

    Raises: SavedModelError, RemoteError, ConfigError for the label map; ImageError, OutputError without `on_failure`.
    """
    paths = [Path(image) for image in ([images] if isinstance(images, (str, Path)) else images)]
    say = on_progress or (lambda step: None)
    ask, names = asked(saved_model, Path(label_map) if label_map is not None else None, min_score, say)
    done = []
    for number, (path, target) in enumerate(zip(paths, drawn_paths(paths, output_directory), strict=True), start=1):
        say(f"picture {number} of {len(paths)}: {path}")
        try:
            if draw and target.exists() and not overwrite:
                raise OutputError(f"{target} exists already: give --overwrite, or another --output-directory")
            picture = read_image(path)
            outputs = ask(path, picture)
            found = tuple(parse_detections(outputs, picture, names or names_in_outputs(outputs), min_score))
            if draw:
                write_image(draw_detections(picture, found, magnify), target)
            done.append(Prediction(path, picture.width, picture.height, found, target if draw else None))
        except UnfreezeError as error:
            if on_failure is None:
                raise
            on_failure(str(path), error)
    return done


def asked(
    model: str | Path, label_map: Path | None, min_score: float, say: Callable[[str], None]
) -> tuple[Callable[[Path, Image.Image], dict[str, np.ndarray]], Names]:
    """How to ask a model, in a folder or behind an address, and the names of its classes as far as they are at hand."""
    if is_address(model):
        say(f"asking {model} what it takes")
        names: Names = config.read_label_map(label_map).display_names if label_map else {}
        return connect(str(model), min_score).ask, names
    folder = saved_model_folder(model)
    names = class_names(label_map, folder)
    say(f"loading {folder}")
    loaded = load_model(folder)
    return lambda path, picture: answer(loaded, picture), names


def drawn_paths(images: Sequence[Path], output_directory: str | Path | None) -> Iterator[Path]:
    """Where each picture's drawing goes; no two share a path, and none takes the path of a picture that is given."""
    taken = Counter(image.resolve() for image in images)
    for image in images:
        folder = image.parent if output_directory is None else Path(output_directory)
        suffix = image.suffix if image.suffix.lower() in JPEG_SUFFIXES else ".png"
        path, number = folder / f"{image.stem}_detections{suffix}", 1
        while path.resolve() in taken:
            number += 1
            path = folder / f"{image.stem}_detections_{number}{suffix}"
        taken[path.resolve()] += 1
        yield path
