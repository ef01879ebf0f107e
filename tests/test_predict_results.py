"""The result files of a run: CSV, COCO results that pycocotools reads, and crops."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unfreeze.errors import ConfigError
from unfreeze.images import Detection, Source
from unfreeze.prediction.batches import Item, crops_of, json_line
from unfreeze.prediction.class_names import Names
from unfreeze.prediction.results import CocoIds, read_coco_ids, write_results
from unfreeze.prediction.shards import Shard, write_part
from unfreeze.prediction.store import open_store

NAMES = {1: "cat, black", 2: "dog"}


def record(image: str, *detections: Detection, **fields: Any) -> dict[str, Any]:
    found = [detection.to_dict(200, 100) for detection in detections]
    return {"image": image, **fields, "width": 200, "height": 100, "detections": found}


CAT = Detection(1, "cat, black", 0.75, (0.1, 0.2, 0.5, 0.6))
DOG = Detection(2, "dog", 0.5, (-0.1, 0.0, 1.0, 0.25))
RECORDS = [record("a/1.png", CAT, DOG), record("a/2.png"), record("film.mp4", DOG, frame=3, time_s=0.125)]


def write(folder: Path, formats: tuple[str, ...], names: Names = NAMES, ids: CocoIds | None = None) -> tuple[str, ...]:
    shard = Shard(0, tuple(Source(entry["image"], f"/{entry['image']}") for entry in RECORDS))
    store = open_store(folder)
    write_part(store, shard, [json_line(entry) for entry in RECORDS])
    return write_results(store, [shard], formats, names, ids).files


def test_csv_has_a_row_for_each_detection_with_its_box_in_pixels(tmp_path: Path) -> None:
    assert write(tmp_path, ("csv",)) == ("predictions.csv",)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "predictions.csv").read_text())))
    assert rows[0] == {
        "image": "a/1.png",
        "frame": "",
        "time_s": "",
        "width": "200",
        "height": "100",
        "class_id": "1",
        "name": "cat, black",
        "score": "0.75",
        "xmin": "40.0",
        "ymin": "10.0",
        "xmax": "120.0",
        "ymax": "50.0",
    }
    assert (rows[1]["ymin"], rows[2]["frame"], rows[2]["time_s"]) == ("0.0", "3", "0.125")
    assert len(rows) == 3


def test_coco_files_are_read_by_pycocotools_as_they_are(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    assert write(tmp_path, ("coco",)) == ("coco_results.json", "coco_images.json")
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = coco.COCO(tmp_path / "coco_images.json")
        results = dataset.loadRes(str(tmp_path / "coco_results.json"))
    assert dataset.loadCats([1, 2]) == [{"id": 1, "name": "cat, black"}, {"id": 2, "name": "dog"}]
    assert dataset.imgs[3] == {
        "id": 3,
        "file_name": "film.mp4",
        "frame": 3,
        "time_s": 0.125,
        "width": 200,
        "height": 100,
    }
    assert [annotation["bbox"] for annotation in results.imgToAnns[1]] == [[40, 10, 80, 40], [0, -10, 50, 110]]


def test_categories_of_annotations_are_matched_by_name(tmp_path: Path) -> None:
    truth = {
        "images": [{"id": 70 + number, "file_name": entry["image"]} for number, entry in enumerate(RECORDS)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "horse"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    ids = read_coco_ids(tmp_path / "truth.json", NAMES)
    assert ids.unknown_classes == ("cat, black",)
    assert write(tmp_path / "out", ("coco",), ids=ids) == ("coco_results.json",)
    results = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert [(result["image_id"], result["category_id"]) for result in results] == [(70, 18), (72, 18)]
    # Without a shared name, the ids are taken to be the same.
    assert read_coco_ids(tmp_path / "truth.json", {}).categories is None
    assert read_coco_ids(tmp_path / "truth.json", {1: "fish"}).categories is None
    (tmp_path / "truth.json").write_text("[]")
    with pytest.raises(ConfigError, match="cannot be read as COCO annotations"):
        read_coco_ids(tmp_path / "truth.json", {})


def test_crops_are_the_boxes_in_folders_of_their_classes() -> None:
    image = Image.new("RGB", (200, 100))
    image.paste((9, 9, 9), (40, 10, 120, 50))
    odd = Detection(4, "../x", 0.5, (0.0, 0.0, 0.0, 0.0))  # no path out of the folder; at least one pixel
    item = Item(Source("a/1.jpg", "/a/1.jpg"), 0, image)
    crops = dict(crops_of(item, image, (CAT, DOG, odd)))
    assert list(crops) == ["crops/cat_ black/a/1_000.jpg", "crops/dog/a/1_001.jpg", "crops/_x/a/1_002.jpg"]
    assert [crop.size for crop in crops.values()] == [(80, 40), (50, 100), (1, 1)]
    assert crops["crops/cat_ black/a/1_000.jpg"].getextrema() == ((9, 9),) * 3
