"""`unfreeze evaluate`: COCO's numbers of an export are those of the original, from COCO's JSON and from TFRecords."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from unfreeze import cli
from unfreeze.errors import ImageError, SavedModelError
from unfreeze.evaluation import coco
from unfreeze.evaluation.annotations import read_annotations
from unfreeze.evaluation.evaluate import Evaluation, evaluate
from unfreeze.exporting.export import export

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
SCENES = sorted((DIGITS / "scenes").glob("*.png"))
NAMES = {number + 1: str(number) for number in range(10)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "digits"
    return export(RUN, output_directory=folder, label_map=DIGITS / "label_map.pbtxt", verify=False).folder


RUN = DIGITS / "run"


def truth() -> dict[str, Any]:
    """The scenes with things a little beside what the original found, some of them missing, one of them a crowd."""
    rng = np.random.default_rng(5)
    answers = np.load(DIGITS / "answers.npz")
    images, things = [], []
    for number, path in enumerate(SCENES, start=10):
        width, height = Image.open(path).size
        images.append({"id": number, "width": width, "height": height, "file_name": path.name})
        key = path.stem.removeprefix("scene_")
        found = answers[f"{key}/detection_scores"].ravel() > 0.4
        boxes = answers[f"{key}/detection_boxes"].reshape(-1, 4)[found]
        for box, label in zip(boxes, answers[f"{key}/detection_classes"].ravel()[found], strict=True):
            if rng.random() < 0.2:
                continue
            ymin, xmin, ymax, xmax = (box + rng.normal(0, 0.01, 4)) * [height, width, height, width]
            bbox = [float(xmin), float(ymin), float(xmax - xmin), float(ymax - ymin)]
            thing = {"image_id": number, "category_id": int(label), "bbox": bbox, "area": bbox[2] * bbox[3]}
            things.append({"id": len(things) + 1, **thing, "iscrowd": int(not things)})
    categories = [{"id": number, "name": name} for number, name in NAMES.items()]
    return {"images": images, "annotations": things, "categories": categories}


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "val.json"
    path.write_text(json.dumps(truth()))
    return path


def as_records(path: Path, held: dict[str, Any]) -> Path:
    """The same as a training's tf.Examples."""

    def floats(values: list[float]) -> tf.train.Feature:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    def integers(values: list[int]) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def strings(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in held["images"]:
            things = [thing for thing in held["annotations"] if thing["image_id"] == image["id"]]
            left, top, width, height = ([thing["bbox"][i] for thing in things] for i in range(4))
            w, h = image["width"], image["height"]
            feature = {
                "image/encoded": strings((DIGITS / "scenes" / image["file_name"]).read_bytes()),
                "image/filename": strings(image["file_name"].encode()),
                "image/object/bbox/xmin": floats([x / w for x in left]),
                "image/object/bbox/ymin": floats([y / h for y in top]),
                "image/object/bbox/xmax": floats([(x + each) / w for x, each in zip(left, width, strict=True)]),
                "image/object/bbox/ymax": floats([(y + each) / h for y, each in zip(top, height, strict=True)]),
                "image/object/class/label": integers([thing["category_id"] for thing in things]),
                "image/object/is_crowd": integers([thing["iscrowd"] for thing in things]),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return path


def of_recorded_answers(annotations: Path) -> dict[str, float]:
    """What pycocotools says of the recorded answers of the original."""
    held = read_annotations(annotations, {}, images=DIGITS / "scenes")
    answers = np.load(DIGITS / "answers.npz")
    results = []
    for image in held.truth["images"]:
        key = Path(image["file_name"]).stem.removeprefix("scene_")
        answer = {
            name: np.squeeze(answers[f"{key}/{name}"])
            for name in ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
        }
        size = (image["height"], image["width"])
        results += [{**result, "image_id": image["id"]} for result in coco.results(answer, size, False)]
    return dict(coco.scorer()(held, results)["bbox"])


def bbox(found: Evaluation, side: int = 0) -> list[float]:
    return list(found.scores[side].metrics["bbox"].values())


def test_an_export_scores_as_the_original(exported: Path, annotations: Path) -> None:
    frozen = DIGITS / "frozen_inference_graph.pb"
    found = evaluate(exported, annotations, against=frozen, images=DIGITS / "scenes", batch_size=5)
    expected = of_recorded_answers(annotations)
    assert 0.3 < expected["AP"] < 0.95
    np.testing.assert_allclose(bbox(found, 0), list(expected.values()), atol=5e-4)
    np.testing.assert_allclose(bbox(found, 1), list(expected.values()), atol=5e-4)
    assert found.differing == ()
    assert found.pictures == len(SCENES)
    assert "no picture differs" in str(found)


def test_tfrecords_of_the_training_score_the_same(exported: Path, annotations: Path, tmp_path: Path) -> None:
    records = as_records(tmp_path / "val.record-00000-of-00001", truth())
    of_json = evaluate(exported, annotations, images=DIGITS / "scenes")
    of_records = evaluate(exported, tmp_path / "val.record-*")
    np.testing.assert_allclose(bbox(of_records), bbox(of_json), atol=5e-4)
    assert evaluate(exported, records, limit=3).pictures == 3


def test_another_model_differs_where_it_differs(exported: Path, annotations: Path, tmp_path: Path) -> None:
    older = export(RUN, step=5500, output_directory=tmp_path / "older", verify=False).folder
    found = evaluate(exported, annotations, against=older, images=DIGITS / "scenes")
    assert bbox(found, 0) != bbox(found, 1)
    assert found.differing[0][1] >= found.differing[-1][1] > 1e-3
    assert found.differing[0][0] in str(found)


def test_categories_are_matched_by_name(exported: Path, tmp_path: Path) -> None:
    held = truth()
    shifted = {
        **held,
        "categories": [{"id": each["id"] + 90, "name": each["name"]} for each in held["categories"]],
        "annotations": [{**each, "category_id": each["category_id"] + 90} for each in held["annotations"]],
    }
    for name, each in (("own.json", held), ("shifted.json", shifted)):
        (tmp_path / name).write_text(json.dumps(each))
    own, other = (
        evaluate(exported, tmp_path / name, images=DIGITS / "scenes") for name in ("own.json", "shifted.json")
    )
    assert bbox(own)[0] > 0.3
    np.testing.assert_equal(bbox(own), bbox(other))


def test_what_cannot_be_evaluated(exported: Path, annotations: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ImageError, match=r"no such picture, 12 of 12 are missing: give the folder of the pictures with --images"
    ):
        evaluate(exported, annotations)
    with pytest.raises(ImageError, match="neither COCO's JSON nor a whole TFRecord file"):
        evaluate(exported, DIGITS / "label_map.pbtxt")
    (tmp_path / "list.json").write_text('{"images": 3}')
    with pytest.raises(ImageError, match="not COCO's JSON of images, annotations and categories"):
        evaluate(exported, tmp_path / "list.json")
    with pytest.raises(ImageError, match=r"nowhere\.json: no such file"):
        evaluate(exported, tmp_path / "nowhere.json")
    with pytest.raises(SavedModelError, match="does not exist"):
        evaluate(tmp_path / "nowhere", annotations, images=DIGITS / "scenes")


def test_on_the_command_line(exported: Path, annotations: Path) -> None:
    arguments = ["evaluate", str(exported), str(annotations), "--images", str(DIGITS / "scenes")]
    told = CliRunner().invoke(cli.unfreeze, arguments)
    assert told.exit_code == 0, told.output
    assert "AP at IoU 0.5 " in told.output
    found = json.loads(CliRunner().invoke(cli.unfreeze, [*arguments, "--json"]).stdout)
    assert found["models"][0]["metrics"]["bbox"]["AP"] > 0.3
    assert found["models"][0]["metrics"]["bbox"]["AP large"] is None
