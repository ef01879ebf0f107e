"""Many pictures: every one answered once, whatever stops the run, and told in every format."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from unfreeze import cli
from unfreeze.errors import ConfigError, ImageError, OutputError, SavedModelError
from unfreeze.images import find_sources, is_image_collection
from unfreeze.prediction import batches, predict_many, shards
from unfreeze.prediction.predict_many import predict_many as predict
from unfreeze.prediction.results import compressed

SIZES = [(32, 24), (24, 32), (40, 40)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose one box tells the picture's mean; of a picture one pixel high it fails."""
    folder = tmp_path_factory.mktemp("model")

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], "uint8", "input_tensor")], autograph=False)
    def answer(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        count = tf.shape(pictures)[0]
        with tf.control_dependencies([tf.debugging.assert_greater(tf.shape(pictures)[1], 1)]):
            means = tf.reduce_mean(tf.cast(pictures, tf.float32), axis=[1, 2, 3]) / 256.0
        zeros = tf.zeros_like(means)
        return {
            "detection_boxes": tf.stack([zeros, zeros, means, means], axis=-1)[:, tf.newaxis],
            "detection_scores": tf.fill([count, 1], 0.75),
            "detection_classes": tf.fill([count, 1], 3.0),
            "detection_masks": tf.ones([count, 1, 3, 3]),
        }

    tf.saved_model.save(tf.Module(), str(folder), signatures={"image_tensor": answer})
    return folder


def make_pictures(folder: Path, count: int) -> list[str]:
    names = [f"{number % 3}/{number:04d}.png" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZES[number % len(SIZES)], (number % 256,) * 3).save(folder / name)
    return sorted(names)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "pictures", 30)
    return tmp_path / "pictures"


def told(folder: Path, name: str = "predictions.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def number_of(record: dict) -> int:
    """Which picture was really seen."""
    return round(record["detections"][0]["box"][2] * 256)


def test_every_picture_is_answered_once_and_in_order(model: Path, pictures: Path, tmp_path: Path) -> None:
    done = predict(model, pictures, output_directory=tmp_path / "out", batch_size=4)
    assert (done.pictures, done.detections, done.failures, done.resumed) == (30, 30, 0, 0)
    records = told(tmp_path / "out")
    assert [record["image"] for record in records] == [source.name for source in find_sources([str(pictures)])]
    assert all(number_of(record) == int(Path(record["image"]).stem) for record in records)
    assert {(record["width"], record["height"]) for record in records} == set(SIZES)
    assert not (tmp_path / "out" / "failures.jsonl").exists()


def test_batches_have_one_size_and_wait_in_bounds() -> None:
    def item(width: int, place: int) -> batches.Item:
        source = batches.Source(str(place), str(place))
        return batches.Item(source, place, Image.new("RGB", (width, 1)))

    shard = shards.Shard(0, (batches.Source("a", "a"),))
    widths = [1, 2, 1, 3, 4, 5, 6, 6]
    items = [*(item(width, place) for place, width in enumerate(widths)), shard]
    given = list(batches.batches(items, 2))
    assert given[-1] is shard
    sizes = [[one.picture.width for one in batch if one.picture] for batch in given[:-1]]  # type: ignore[union-attr]
    assert sizes == [[1, 1], [2], [6, 6], [3], [4], [5]]
    taken = 0

    def endless() -> Iterator[batches.Future]:
        nonlocal taken
        while True:
            taken += 1
            yield batches.ready(taken)

    results = batches.ahead(endless(), 3)
    assert [next(results) for _ in range(100)] == list(range(1, 101))
    assert taken == 102


def test_unreadable_pictures_are_counted_and_the_others_told(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "0" / "0000.png").write_bytes(b"nothing")
    (pictures / "1" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    Image.new("RGB", (9, 1)).save(pictures / "2" / "flat.png")  # readable, but nothing for this model
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(model), str(pictures), "--output-directory", str(tmp_path / "out"), "--batch-size=4"])
    assert ended.value.code == 2
    out = capsys.readouterr().out
    assert "29 pictures, 29 detections, 3 failed" in out
    assert "0000.png is not an image" in out
    failures = told(tmp_path / "out", "failures.jsonl")
    assert [failure["image"] for failure in failures] == ["0/0000.png", "1/torn.jpg", "2/flat.png"]
    assert len({record["image"] for record in told(tmp_path / "out")}) == 29


def test_a_model_that_answers_nothing_is_told_at_once(model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 1)).save(tmp_path / "flat.png")
    with pytest.raises(SavedModelError, match="image_tensor failed"):
        predict(model, [tmp_path / "flat.png"], output_directory=tmp_path / "out")


