"""`unfreeze evaluate`: an export has the COCO metrics of the frozen graph, with COCO's JSON and with TFRecords."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from unfreeze import cli
from unfreeze.errors import ConfigError, ImageError, SavedModelError
from unfreeze.evaluation.annotations import read_annotations
from unfreeze.evaluation.coco import coco_metrics
from unfreeze.evaluation.evaluate import evaluate
from unfreeze.evaluation.evaluation import Evaluation
from unfreeze.evaluation.tables import DetectionColumns, truth_of
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
    """Returns annotations near the recorded detections of the OD API; some are missing, and one is a crowd."""
    rng = np.random.default_rng(5)
    recorded = np.load(DIGITS / "answers.npz")
    images, objects = [], []
    for number, path in enumerate(SCENES, start=10):
        width, height = Image.open(path).size
        images.append({"id": number, "width": width, "height": height, "file_name": path.name})
        key = path.stem.removeprefix("scene_")
        is_found = recorded[f"{key}/detection_scores"].ravel() > 0.4
        boxes = recorded[f"{key}/detection_boxes"].reshape(-1, 4)[is_found]
        for box, label in zip(boxes, recorded[f"{key}/detection_classes"].ravel()[is_found], strict=True):
            if rng.random() < 0.2:
                continue
            ymin, xmin, ymax, xmax = (box + rng.normal(0, 0.01, 4)) * [height, width, height, width]
            bbox = [float(xmin), float(ymin), float(xmax - xmin), float(ymax - ymin)]
            annotation = {"image_id": number, "category_id": int(label), "bbox": bbox, "area": bbox[2] * bbox[3]}
            objects.append({"id": len(objects) + 1, **annotation, "iscrowd": int(not objects)})
    categories = [{"id": number, "name": name} for number, name in NAMES.items()]
    return {"images": images, "annotations": objects, "categories": categories}


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "val.json"
    path.write_text(json.dumps(truth()))
    return path


def write_tfrecords(path: Path, dataset: dict[str, Any]) -> Path:
    """Writes annotations as the tf.Examples of a training."""

    def floats(values: list[float]) -> tf.train.Feature:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    def integers(values: list[int]) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def strings(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in dataset["images"]:
            objects = [entry for entry in dataset["annotations"] if entry["image_id"] == image["id"]]
            left, top, width, height = ([entry["bbox"][i] for entry in objects] for i in range(4))
            w, h = image["width"], image["height"]
            feature = {
                "image/encoded": strings((DIGITS / "scenes" / image["file_name"]).read_bytes()),
                "image/filename": strings(image["file_name"].encode()),
                "image/object/bbox/xmin": floats([x / w for x in left]),
                "image/object/bbox/ymin": floats([y / h for y in top]),
                "image/object/bbox/xmax": floats([(x + length) / w for x, length in zip(left, width, strict=True)]),
                "image/object/bbox/ymax": floats([(y + length) / h for y, length in zip(top, height, strict=True)]),
                "image/object/class/label": integers([entry["category_id"] for entry in objects]),
                "image/object/is_crowd": integers([entry["iscrowd"] for entry in objects]),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return path


def recorded_metrics(annotations: Path) -> dict[str, float]:
    """Returns the metrics of the recorded outputs of the OD API's frozen graph."""
    source = read_annotations(annotations, {}, images=DIGITS / "scenes")
    recorded = np.load(DIGITS / "answers.npz")
    columns = DetectionColumns({number: number - 1 for number in NAMES}, masks=False)
    for index, image in enumerate(source.dataset["images"]):
        key = Path(image["file_name"]).stem.removeprefix("scene_")
        outputs = {
            name: np.squeeze(recorded[f"{key}/{name}"])
            for name in ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
        }
        columns.add(index, (image["height"], image["width"]), outputs)
    truth = truth_of(source, set(NAMES), masks=False)
    return coco_metrics(columns.detections(), truth.objects, truth.classes).summary()


def bbox_metrics(evaluation: Evaluation, model: int = 0) -> list[float]:
    return list(evaluation.scores[model].metrics["bbox"].values())


def test_export_and_frozen_graph_have_the_recorded_metrics(exported: Path, annotations: Path) -> None:
    frozen = DIGITS / "frozen_inference_graph.pb"
    evaluation = evaluate(exported, annotations, against=frozen, images=DIGITS / "scenes", batch_size=5)
    expected = recorded_metrics(annotations)
    assert 0.3 < expected["AP"] < 0.95
    np.testing.assert_allclose(bbox_metrics(evaluation, 0), list(expected.values()), atol=5e-4)
    np.testing.assert_allclose(bbox_metrics(evaluation, 1), list(expected.values()), atol=5e-4)
    assert evaluation.differing == ()
    assert evaluation.images == len(SCENES)
    assert [scores.model for scores in evaluation.scores] == [str(exported), str(frozen)]
    assert "no image differs" in str(evaluation)


def test_tfrecords_have_the_metrics_of_json(exported: Path, annotations: Path, tmp_path: Path) -> None:
    records = write_tfrecords(tmp_path / "val.record-00000-of-00001", truth())
    of_json = evaluate(exported, annotations, images=DIGITS / "scenes")
    of_records = evaluate(exported, tmp_path / "val.record-*")
    np.testing.assert_allclose(bbox_metrics(of_records), bbox_metrics(of_json), atol=5e-4)
    assert evaluate(exported, records, limit=3).images == 3


