"""`predict_many`: every image has one result, however often the run is stopped, in every format."""

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
from unfreeze.prediction.results import compress_run_lengths

SIZES = [(32, 24), (24, 32), (40, 40)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose one box encodes the mean of the image; it fails on an image one pixel high."""
    folder = tmp_path_factory.mktemp("model")

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], "uint8", "input_tensor")], autograph=False)
    def detect(images: tf.Tensor) -> dict[str, tf.Tensor]:
        count = tf.shape(images)[0]
        with tf.control_dependencies([tf.debugging.assert_greater(tf.shape(images)[1], 1)]):
            means = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2, 3]) / 256.0
        zeros = tf.zeros_like(means)
        return {
            "detection_boxes": tf.stack([zeros, zeros, means, means], axis=-1)[:, tf.newaxis],
            "detection_scores": tf.fill([count, 1], 0.75),
            "detection_classes": tf.fill([count, 1], 3.0),
            "detection_masks": tf.ones([count, 1, 3, 3]),
        }

    tf.saved_model.save(tf.Module(), str(folder), signatures={"image_tensor": detect})
    return folder


def make_images(folder: Path, count: int) -> list[str]:
    names = [f"{number % 3}/{number:04d}.png" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZES[number % len(SIZES)], (number % 256,) * 3).save(folder / name)
    return sorted(names)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    make_images(tmp_path / "images", 30)
    return tmp_path / "images"


def read_lines(folder: Path, name: str = "predictions.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def number_of(record: dict) -> int:
    """Returns which image the model really received."""
    return round(record["detections"][0]["box"][2] * 256)


def test_every_image_has_one_result_in_order(model: Path, images: Path, tmp_path: Path) -> None:
    done = predict(model, images, output_directory=tmp_path / "out", batch_size=4)
    assert (done.images, done.detections, done.failures, done.resumed) == (30, 30, 0, 0)
    records = read_lines(tmp_path / "out")
    assert [record["image"] for record in records] == [source.name for source in find_sources([str(images)])]
    assert all(number_of(record) == int(Path(record["image"]).stem) for record in records)
    assert {(record["width"], record["height"]) for record in records} == set(SIZES)
    assert not (tmp_path / "out" / "failures.jsonl").exists()


def test_batches_have_one_size_and_prefetching_is_bounded() -> None:
    def item(width: int, index: int) -> batches.Item:
        source = batches.Source(str(index), str(index))
        return batches.Item(source, index, Image.new("RGB", (width, 1)))

    shard = shards.Shard(0, (batches.Source("a", "a"),))
    widths = [1, 2, 1, 3, 4, 5, 6, 6]
    items = [*(item(width, index) for index, width in enumerate(widths)), shard]
    made = list(batches.batches(items, 2))
    assert made[-1] is shard
    sizes = [[item.image.width for item in batch if item.image] for batch in made[:-1]]  # type: ignore[union-attr]
    assert sizes == [[1, 1], [2], [6, 6], [3], [4], [5]]
    started = 0

    def endless() -> Iterator[batches.Future]:
        nonlocal started
        while True:
            started += 1
            yield batches.completed(started)

    results = batches.prefetch(endless(), 3)
    assert [next(results) for _ in range(100)] == list(range(1, 101))
    assert started == 102


def test_unreadable_images_are_reported_and_the_others_are_run(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "0" / "0000.png").write_bytes(b"nothing")
    (images / "1" / "incomplete.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    Image.new("RGB", (9, 1)).save(images / "2" / "flat.png")  # can be read, but the model fails on it
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(model), str(images), "--output-directory", str(tmp_path / "out"), "--batch-size=4"])
    assert ended.value.code == 2
    out = capsys.readouterr().out
    assert "29 images, 29 detections, 3 failed" in out
    assert "0000.png is not an image" in out
    failures = read_lines(tmp_path / "out", "failures.jsonl")
    assert [failure["image"] for failure in failures] == ["0/0000.png", "1/incomplete.jpg", "2/flat.png"]
    assert len({record["image"] for record in read_lines(tmp_path / "out")}) == 29


def test_model_that_fails_on_every_image_ends_the_run(model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 1)).save(tmp_path / "flat.png")
    with pytest.raises(SavedModelError, match="image_tensor failed"):
        predict(model, [tmp_path / "flat.png"], output_directory=tmp_path / "out")


def interrupt_after(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    """Raises KeyboardInterrupt once that many parts have been written."""
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
def test_stopped_run_resumes_with_the_missing_shards(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(model, images, output_directory=tmp_path / "complete")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 3)
        with pytest.raises(KeyboardInterrupt):
            predict(model, images, output_directory=tmp_path / "out")
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
    parts = sorted((tmp_path / "out" / "parts").iterdir())
    assert len(parts) == 3
    # Incomplete, as after a loss of power: without its last line, and in the middle of a line.
    parts[0].write_bytes(parts[0].read_bytes().rpartition(b'{"end"')[0])
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    kept = parts[2].stat().st_mtime_ns
    done = predict(model, images, output_directory=tmp_path / "out")
    assert (done.images, done.resumed) == (30, 4)
    assert parts[2].stat().st_mtime_ns == kept
    complete, resumed = (tmp_path / folder / "predictions.jsonl" for folder in ("complete", "out"))
    assert resumed.read_bytes() == complete.read_bytes()


@pytest.mark.usefixtures("small_shards")
def test_new_images_are_added_to_the_earlier_results(model: Path, images: Path, tmp_path: Path) -> None:
    predict(model, images, output_directory=tmp_path / "out")
    Image.new("RGB", (8, 8), (77,) * 3).save(images / "0" / "0000a.png")
    done = predict(model, images, output_directory=tmp_path / "out", formats=["jsonl", "coco"])
    assert (done.images, done.resumed) == (31, 30)
    records = read_lines(tmp_path / "out")
    assert (records[-1]["image"], number_of(records[-1])) == ("0/0000a.png", 77)
    assert len({record["image"] for record in records}) == 31
    assert predict(model, images, output_directory=tmp_path / "out").resumed == 31


def test_other_settings_are_rejected_without_overwrite(model: Path, images: Path, tmp_path: Path) -> None:
    predict(model, images, output_directory=tmp_path / "out")
    with pytest.raises(OutputError, match=r"other settings \(min_score 0.5, now 0.9\)"):
        predict(model, images, output_directory=tmp_path / "out", min_score=0.9)
    assert predict(model, images, output_directory=tmp_path / "out", min_score=0.9, overwrite=True).detections == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "predictions.jsonl").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        predict(model, images, output_directory=tmp_path / "mine")


SLOWED = """
import sys
from unfreeze import cli
from unfreeze.prediction import shards
from unfreeze.prediction import predict_many
shards.SHARD_SIZE = 4
write, count = predict_many.write_part, 0
def write_part(*arguments):
    global count
    write(*arguments)
    count += 1
    print("part", flush=True)
    if count == int(sys.argv[1]):
        sys.stdin.read()  # until it is killed
predict_many.write_part = write_part
cli.main(sys.argv[2:])
"""


def test_run_killed_by_sigkill_resumes(model: Path, images: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(model), str(images), "--output-directory", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWED, "3", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "part\n"
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.communicate()
    done = predict(model, images, output_directory=tmp_path / "out")
    assert (done.images, done.resumed) == (30, 12)
    records = read_lines(tmp_path / "out")
    assert [number_of(record) for record in records] == [int(Path(record["image"]).stem) for record in records]
    assert len({record["image"] for record in records}) == 30


def test_parquet_has_the_same_records_as_json_lines(model: Path, images: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    predict(model, images, output_directory=tmp_path / "out", formats=["jsonl", "parquet"])
    rows = parquet.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    records = read_lines(tmp_path / "out")
    assert [row["image"] for row in rows] == [record["image"] for record in records]
    for row, record in zip(rows, records, strict=True):
        [detection], [expected] = row["detections"], record["detections"]
        assert detection["box"] == pytest.approx(expected["box"])
        assert (detection["class_id"], detection["name"], detection["score"]) == (3, "class 3", 0.75)
        assert detection["mask"] == expected["mask"]


def test_coco_results_can_be_read_by_pycocotools(model: Path, images: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    names = make_images(images, 30)
    entries = [{"id": 100 + number, "file_name": name, "width": 1, "height": 1} for number, name in enumerate(names)]
    truth = {"info": {}, "images": entries, "categories": [{"id": 3, "name": "x"}], "annotations": []}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    options = {"output_directory": tmp_path / "out", "formats": ["coco"]}
    predict(model, images, **options, annotations=tmp_path / "truth.json")
    loaded = coco.COCO(str(tmp_path / "truth.json")).loadRes(str(tmp_path / "out" / "coco_results.json"))
    assert sorted(loaded.getImgIds()) == [entry["id"] for entry in entries]
    [annotation] = loaded.loadAnns(loaded.getAnnIds([110]))
    number = int(Path(names[10]).stem)
    width, height = SIZES[number % 3]
    assert annotation["bbox"] == pytest.approx([0, 0, width * number / 256, height * number / 256], abs=1e-3)
    assert annotation["segmentation"]["size"] == [height, width]

    predict(model, images, **options)
    numbered = json.loads((tmp_path / "out" / "coco_images.json").read_text())
    assert [(image["id"], image["file_name"]) for image in numbered["images"]] == list(enumerate(names, start=1))
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "images": entries[1:]}))
    with pytest.raises(ConfigError, match=r"0/0000\.png is not among the images"):
        predict(model, images, **options, annotations=tmp_path / "truth.json")
    assert json.loads((tmp_path / "out" / "coco_images.json").read_text()) == numbered


@pytest.mark.parametrize("counts", [[0, 5, 95], [4], [3, 1000000, 2, 40, 5, 7], [10, 2, 3, 1, 900, 1, 3]])
def test_run_lengths_are_compressed_as_pycocotools_does(counts: list[int]) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    size = [1, sum(counts)]
    assert compress_run_lengths(counts).encode() == mask.frPyObjects({"size": size, "counts": counts}, *size)["counts"]


def test_drawn_images_keep_their_names(model: Path, images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(images / "0" / "x.bmp")
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(model), str(images), "--draw", "--output-directory", str(tmp_path / "out"), "-q"])
    assert ended.value.code == 0
    drawn = tmp_path / "out" / "drawn"
    names = {path.relative_to(drawn).as_posix() for path in drawn.rglob("*.png")}
    assert names == {*make_images(images, 30), "0/x.bmp.png"}
    assert Image.open(drawn / "0" / "0003.png").size == SIZES[0]
    assert np.asarray(Image.open(drawn / "0" / "0027.png")).std() > 0  # it was of one color before
    assert (tmp_path / "out" / "predictions.jsonl").exists()


def test_video_has_a_record_for_each_frame(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    records = read_lines(tmp_path / "out")
    assert [record["frame"] for record in records] == [0, 2, 4, 6, 8, 10]
    assert [record["time_s"] for record in records] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert [number_of(record) for record in records] == pytest.approx([0, 40, 80, 120, 160, 200], abs=6)
    assert (tmp_path / "out" / "drawn" / "film.mp4" / "000010.jpg").exists()
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "film.mp4").read_bytes()[:300])
    done = predict(model, tmp_path / "cut.mp4", output_directory=tmp_path / "cut")
    assert (done.images, done.failures) == (0, 1)


def test_images_and_results_in_an_object_store(model: Path, images: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.put(str(images), "/bucket/images", recursive=True)
    files.pipe("/bucket/images/incomplete.png", b"nothing")
    try:
        done = predict(model, "memory://bucket/images", output_directory="memory://bucket/out")
        assert (done.images, done.failures) == (30, 1)
        lines = files.cat("/bucket/out/predictions.jsonl").splitlines()
        predict(model, images, output_directory=tmp_path / "out")
        assert lines == (tmp_path / "out" / "predictions.jsonl").read_bytes().splitlines()
        [failure] = files.cat("/bucket/out/failures.jsonl").splitlines()
        assert json.loads(failure)["image"] == "incomplete.png"
        assert predict(model, "memory://bucket/images", output_directory="memory://bucket/out").resumed == 31
    finally:
        files.rm("/bucket", recursive=True)


def test_folders_patterns_and_lists_are_expanded(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [source.name for source in find_sources(["images"])]
    assert names == make_images(images, 30)
    assert [source.name for source in find_sources(["images/1/*.png"])] == [
        f"images/{name}" for name in names if name.startswith("1/")
    ]
    assert len(find_sources(["images/**/*.png"])) == 30
    (tmp_path / "list.txt").write_text("images/0/0000.png\n\nimages/1/0001.png\nimages/0/0000.png\n")
    assert [source.name for source in find_sources(["list.txt"])] == ["images/0/0000.png", "images/1/0001.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("images/2/0002.png\n"))
    assert [source.name for source in find_sources(["-", "images/0"])][:2] == [
        "images/2/0002.png",
        "images/0/0000.png",
    ]
    (images / "0" / ".hidden.png").write_bytes(b"")
    (images / "0" / "notes.md").write_text("")
    assert len(find_sources(["images", "images/0/0000.png"])) == 30
    assert len(find_sources(["images"], os.path.abspath("images/0"))) == 20
    with pytest.raises(ImageError, match=r"none/\*.png has no images"):
        find_sources(["none/*.png"])
    assert not is_image_collection("a.jpg")
    assert all(map(is_image_collection, ("images", "*.jpg", "-", "s3://b/a.jpg", "a.mp4", "l.txt")))


def test_unknown_format_is_rejected(model: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'xml' is not a result format"):
        predict(model, images, output_directory=tmp_path / "out", formats=["xml"])
