"""Pictures in, pictures with boxes, names and scores out, by any SavedModel with the original's outputs."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from unfreeze import config, pictures
from unfreeze.errors import ConfigError, OutputError, SavedModelError, UnfreezeError
from unfreeze.pictures import JPEG_SUFFIXES, WHOLE_PICTURE, Detection, encoded_as
from unfreeze.verbs.folders import saved_model_folder
from unfreeze.verbs.remote_models import connect, is_address

Names = Mapping[int, str]

# Signatures in the order in which they are preferred; a foreign SavedModel may have `serving_default` only.
SIGNATURES = ("image_tensor", "serving_default", "float_image_tensor", "encoded_image_string_tensor", "tf_example")
NEEDED_OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes")


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


@dataclass(frozen=True)
class Model:
    """A loaded SavedModel and how to ask it."""

    folder: Path
    signature: str
    call: Callable[..., dict[str, tf.Tensor]]
    input_name: str
    input_spec: tf.TensorSpec
    forms: tuple[str, ...]  # of a string input: what its strings may be
    loaded: Any  # owns the variables, which are gone with it


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

    Raises: SavedModelError, RemoteError, ConfigError for the label map; PictureError, OutputError without `on_failure`.
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
            picture = pictures.read_picture(path)
            outputs = ask(path, picture)
            found = tuple(detections(outputs, picture, names or carried_names(outputs), min_score))
            if draw:
                pictures.write_picture(pictures.draw(picture, found, magnify), target)
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


def carried_names(outputs: Mapping[str, np.ndarray]) -> Names:
    """The names that a server sends along with the classes; one without a name is left to its number."""
    names = outputs.get("detection_class_names", ())
    pairs = zip(outputs["detection_classes"], map(str, names), strict=False)
    return {round(float(class_id)): name for class_id, name in pairs if name}


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


def class_names(label_map: Path | None, folder: Path) -> Names:
    """Class id -> name for people, of the label map given or the one that was exported along."""
    labels = find_label_map(label_map, folder)
    return labels.display_names if labels else {}


def find_label_map(label_map: Path | None, folder: Path) -> config.LabelMap | None:
    """The label map given, or the one in the SavedModel's assets/."""
    if label_map is None:
        carried = sorted((folder / "assets").glob("*.pbtxt"))
        if len(carried) > 1:
            listed = ", ".join(path.name for path in carried)
            raise ConfigError(f"{folder / 'assets'} has several label maps ({listed}): choose one with --label-map")
        if not carried:
            return None
        label_map = carried[0]
    return config.read_label_map(label_map)


def load_model(folder: Path) -> Model:
    """Load a SavedModel and choose the signature to ask.

    Raises: SavedModelError when it cannot be loaded, or is not a detector that takes pictures.
    """
    try:
        loaded = tf.saved_model.load(os.fspath(folder))
    except Exception as error:  # the loader raises all kinds: OSError, ValueError, OpError, DecodeError …
        raise SavedModelError(f"{folder} cannot be loaded as a SavedModel: {one_line(error)}") from error
    signatures = dict(loaded.signatures)
    name = next((name for name in SIGNATURES if name in signatures), None)
    if name is None:
        raise SavedModelError(
            f"{folder} lacks a signature for pictures ({listed(SIGNATURES)}): it has {listed(signatures)}"
        )
    inputs = signatures[name].structured_input_signature[1]
    outputs = signatures[name].structured_outputs
    missing = [output for output in NEEDED_OUTPUTS if output not in outputs]
    if missing:
        raise SavedModelError(f"{folder} is not a detector: {name} lacks {listed(missing)}, it has {listed(outputs)}")
    if len(inputs) != 1:
        raise SavedModelError(f"{folder}: {name} must take one input, a picture; it takes {listed(inputs)}")
    [(input_name, spec)] = inputs.items()
    forms = string_forms(name, signatures[name].inputs[0].name) if spec.dtype == tf.string else ()
    if not forms and (spec.shape.rank != 4 or spec.shape[3] not in (3, None)):
        raise SavedModelError(f"{folder}: {name} takes {spec.shape}, not pictures [N, H, W, 3]")
    return Model(folder, name, signatures[name], input_name, spec, forms, loaded)


def string_forms(signature: str, tensor: str) -> tuple[str, ...]:
    """What a string input may be: its signature or its tensor says so, or else both are tried in turn."""
    both = (
        "tf_example",
        "encoded_image_string_tensor",
    )  # a decoder refuses an Example in plainer words than the reverse
    return tuple(form for form in both if form == signature or tensor.startswith(form)) or both


def answer(model: Model, picture: Image.Image) -> dict[str, np.ndarray]:
    """Every output of the model for one picture, without the batch dimension.

    Raises: SavedModelError when the model cannot be run on it.
    """
    return answers(model, [picture])[0]