def interrupted_at(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    """After so many parts, nothing more can be written."""
    written = 0

    def write_part(store: predict_many.Store, shard: predict_many.Shard, lines: list[bytes]) -> None:
        nonlocal written
        if written == parts:
            raise KeyboardInterrupt
        written += 1
        shards.write_part(store, shard, lines)

    monkeypatch.setattr(predict_many, "write_part", write_part)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_SIZE", 4)


@pytest.mark.usefixtures("small_shards")
def test_a_stopped_run_goes_on_with_what_is_missing(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(model, pictures, output_directory=tmp_path / "whole")
    with monkeypatch.context() as patched:
        interrupted_at(patched, 3)
        with pytest.raises(KeyboardInterrupt):
            predict(model, pictures, output_directory=tmp_path / "out")
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
    parts = sorted((tmp_path / "out" / "parts").iterdir())
    assert len(parts) == 3
    # Torn as by a machine that lost power: without its end, and in the middle of a line.
    parts[0].write_bytes(parts[0].read_bytes().rpartition(b'{"end"')[0])
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    kept = parts[2].stat().st_mtime_ns
    done = predict(model, pictures, output_directory=tmp_path / "out")
    assert (done.pictures, done.resumed) == (30, 4)
    assert parts[2].stat().st_mtime_ns == kept
    whole, resumed = (tmp_path / folder / "predictions.jsonl" for folder in ("whole", "out"))
    assert resumed.read_bytes() == whole.read_bytes()


@pytest.mark.usefixtures("small_shards")
def test_more_pictures_are_added_and_the_old_ones_kept(model: Path, pictures: Path, tmp_path: Path) -> None:
    predict(model, pictures, output_directory=tmp_path / "out")
    Image.new("RGB", (8, 8), (77,) * 3).save(pictures / "0" / "0000a.png")
    done = predict(model, pictures, output_directory=tmp_path / "out", formats=["jsonl", "coco"])
    assert (done.pictures, done.resumed) == (31, 30)
    records = told(tmp_path / "out")
    assert (records[-1]["image"], number_of(records[-1])) == ("0/0000a.png", 77)
    assert len({record["image"] for record in records}) == 31
    assert predict(model, pictures, output_directory=tmp_path / "out").resumed == 31


def test_other_settings_are_refused_unless_overwritten(model: Path, pictures: Path, tmp_path: Path) -> None:
    predict(model, pictures, output_directory=tmp_path / "out")
    with pytest.raises(OutputError, match=r"other settings \(min_score 0.5, not 0.9\)"):
        predict(model, pictures, output_directory=tmp_path / "out", min_score=0.9)
    assert predict(model, pictures, output_directory=tmp_path / "out", min_score=0.9, overwrite=True).detections == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "predictions.jsonl").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        predict(model, pictures, output_directory=tmp_path / "mine")


SLOWED = """
import sys
from unfreeze import cli
from unfreeze.prediction import shards
from unfreeze.prediction import predict_many
shards.SHARD_SIZE = 4
write, count = predict_many.write_part, 0
def write_part(*given):
    global count
    write(*given)
    count += 1
    print("part", flush=True)
    if count == int(sys.argv[1]):
        sys.stdin.read()  # until it is killed
predict_many.write_part = write_part
cli.main(sys.argv[2:])
"""


def test_kill_9_loses_and_repeats_nothing(model: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(model), str(pictures), "--output-directory", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWED, "3", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "part\n"
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.communicate()
    done = predict(model, pictures, output_directory=tmp_path / "out")
    assert (done.pictures, done.resumed) == (30, 12)
    records = told(tmp_path / "out")
    assert [number_of(record) for record in records] == [int(Path(record["image"]).stem) for record in records]
    assert len({record["image"] for record in records}) == 30


def test_parquet_says_the_same(model: Path, pictures: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    predict(model, pictures, output_directory=tmp_path / "out", formats=["jsonl", "parquet"])
    rows = parquet.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    records = told(tmp_path / "out")
    assert [row["image"] for row in rows] == [record["image"] for record in records]
    for row, record in zip(rows, records, strict=True):
        [found], [wanted] = row["detections"], record["detections"]
        assert found["box"] == pytest.approx(wanted["box"])
        assert (found["class_id"], found["name"], found["score"]) == (3, "class 3", 0.75)
        assert found["mask"] == wanted["mask"]


def test_coco_results_are_what_pycocotools_reads(model: Path, pictures: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    names = make_pictures(pictures, 30)
    images = [{"id": 100 + number, "file_name": name, "width": 1, "height": 1} for number, name in enumerate(names)]
    truth = {"info": {}, "images": images, "categories": [{"id": 3, "name": "x"}], "annotations": []}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    options = {"output_directory": tmp_path / "out", "formats": ["coco"]}
    predict(model, pictures, **options, annotations=tmp_path / "truth.json")
    loaded = coco.COCO(str(tmp_path / "truth.json")).loadRes(str(tmp_path / "out" / "coco_results.json"))
    assert sorted(loaded.getImgIds()) == [image["id"] for image in images]
    [annotation] = loaded.loadAnns(loaded.getAnnIds([110]))
    number = int(Path(names[10]).stem)
    width, height = SIZES[number % 3]
    assert annotation["bbox"] == pytest.approx([0, 0, width * number / 256, height * number / 256], abs=1e-3)
    assert annotation["segmentation"]["size"] == [height, width]

    predict(model, pictures, **options)
    numbered = json.loads((tmp_path / "out" / "coco_images.json").read_text())
    assert [(image["id"], image["file_name"]) for image in numbered] == list(enumerate(names, start=1))
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "images": images[1:]}))
    with pytest.raises(ConfigError, match=r"0/0000\.png is not among the images"):
        predict(model, pictures, **options, annotations=tmp_path / "truth.json")
    assert json.loads((tmp_path / "out" / "coco_images.json").read_text()) == numbered


@pytest.mark.parametrize("counts", [[0, 5, 95], [4], [3, 1000000, 2, 40, 5, 7], [10, 2, 3, 1, 900, 1, 3]])
def test_run_lengths_are_compressed_as_cocos(counts: list[int]) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    size = [1, sum(counts)]
    assert compressed(counts).encode() == mask.frPyObjects({"size": size, "counts": counts}, *size)["counts"]


def test_drawn_pictures_keep_their_names(model: Path, pictures: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(pictures / "0" / "x.bmp")
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(model), str(pictures), "--draw", "--output-directory", str(tmp_path / "out"), "-q"])
    assert ended.value.code == 0
    drawn = tmp_path / "out" / "drawn"
    names = {path.relative_to(drawn).as_posix() for path in drawn.rglob("*.png")}
    assert names == {*make_pictures(pictures, 30), "0/x.bmp.png"}
    assert Image.open(drawn / "0" / "0003.png").size == SIZES[0]
    assert np.asarray(Image.open(drawn / "0" / "0027.png")).std() > 0  # was of one colour
    assert (tmp_path / "out" / "predictions.jsonl").exists()