def test_record_whose_objects_have_no_class_is_reported(tmp_path: Path) -> None:
    records = write_tfrecords(tmp_path / "val.record", truth())
    example = tf.train.Example.FromString(next(tf.data.TFRecordDataset(str(records)).as_numpy_iterator()))
    del example.features.feature["image/object/class/label"]
    with tf.io.TFRecordWriter(str(records)) as writer:
        writer.write(example.SerializeToString())
    with pytest.raises(ImageError, match=r"the record has 10 boxes \(image/object/bbox/…\) and 0 classes"):
        read_annotations(records, {})


def test_images_on_which_models_differ_are_listed(exported: Path, annotations: Path, tmp_path: Path) -> None:
    older = export(RUN, step=5500, output_directory=tmp_path / "older", verify=False).folder
    evaluation = evaluate(exported, annotations, against=older, images=DIGITS / "scenes")
    assert bbox_metrics(evaluation, 0) != bbox_metrics(evaluation, 1)
    assert evaluation.differing[0].difference >= evaluation.differing[-1].difference > 1e-3
    assert evaluation.differing[0].image in str(evaluation)
    assert evaluation.to_dict()["differing"][0]["image"] == evaluation.differing[0].image


def test_categories_are_matched_by_name(exported: Path, tmp_path: Path) -> None:
    own = truth()
    shifted = {
        **own,
        "categories": [{"id": category["id"] + 90, "name": category["name"]} for category in own["categories"]],
        "annotations": [{**entry, "category_id": entry["category_id"] + 90} for entry in own["annotations"]],
    }
    metrics = []
    for name, dataset in (("own.json", own), ("shifted.json", shifted)):
        (tmp_path / name).write_text(json.dumps(dataset))
        metrics.append(bbox_metrics(evaluate(exported, tmp_path / name, images=DIGITS / "scenes")))
    assert metrics[0][0] > 0.3
    np.testing.assert_equal(metrics[0], metrics[1])


def test_invalid_annotations_and_models_are_reported(exported: Path, annotations: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ImageError, match=r"no such image \(12 of 12 are missing\)\. Pass the folder of the images with --images"
    ):
        evaluate(exported, annotations)
    (tmp_path / "half.record").write_bytes(b"\x07\0\0\0\0\0\0\0 no record")
    with pytest.raises(ImageError, match=r"half\.record: not a complete TFRecord file"):
        evaluate(exported, tmp_path / "half.record")
    with pytest.raises(ConfigError, match=r"--metrics voc: not a set of metrics\. Choose from coco, pascal_voc"):
        evaluate(exported, annotations, metrics="voc")
    with pytest.raises(SavedModelError, match="does not exist"):
        evaluate(tmp_path / "nowhere", annotations, images=DIGITS / "scenes")


def test_command_prints_text_and_json(exported: Path, annotations: Path) -> None:
    arguments = ["evaluate", str(exported), str(annotations), "--images", str(DIGITS / "scenes")]
    result = CliRunner().invoke(cli.unfreeze, arguments)
    assert result.exit_code == 0, result.output
    assert "AP at IoU 0.5 " in result.output
    assert "threshold  precision  recall     F1" in result.output
    evaluation = json.loads(CliRunner().invoke(cli.unfreeze, [*arguments, "--json"]).stdout)
    assert evaluation["images"] == len(SCENES)
    assert evaluation["objects"] == len(truth()["annotations"])
    assert evaluation["models"][0]["metrics"]["bbox"]["AP"] > 0.3
    assert evaluation["models"][0]["metrics"]["bbox"]["AP large"] is None


def test_corrupt_and_missing_images_are_named_and_do_not_count(
    exported: Path, annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scenes"
    shutil.copytree(DIGITS / "scenes", folder)
    complete = SCENES[3].read_bytes()
    (folder / SCENES[3].name).write_bytes(complete[: len(complete) // 2])
    (folder / SCENES[5].name).unlink()
    arguments = ["evaluate", str(exported), str(annotations), "--images", str(folder), "--metrics", "pascal_voc"]
    output = ["--output-directory", str(tmp_path / "out"), "--report", str(tmp_path / "report.html")]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, *output, "--json"])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    evaluation = json.loads(printed.out)
    assert evaluation["images"] == len(SCENES) - 2
    assert [image["image"] for image in evaluation["skipped"]] == [SCENES[5].name, SCENES[3].name]
    assert list(evaluation["models"][0]["metrics"]["bbox"]) == ["AP at IoU 0.5"]
    [line] = [line for line in printed.err.splitlines() if "not evaluated" in line]
    assert line.startswith("warning: 2 images not evaluated: ")
    assert SCENES[3].name in line
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == evaluation
    assert (tmp_path / "out" / "report.html").read_text() == (tmp_path / "report.html").read_text()

    (folder / SCENES[5].name).write_bytes(SCENES[5].read_bytes())
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--strict"])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert f"error: {SCENES[3].name}: TensorFlow cannot decode the image" in printed.err
    assert printed.out == ""
