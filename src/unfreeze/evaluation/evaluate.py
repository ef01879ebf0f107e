"""COCO's mean average precision of a model, alone or beside another: what was trained against what is served."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.config import LabelMap
from unfreeze.evaluation import coco
from unfreeze.evaluation.annotations import Annotations, read_annotations
from unfreeze.evaluation.asking import answers, asker, is_frozen_graph
from unfreeze.evaluation.coco import METRICS, Result
from unfreeze.formatting import aligned
from unfreeze.model_paths import saved_model_folder
from unfreeze.prediction.class_names import find_label_map

SHOWN = 10
SAME = 1e-3  # two models whose scores in a picture add up to no more of a difference do not differ

Say = Callable[[str], None]


@dataclass(frozen=True)
class Scores:
    """The metrics of one model by kind of match ("bbox", and "segm" where there are masks); NaN: nothing to measure."""

    model: str
    metrics: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model, or of two and the pictures on which they differ, most first."""

    annotations: str
    pictures: int
    things: int
    scores: tuple[Scores, ...]
    differing: tuple[tuple[str, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON can hold it; null for what cannot be measured."""
        return {
            "annotations": self.annotations,
            "pictures": self.pictures,
            "things": self.things,
            "models": [
                {
                    "model": each.model,
                    "metrics": {
                        kind: {name: None if np.isnan(value) else value for name, value in metrics.items()}
                        for kind, metrics in each.metrics.items()
                    },
                }
                for each in self.scores
            ],
            "differing": [{"picture": name, "score": score} for name, score in self.differing],
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.annotations}: {self.pictures:,} pictures, {self.things:,} things"
        for place, each in enumerate(self.scores, start=1):
            yield f"  {place}: {each.model}" if len(self.scores) > 1 else f"  {each.model}"
        for kind in self.scores[0].metrics:
            yield f"  {'boxes' if kind == 'bbox' else 'masks'}"
            rows = [(name, [each.metrics.get(kind, {}).get(name, np.nan) for each in self.scores]) for name in METRICS]
            yield from (f"  {line}" for line in aligned([(name, "  ".join(map(_told, row))) for name, row in rows]))
        if len(self.scores) > 1:
            shown = self.differing[:SHOWN]
            yield "  pictures that differ most" if shown else "  no picture differs"
            yield from (f"  {line}" for line in aligned([(name, f"{score:.2f}") for name, score in shown]))


def evaluate(
    model: str | Path,
    annotations: str | Path,
    *,
    against: str | Path | None = None,
    images: str | Path | None = None,
    label_map: str | Path | None = None,
    batch_size: int = 8,
    limit: int | None = None,
    on_progress: Say | None = None,
) -> Evaluation:
    """Run a model on annotated pictures, and count as COCO does (pycocotools).

    Pictures are decoded as the original's evaluation does, by TensorFlow and without a look at their EXIF.

    Args:
        model: a SavedModel folder or the export's folder above it, or a frozen graph (.pb).
        annotations: COCO's JSON, or the TFRecords of the training (a file or a pattern).
        against: another model, to be scored on the same pictures.
        images: the folder of the JSON's pictures; by default the JSON's own.
        label_map: class id -> name; by default the one in the SavedModel's assets/. Where its names are those of the
            annotations, they are matched by name, else by number.
        batch_size: how many pictures of one size go to the model at once.
        limit: evaluate only the first so many pictures.

    Raises: SavedModelError, ImageError, ConfigError for what is not what it should be.
    """
    say = on_progress or (lambda step: None)
    score = coco.scorer()
    paths = [Path(each) for each in (model, against) if each is not None]
    labels = _labels(paths[0], label_map)
    say(f"reading {annotations}")
    truth = read_annotations(annotations, labels.display_names if labels else {}, images=images, limit=limit)
    numbers = _category_numbers(labels, truth)
    found: list[list[Result]] = []
    scores = []
    for path in paths:
        say(f"loading {path}")
        found.append(list(_results(path, truth, numbers, batch_size, say)))
        say(f"scoring {path}")
        scores.append(Scores(str(path), score(truth, found[-1])))
    differing = _differing(truth, *found) if len(found) == 2 else ()
    pictures, things = len(truth.truth["images"]), len(truth.truth["annotations"])
    return Evaluation(truth.path, pictures, things, tuple(scores), tuple(differing))


def _labels(path: Path, label_map: str | Path | None) -> LabelMap | None:
    if label_map is None and is_frozen_graph(path):
        return None
    given = Path(label_map) if label_map is not None else None
    return find_label_map(given, path if given else saved_model_folder(path))


def _category_numbers(labels: LabelMap | None, truth: Annotations) -> Mapping[int, int]:
    """Class id of the model -> category of the annotations; empty where names do not tell, and numbers are to."""
    categories = {each["name"]: each["id"] for each in truth.truth["categories"]}
    for names in (labels.names, labels.display_names) if labels else ():
        if set(categories) <= set(names.values()):
            return {number: categories[name] for number, name in names.items() if name in categories}
    return {}


def _results(path: Path, truth: Annotations, numbers: Mapping[int, int], batch_size: int, say: Say) -> Iterator[Result]:
    """Every detection of a model that is of a category of the annotations."""
    known = {category["id"] for category in truth.truth["categories"]}
    model = path if is_frozen_graph(path) else saved_model_folder(path)
    asked = answers(asker(model), truth.examples(), batch_size)
    for done, (example, size, answer) in enumerate(asked, start=1):
        say(f"{path}: picture {done:,} of {len(truth.truth['images']):,}")
        for result in coco.results(answer, size, truth.has_masks):
            category = numbers.get(result["category_id"], -1) if numbers else result["category_id"]
            if category in known:
                yield {**result, "image_id": example.number, "category_id": category}


def _differing(truth: Annotations, ours: list[Result], theirs: list[Result]) -> list[tuple[str, float]]:
    """The pictures on which two models differ, most first."""
    found: dict[int, tuple[list[Result], list[Result]]] = {each["id"]: ([], []) for each in truth.truth["images"]}
    for side, results in enumerate((ours, theirs)):
        for result in results:
            found[result["image_id"]][side].append(result)
    scored = [(str(each["file_name"]), coco.distance(*found[each["id"]])) for each in truth.truth["images"]]
    return sorted([each for each in scored if each[1] > SAME], key=lambda each: -each[1])


def _told(value: float) -> str:
    return "    -" if np.isnan(value) else f"{value:.3f}"