def test_a_video_is_told_frame_by_frame(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for number in range(12):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), (number * 20,) * 3))
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    monkeypatch.chdir(tmp_path)
    predict(model, "film.mp4", output_directory=tmp_path / "out", video_step=2, formats=["jsonl", "drawn"])
    records = told(tmp_path / "out")
    assert [record["frame"] for record in records] == [0, 2, 4, 6, 8, 10]
    assert [record["time_s"] for record in records] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert [number_of(record) for record in records] == pytest.approx([0, 40, 80, 120, 160, 200], abs=6)
    assert (tmp_path / "out" / "drawn" / "film.mp4" / "000010.jpg").exists()
    (tmp_path / "torn.mp4").write_bytes((tmp_path / "film.mp4").read_bytes()[:300])
    done = predict(model, tmp_path / "torn.mp4", output_directory=tmp_path / "torn")
    assert (done.pictures, done.failures) == (0, 1)


def test_pictures_and_results_in_a_store(model: Path, pictures: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.put(str(pictures), "/bucket/pictures", recursive=True)
    files.pipe("/bucket/pictures/torn.png", b"nothing")
    try:
        done = predict(model, "memory://bucket/pictures", output_directory="memory://bucket/out")
        assert (done.pictures, done.failures) == (30, 1)
        lines = files.cat("/bucket/out/predictions.jsonl").splitlines()
        predict(model, pictures, output_directory=tmp_path / "out")
        assert lines == (tmp_path / "out" / "predictions.jsonl").read_bytes().splitlines()
        [failure] = files.cat("/bucket/out/failures.jsonl").splitlines()
        assert json.loads(failure)["image"] == "torn.png"
        assert predict(model, "memory://bucket/pictures", output_directory="memory://bucket/out").resumed == 31
    finally:
        files.rm("/bucket", recursive=True)


def test_what_an_input_means(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [source.name for source in find_sources(["pictures"])]
    assert names == make_pictures(pictures, 30)
    assert [source.name for source in find_sources(["pictures/1/*.png"])] == [
        f"pictures/{name}" for name in names if name.startswith("1/")
    ]
    assert len(find_sources(["pictures/**/*.png"])) == 30
    (tmp_path / "list.txt").write_text("pictures/0/0000.png\n\npictures/1/0001.png\npictures/0/0000.png\n")
    assert [source.name for source in find_sources(["list.txt"])] == ["pictures/0/0000.png", "pictures/1/0001.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("pictures/2/0002.png\n"))
    assert [source.name for source in find_sources(["-", "pictures/0"])][:2] == [
        "pictures/2/0002.png",
        "pictures/0/0000.png",
    ]
    (pictures / "0" / ".hidden.png").write_bytes(b"")
    (pictures / "0" / "notes.md").write_text("")
    assert len(find_sources(["pictures", "pictures/0/0000.png"])) == 30
    assert len(find_sources(["pictures"], os.path.abspath("pictures/0"))) == 20
    with pytest.raises(ImageError, match=r"none/\*.png has no images"):
        find_sources(["none/*.png"])
    assert not is_image_collection("a.jpg")
    assert all(map(is_image_collection, ("pictures", "*.jpg", "-", "s3://b/a.jpg", "a.mp4", "l.txt")))


def test_formats_are_refused_by_name(model: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'csv' is not a format"):
        predict(model, pictures, output_directory=tmp_path / "out", formats=["csv"])
