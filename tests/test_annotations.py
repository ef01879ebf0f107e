"""Annotations are read in four formats; other formats, missing images and unknown classes are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unfreeze.config import LabelMap, read_label_map
from unfreeze.errors import ConfigError, ImageError
from unfreeze.evaluation.annotations import Annotations, ClassKey, read_annotations
from unfreeze.evaluation.class_matching import match_classes
from unfreeze.evaluation.metric_sets import MetricSet
from unfreeze.evaluation.tables import truth_of

VOC = """<annotation><filename>{name}.png</filename><size><width>1</width><height>1</height></size>
<object><name>dog</name><difficult>1</difficult><bndbox><xmin>2</xmin><ymin>4</ymin><xmax>12</xmax><ymax>9</ymax></bndbox></object>
<object><name>cat</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>5</xmax><ymax>5.5</ymax></bndbox></object></annotation>"""
BOXES = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
a,xclick,/m/dog,1,0.1,0.6,0.2,0.4,0,0,1,0,0
b,xclick,/m/cat,1,0,1,0,0.5,0,0,0,0,0
"""
LABELS = "ImageID,Source,LabelName,Confidence\na,verification,/m/dog,1\na,verification,/m/animal,0\n"
NAMES = "/m/dog,Dog\n/m/cat,Cat\n"
HIERARCHY = {
    "LabelName": "/m/entity",
    "Subcategory": [{"LabelName": "/m/animal", "Subcategory": [{"LabelName": "/m/dog"}, {"LabelName": "/m/cat"}]}],
}
COCO: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 5, "file_name": "b.png"}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 1}],
    "categories": [{"id": 2, "name": "dog"}],
}


def write_image(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (20, 10)).save(path)


def label_map(folder: Path, *names: str) -> LabelMap:
    items = "".join(f"item {{ id: {number} name: '{name}' }}\n" for number, name in enumerate(names, start=1))
    (folder / "labels.pbtxt").write_text(items)
    return read_label_map(folder / "labels.pbtxt")


def objects(annotations: Annotations) -> list[tuple[str, str, list[float]]]:
    """Returns image, class and box of each object."""
    dataset = annotations.dataset
    images = {image["id"]: image["file_name"] for image in dataset["images"]}
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    return [
        (images[entry["image_id"]], names[entry["category_id"]], [round(edge, 6) for edge in entry["bbox"]])
        for entry in dataset["annotations"]
    ]