def answers(model: Model, batch: Sequence[Image.Image]) -> list[dict[str, np.ndarray]]:
    """Every output of the model for each of some pictures of one size, asked for together where the model allows it.

    Raises: SavedModelError when the model cannot be run on them.
    """
    shape = model.input_spec.shape
    fixed = shape[0] if shape.rank else 1
    if fixed and len(batch) > fixed:
        parts = [batch[start : start + fixed] for start in range(0, len(batch), fixed)]
        return [outputs for part in parts for outputs in answers(model, part)]
    for last, feed in enumerate(feeds(model, batch, fixed or len(batch)), start=1):
        try:
            outputs = {name: value.numpy() for name, value in model.call(**{model.input_name: feed}).items()}
            return [{name: value[place] for name, value in outputs.items()} for place in range(len(batch))]
        except tf.errors.OpError as error:
            if last >= len(model.forms):
                raise SavedModelError(f"{model.folder}: {model.signature} failed: {one_line(error)}") from error
    raise AssertionError("there is always one feed")


def feeds(model: Model, batch: Sequence[Image.Image], rows: int) -> Iterator[tf.Tensor]:
    """Pictures as the model takes them: -> [rows, H, W, 3] uint8 or float in 0 to 255, or [rows] string.

    Where there are more rows than pictures, pictures are repeated.
    """
    if model.forms:
        pngs = [encoded_as(picture, ".png") for picture in batch]
        for form in model.forms:
            strings = [tf_example(png) for png in pngs] if form == "tf_example" else pngs
            yield tf.constant([strings[row % len(strings)] for row in range(rows)])
        return
    _, height, width, _ = model.input_spec.shape
    sizes = [(width or picture.width, height or picture.height) for picture in batch]
    pixels = np.stack([np.asarray(fitted(picture, size)) for picture, size in zip(batch, sizes, strict=True)])
    pixels = pixels if len(pixels) == rows else np.resize(pixels, (rows, *pixels.shape[1:]))
    yield tf.constant(pixels.astype(model.input_spec.dtype.as_numpy_dtype, copy=False))


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)


def tf_example(encoded: bytes) -> bytes:
    """A serialized tf.train.Example with the one feature that a detector reads when it answers."""
    bytes_list = tf.train.BytesList(value=[encoded])
    features = tf.train.Features(feature={"image/encoded": tf.train.Feature(bytes_list=bytes_list)})
    return tf.train.Example(features=features).SerializeToString()


def detections(
    outputs: Mapping[str, np.ndarray], picture: Image.Image, names: Names, min_score: float
) -> Iterator[Detection]:
    """What the outputs of one picture say, best first as the model gives it, without what scores less."""
    count = int(outputs["num_detections"]) if "num_detections" in outputs else len(outputs["detection_scores"])
    scores, boxes = outputs["detection_scores"][:count], outputs["detection_boxes"][:count]
    numbers = np.isfinite(scores) & np.isfinite(boxes).all(axis=-1)
    for index in np.flatnonzero(~(scores < min_score)).tolist():
        score = scores[index]
        if not numbers[index]:
            raise SavedModelError(f"detection {index} has a box or a score that is not a number: {score}")
        class_id = round(float(outputs["detection_classes"][index]))
        ymin, xmin, ymax, xmax = map(shortest, boxes[index])
        box = (ymin, xmin, ymax, xmax)
        mask = outputs["detection_masks"][index] if "detection_masks" in outputs else None
        # Most models answer with a mask over the box, some with one of the whole picture.
        over_picture = mask is not None and mask.shape == (picture.height, picture.width)
        yield Detection(
            class_id=class_id,
            name=names.get(class_id, f"class {class_id}"),
            score=shortest(score),
            box=box,
            mask=mask,
            mask_box=WHOLE_PICTURE if over_picture else box,
            keypoints=keypoints(outputs, index),
        )


def keypoints(outputs: Mapping[str, np.ndarray], index: int) -> tuple[tuple[float, float, float], ...]:
    """(y, x, score) of each keypoint; a model that does not score them means them all."""
    if "detection_keypoints" not in outputs:
        return ()
    points = outputs["detection_keypoints"][index]
    scores = outputs.get("detection_keypoint_scores", np.ones(outputs["detection_keypoints"].shape[:2]))[index]
    return tuple((shortest(y), shortest(x), shortest(score)) for (y, x), score in zip(points, scores, strict=True))


def shortest(number: np.floating) -> float:
    """The shortest decimal that gives the same float32 back, so that JSON says 0.9 and not 0.8999999761581421."""
    return float(str(np.float32(number)))


def one_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"