def test_pascal_voc_folder_is_read_with_the_images_beside_it(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    for name in ("one", "two"):
        write_image(tmp_path / "JPEGImages" / f"{name}.png")
        (tmp_path / "Annotations" / f"{name}.xml").write_text(VOC.format(name=name))
    for path in (tmp_path, tmp_path / "Annotations", tmp_path / "Annotations" / "*.xml"):
        annotations = read_annotations(path, {})
        assert objects(annotations)[:2] == [("one.png", "dog", [2, 4, 10, 5]), ("one.png", "cat", [0, 0, 5, 5.5])]
        assert [entry["difficult"] for entry in annotations.dataset["annotations"]] == [1, 0, 1, 0]
        assert annotations.dataset["images"][0] == {"id": 1, "width": 20, "height": 10, "file_name": "one.png"}
        assert annotations.metrics is MetricSet.PASCAL_VOC
        assert [example.read()[:4] for example in annotations.examples()] == [b"\x89PNG"] * 2
    assert len(read_annotations(tmp_path, {}, limit=1).dataset["images"]) == 1


@pytest.fixture
def open_images(tmp_path: Path) -> Path:
    for name in "ab":
        write_image(tmp_path / "images" / f"{name}.png")
    (tmp_path / "boxes.csv").write_text(BOXES)
    return tmp_path


def test_open_images_csv_is_read(open_images: Path) -> None:
    annotations = read_annotations(open_images / "boxes.csv", {}, images=open_images / "images")
    assert objects(annotations) == [("a.png", "/m/dog", [2, 2, 10, 2]), ("b.png", "/m/cat", [0, 0, 20, 5])]
    assert [entry["group_of"] for entry in annotations.dataset["annotations"]] == [1, 0]
    assert annotations.metrics is MetricSet.OPEN_IMAGES
    assert match_classes(label_map(open_images, "x", "/m/cat", "/m/dog"), annotations, strict=True).categories == {
        2: 1,
        3: 2,
    }


def test_open_images_folder_has_image_labels_class_names_and_hierarchy(open_images: Path) -> None:
    (open_images / "labels.csv").write_text(LABELS)
    (open_images / "class-descriptions.csv").write_text(NAMES)
    (open_images / "hierarchy.json").write_text(json.dumps(HIERARCHY))
    annotations = read_annotations(open_images, {}, images=open_images / "images")
    names = {category["id"]: category["name"] for category in annotations.dataset["categories"]}
    assert sorted((image, name) for image, name, _ in objects(annotations)) == [
        *(("a.png", "/m/animal"), ("a.png", "Dog")),
        *(("b.png", "/m/animal"), ("b.png", "Cat")),
    ]
    truth = truth_of(annotations, set(names), masks=False)
    verified = {(label // truth.classes, truth.class_names[label % truth.classes]) for label in truth.labels.tolist()}
    assert verified == {(0, "/m/animal"), (0, "Dog"), (0, "Cat")}
    # Neither dog nor cat can be where there is no animal: the labels below a negative label are verified too.
    assert {names[category] for category in annotations.image_labels[1]} == {"/m/animal", "Dog", "Cat"}
    assert annotations.metrics is MetricSet.OPEN_IMAGES_CHALLENGE


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.txt", "0 0.5 0.5 0.2 0.1\n1 0.5 0.5 0.2 0.1\n", "a YOLO label file"),
        ("data.yaml", "train: images/train\nnames: [cat]\n", "a YOLO data file"),
        ("a.json", '{"shapes": [], "imagePath": "a.png"}', "a LabelMe file"),
        ("a.json", '{"_via_img_metadata": {}}', "a file of the VGG Image Annotator"),
        ("a.json", '[{"image": "a.png", "annotations": []}]', "CreateML's JSON"),
        ("a.json", '[{"image_id": 1, "category_id": 1, "bbox": [], "score": 1}]', "a list of COCO's results"),
        ("a.json", '{"images": [], "annotations": []}', "COCO's JSON without categories"),
        (
            "a.json",
            '{"images": [], "annotations": [], "categories": []}',
            "incomplete COCO JSON (ValueError: no images)",
        ),
        ("a.json", '{"images": 3}', "JSON with images"),
        ("a.csv", "filename,width,height,class,xmin\n", "a CSV file whose first line is filename, width, height"),
        ("a.xml", "<html></html>", "a web page or XML"),
        ("a.pbtxt", "item { id: 1 name: 'a' }", "a label map"),
        ("a.png", "\x89PNG\r\n", "a PNG image"),
        ("a.zip", "PK\x03\x04", "a zip archive"),
        ("a.json", "", "an empty file"),
        ("notes", "see below", "text that begins with 'see below'"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, name: str, content: str, found: str) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ImageError) as error:
        read_annotations(tmp_path / name, {})
    message = str(error.value)
    assert message.startswith(f"{tmp_path / name}: no annotations ({found}")
    assert "was found; COCO's JSON, Pascal VOC's XML, Open Images' CSV or TFRecord files were expected)" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"images": [', "the JSON is incomplete or invalid"),
        ("a.xml", "<annotation><object>", "the XML is incomplete or invalid"),
        ("a.xml", VOC.replace("<ymax>9<", "<ymax>nine<"), "<ymax> is 'nine', which is not a number"),
        ("a.xml", VOC.replace("<name>cat</name>", ""), "an object has no <name>"),
        ("a.csv", BOXES.replace("0.6", "wide"), "the row of image a has a value that is not a number"),
        ("a.csv", LABELS, "no boxes in these files"),
    ],
)
def test_broken_annotations_are_reported(tmp_path: Path, name: str, content: str, message: str) -> None:
    for image in ("a.png", "b.png", "{name}.png"):
        write_image(tmp_path / image)
    (tmp_path / name).write_text(content)
    with pytest.raises(ImageError, match=message):
        read_annotations(tmp_path / name, {})


def test_empty_folders_and_missing_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no annotations in this folder"):
        read_annotations(tmp_path, {})
    with pytest.raises(ImageError, match=r"nowhere\.json: no such file"):
        read_annotations(tmp_path / "nowhere.json", {})
    for name in ("train.json", "val.json"):
        (tmp_path / name).write_text(json.dumps(COCO))
    with pytest.raises(ImageError, match=r"2 JSON files \(train\.json, val\.json; one was expected\)\. Pass one"):
        read_annotations(tmp_path, {})


@pytest.mark.parametrize(
    ("segmentation", "size", "has_masks"),
    [
        ([[1, 2, 3, 2, 3, 4]], {"width": 20, "height": 10}, True),
        ({"size": [10, 20], "counts": "0"}, {"width": 20, "height": 10}, True),
        ([[1, 2, 3, 2, 3, 4]], {}, False),
        ([[]], {"width": 20, "height": 10}, False),
        ([], {"width": 20, "height": 10}, False),
    ],
)
def test_masks_need_segmentations_that_can_be_decoded(segmentation: Any, size: dict[str, int], has_masks: bool) -> None:
    dataset = {"images": [{"id": 7, **size}], "annotations": [{"id": 1, "segmentation": segmentation}]}
    assert Annotations("a.json", dataset, lambda: iter(())).has_masks is has_masks


def test_missing_images_are_left_out_and_strict_stops_at_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(COCO))
    write_image(tmp_path / "a.png")
    annotations = read_annotations(tmp_path / "a.json", {})
    assert [image["file_name"] for image in annotations.dataset["images"]] == ["a.png"]
    [skipped] = annotations.skipped
    assert (skipped.name, skipped.reason) == ("b.png", f"{tmp_path / 'b.png'}: no such image")
    with pytest.raises(ImageError, match=r"b\.png: no such image \(1 of 2 are missing\)"):
        read_annotations(tmp_path / "a.json", {}, strict=True)


def test_unreadable_images_of_pascal_voc_are_left_out(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.xml").write_text(VOC.format(name=name))
        write_image(tmp_path / f"{name}.png")
    (tmp_path / "two.png").write_bytes(b"no image")
    annotations = read_annotations(tmp_path, {})
    assert len(annotations.dataset["annotations"]) == 2
    assert "two.png: not an image that can be decoded" in annotations.skipped[0].reason
    with pytest.raises(ImageError, match=r"two\.png: not an image"):
        read_annotations(tmp_path, {}, strict=True)


def coco_annotations(folder: Path, *names: str) -> Annotations:
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    objects = [{"id": 1, "image_id": 7, "category_id": number, "bbox": [0, 0, 1, 1]} for number in (1, 1, 2)]
    (folder / "a.json").write_text(json.dumps({**COCO, "annotations": objects, "categories": categories}))
    for name in "ab":
        write_image(folder / f"{name}.png")
    return read_annotations(folder / "a.json", {})


def test_classes_that_the_label_map_lacks_do_not_count(tmp_path: Path) -> None:
    annotations = coco_annotations(tmp_path, "fox", "dog", "unused")
    labels = label_map(tmp_path, "cat", "dog")
    matching = match_classes(labels, annotations, strict=False)
    assert matching.categories == {2: 2}
    [unknown] = matching.unknown
    assert (unknown.name, unknown.objects) == ("fox", 2)
    with pytest.raises(ConfigError, match=r"1 class of the annotations is not in the label map: fox \(2 objects\)"):
        match_classes(labels, annotations, strict=True)


def test_classes_without_a_common_name_are_matched_by_id(tmp_path: Path) -> None:
    annotations = coco_annotations(tmp_path, "fox", "wolf")
    assert match_classes(None, annotations, strict=True).categories == {1: 1, 2: 2}
    matching = match_classes(label_map(tmp_path, "cat"), annotations, strict=False)
    assert matching.categories == {1: 1}
    assert [item.name for item in matching.unknown] == ["wolf"]


def test_pascal_voc_needs_a_label_map(tmp_path: Path) -> None:
    (tmp_path / "one.xml").write_text(VOC.format(name="one"))
    write_image(tmp_path / "one.png")
    annotations = read_annotations(tmp_path, {})
    with pytest.raises(ConfigError, match=r"the classes \(cat, dog\) are matched by name, but there is no label map"):
        match_classes(None, annotations, strict=False)
    with pytest.raises(ConfigError, match="the label map has none of them"):
        match_classes(label_map(tmp_path, "fish"), annotations, strict=False)


def test_classes_of_tfrecords_are_matched_by_id(tmp_path: Path) -> None:
    """Their ids are those of the label map, even if two of its names are the same."""
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}, {"id": 9, "name": "class 9"}]
    objects = [{"id": number, "image_id": 7, "category_id": class_id} for number, class_id in enumerate((1, 2, 9))]
    dataset = {**COCO, "annotations": objects, "categories": categories}
    annotations = Annotations("a.record", dataset, lambda: iter(()), class_key=ClassKey.ID)
    matching = match_classes(label_map(tmp_path, "cat", "cat"), annotations, strict=False)
    assert matching.categories == {1: 1, 2: 2}
    assert [item.name for item in matching.unknown] == ["class 9"]
