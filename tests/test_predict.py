"""`predict` with a SavedModel that detects red and blue blocks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw

from unfreeze import cli, export
from unfreeze.errors import ConfigError, ImageError, OutputError, SavedModelError, UnfreezeError, UnsupportedError
from unfreeze.images import WHOLE_IMAGE, Detection, draw_detections, read_image
from unfreeze.images.detections import run_lengths
from unfreeze.prediction.predict import PredictionRun, drawn_paths, predict

DIGITS = Path(__file__).parents[1] / "examples" / "digits"

WIDTH, HEIGHT = 320, 240
RED_BLOCK = (40, 60, 120, 140)  # left, top, right, bottom in pixels
BLUE_BLOCK = (200, 100, 300, 220)
LABEL_MAP = "item { id: 1 name: 'red' display_name: 'rouge' }\nitem { id: 2 name: 'blue' }\n"


def detect_blocks(images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the boxes of what is red (class 1) and blue (class 2), for images [N, H, W, 3] in 0 to 255."""
    bright = tf.cast(images, tf.float32) > 180.0
    red = bright[..., 0] & ~bright[..., 1] & ~bright[..., 2]
    blue = bright[..., 2] & ~bright[..., 1] & ~bright[..., 0]
    here = tf.cast(tf.stack([red, blue], axis=1), tf.float32)  # [N, 2, H, W]
    low_y, high_y = extent(tf.reduce_max(here, axis=3))
    low_x, high_x = extent(tf.reduce_max(here, axis=2))
    boxes = tf.stack([low_y, low_x, high_y, high_x], axis=-1)
    there = tf.reduce_max(here, axis=[2, 3])
    count = tf.shape(images)[0]
    return {
        "detection_boxes": boxes,
        "detection_scores": there * tf.constant([[0.9, 0.75]]),
        "detection_classes": tf.tile(tf.constant([[1.0, 2.0]]), [count, 1]),
        "num_detections": tf.fill([count], 2.0),
        "detection_keypoints": tf.stack([boxes[..., :2], boxes[..., 2:]], axis=2),
        "detection_masks": tf.tile(tf.constant([[[[1.0, 1.0], [0.0, 0.0]]]]), [count, 2, 1, 1]),
    }


def extent(line: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where the ones begin and end, in 0 to 1, for zeros and ones [N, 2, L]."""
    length = tf.cast(tf.shape(line)[-1], tf.float32)
    first = tf.cast(tf.argmax(line, axis=-1), tf.float32)
    last = length - tf.cast(tf.argmax(line[..., ::-1], axis=-1), tf.float32)
    return first / length, last / length


def decoded(strings: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(
        lambda encoded: tf.io.decode_image(encoded, 3, expand_animations=False), strings, fn_output_signature="uint8"
    )


def decoded_examples(strings: tf.Tensor) -> tf.Tensor:
    features = tf.io.parse_example(strings, {"image/encoded": tf.io.FixedLenFeature([], tf.string)})
    return decoded(features["image/encoded"])


def write_saved_model(
    folder: Path, signature: str, read: Callable, shape: list, dtype: str, name: str = "input_tensor"
) -> Path:
    """Writes a SavedModel with one signature, whose input `read` turns into images."""

    @tf.function(input_signature=[tf.TensorSpec(shape, dtype, name)], autograph=False)
    def detect(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return detect_blocks(read(images))

    tf.saved_model.save(tf.Module(), str(folder), signatures={signature: detect})
    return folder


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "saved_model"
    return write_saved_model(folder, "image_tensor", tf.identity, [None, None, None, 3], "uint8")


def scene() -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), (90, 110, 90))
    for block, color in ((RED_BLOCK, (250, 20, 20)), (BLUE_BLOCK, (20, 20, 250))):
        left, top, right, bottom = block
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=color)
    return image


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    scene().save(path)
    return path


def px(block: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = block
    return top, left, bottom, right


def test_boxes_are_where_the_blocks_are(finder: Path, image: Path) -> None:
    [prediction] = predict(finder, [image])
    red, blue = prediction.detections
    assert (red.class_id, red.name, red.score) == (1, "class 1", 0.9)
    assert (blue.class_id, blue.name, blue.score) == (2, "class 2", 0.75)
    assert red.box == pytest.approx((60 / 240, 40 / 320, 140 / 240, 120 / 320), abs=1e-6)
    assert red.box_px(WIDTH, HEIGHT) == pytest.approx(px(RED_BLOCK), abs=1e-3)
    assert blue.box_px(WIDTH, HEIGHT) == pytest.approx(px(BLUE_BLOCK), abs=1e-3)
    assert (prediction.width, prediction.height) == (WIDTH, HEIGHT)


def test_drawing_has_the_size_of_the_image_and_boxes(finder: Path, image: Path) -> None:
    [prediction] = predict(finder, image, output_directory=image.parent / "new" / "folder")
    assert prediction.drawn == image.parent / "new" / "folder" / "scene_detections.png"
    drawn, before = np.asarray(Image.open(prediction.drawn)), np.asarray(scene())
    assert drawn.shape == before.shape
    changed = (drawn != before).any(axis=-1)
    left, top, right, bottom = RED_BLOCK
    assert changed[top:bottom, left].all()
    assert changed[bottom - 1, left:right].all()
    assert not changed[170:, :190].any()  # there are no detections


def test_json_has_normalized_boxes_and_pixels(finder: Path, image: Path) -> None:
    [prediction] = predict(finder, [image], draw=False, min_score=0.8)
    record = json.loads(json.dumps(prediction.to_dict()))
    assert record["drawn"] is None
    [red] = record["detections"]
    assert red["box_px"] == [60.0, 40.0, 140.0, 120.0]
    assert red["box"] == [0.25, 0.125, 0.5833333, 0.375]
    assert red["keypoints"][1] == {"y": 0.5833333, "x": 0.375, "y_px": 140.0, "x_px": 120.0, "score": 1.0}
    assert red["mask"]["size"] == [HEIGHT, WIDTH]
    inside = sum(red["mask"]["counts"][1::2])
    assert inside == pytest.approx(80 * 80 / 2, rel=0.1)  # the upper half of the box
    assert sum(red["mask"]["counts"]) == WIDTH * HEIGHT


def test_export_folder_is_accepted(finder: Path, image: Path) -> None:
    assert len(predict(finder.parent, [image], draw=False)[0].detections) == 2


def test_exif_orientation_is_respected(finder: Path, tmp_path: Path) -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    path = tmp_path / "turned.jpg"
    scene().transpose(Image.Transpose.ROTATE_90).save(path, exif=orientation, quality=95)
    [prediction] = predict(finder, [path])
    assert (prediction.width, prediction.height) == (WIDTH, HEIGHT)
    assert prediction.detections[0].box_px(WIDTH, HEIGHT) == pytest.approx(px(RED_BLOCK), abs=3)
    assert prediction.drawn == tmp_path / "turned_detections.jpg"
    with Image.open(prediction.drawn) as drawn:
        assert drawn.size == (WIDTH, HEIGHT)
        assert drawn.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    ("signature", "read", "shape", "dtype", "name"),
    [
        ("serving_default", tf.identity, [None, None, None, 3], "uint8", "input_tensor"),
        ("serving_default", tf.identity, [1, 60, 80, 3], "uint8", "inputs"),
        ("serving_default", tf.identity, [4, None, None, 3], "float32", "input_tensor"),
        ("float_image_tensor", tf.identity, [None, None, None, 3], "float32", "inputs"),
        ("serving_default", decoded, [None], "string", "input_tensor"),
        ("serving_default", decoded_examples, [None], "string", "input_tensor"),
        ("serving_default", decoded_examples, [None], "string", "tf_example"),
        ("encoded_image_string_tensor", decoded, [None], "string", "inputs"),
    ],
)
def test_every_input_type_gets_the_image(
    tmp_path: Path, image: Path, signature: str, read: Callable, shape: list, dtype: str, name: str
) -> None:
    model = write_saved_model(tmp_path / "model", signature, read, shape, dtype, name)
    [prediction] = predict(model, [image], draw=False)
    red, blue = prediction.detections
    assert red.box_px(WIDTH, HEIGHT) == pytest.approx(px(RED_BLOCK), abs=5)
    assert blue.box_px(WIDTH, HEIGHT) == pytest.approx(px(BLUE_BLOCK), abs=5)


def test_names_come_from_the_label_map(finder: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "map.pbtxt").write_text(LABEL_MAP)
    [prediction] = predict(finder, [image], label_map=tmp_path / "map.pbtxt", draw=False)
    assert [detection.name for detection in prediction.detections] == ["rouge", "blue"]


def test_names_come_from_the_assets(image: Path, tmp_path: Path) -> None:
    model = write_saved_model(tmp_path / "model", "serving_default", tf.identity, [None, None, None, 3], "uint8")
    (model / "assets").mkdir(exist_ok=True)
    (model / "assets" / "digits.pbtxt").write_text(LABEL_MAP)
    [prediction] = predict(model, [image], draw=False)
    assert [detection.name for detection in prediction.detections] == ["rouge", "blue"]
    (model / "assets" / "more.pbtxt").write_text(LABEL_MAP)
    with pytest.raises(ConfigError, match=r"several label maps \(digits.pbtxt, more.pbtxt\)"):
        predict(model, [image])


def test_unreadable_image_does_not_stop_the_others(finder: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    cut = tmp_path / "cut.jpg"
    scene().save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    failures: list[tuple[str, UnfreezeError]] = []
    done = predict(
        finder,
        [tmp_path / "text.png", image, cut, tmp_path / "none.png"],
        on_failure=lambda path, error: failures.append((path, error)),
    )
    assert [prediction.image for prediction in done] == [image]
    assert done.failures == failures
    assert [type(error) for _, error in failures] == [ImageError] * 3
    messages = ["is not an image", "does not exist", "cannot be read"]  # the first two before the model is loaded
    for (path, error), message in zip(failures, messages, strict=True):
        assert str(error).startswith(path)
        assert message in str(error)
        assert "\n" not in str(error)
    with pytest.raises(ImageError, match=r"text.png is not an image"):
        predict(finder, [tmp_path / "text.png"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cut.jpg",
        "scene.png",
        "scene_detections.png",
        "text.png",
    ]


def test_command_reports_failures_and_exits_with_2(
    finder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(finder), str(tmp_path / "text.png"), str(image), "--json", "--min_score", "0.8"])
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {tmp_path / 'text.png'} is not an image")
    result = json.loads(output.out)
    assert [failure["image"] for failure in result["failures"]] == [str(tmp_path / "text.png")]
    [prediction] = result["predictions"]
    assert [detection["class_id"] for detection in prediction["detections"]] == [1]
    assert Path(prediction["drawn"]).is_file()
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(finder), str(image), "--no-draw"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{image}: class 1 90%, class 2 75%\n"


def test_drawing_is_not_overwritten_without_overwrite(finder: Path, image: Path) -> None:
    drawn = predict(finder, [image])[0].drawn
    assert drawn is not None
    drawn.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        predict(finder, [image])
    assert drawn.read_bytes() == b"precious"
    predict(finder, [image], overwrite=True)
    assert Image.open(drawn).size == (WIDTH, HEIGHT)


def test_output_directory_that_cannot_be_created_is_reported(finder: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        predict(finder, [image], output_directory=tmp_path / "file")


def test_drawings_have_different_paths() -> None:
    images = [Path("a/x.png"), Path("b/x.bmp"), Path("x.JPG"), Path("out/x_detections.png")]
    assert list(drawn_paths(images, "out")) == [
        Path("out/x_detections_2.png"),
        Path("out/x_detections_3.png"),
        Path("out/x_detections.JPG"),
        Path("out/x_detections_detections.png"),
    ]
    assert list(drawn_paths(images[:1], None)) == [Path("a/x_detections.png")]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "has no saved_model.pb"),
        (lambda folder: folder.write_text(""), "is a file"),
    ],
)
def test_missing_saved_model_is_reported(tmp_path: Path, image: Path, make: Callable, message: str) -> None:
    make(tmp_path / "model")
    with pytest.raises(SavedModelError, match=message):
        predict(tmp_path / "model", [image])


def test_incomplete_saved_model_and_other_models_are_reported(tmp_path: Path, image: Path) -> None:
    incomplete = tmp_path / "incomplete"
    incomplete.mkdir()
    (incomplete / "saved_model.pb").write_bytes(b"\x08\x01\xff\xff")
    with pytest.raises(SavedModelError, match="cannot be loaded"):
        predict(incomplete, [image])

    @tf.function(input_signature=[tf.TensorSpec([None], "float32", "x")], autograph=False)
    def double(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": 2.0 * x}

    tf.saved_model.save(tf.Module(), str(tmp_path / "other"), signatures=double)
    with pytest.raises(SavedModelError, match=r"signature serving_default takes \(None,\), not images"):
        predict(tmp_path / "other", [image])


def test_frozen_graph_has_the_detections_of_its_export(tmp_path: Path) -> None:
    export(DIGITS / "run", output_directory=tmp_path / "export", verify=False)
    images = sorted((DIGITS / "scenes").glob("*.png"))[:3]
    options: dict[str, Any] = {"draw": False, "label_map": DIGITS / "label_map.pbtxt"}
    frozen, exported = (
        predict(model, images, **options) for model in (DIGITS / "frozen_inference_graph.pb", tmp_path / "export")
    )
    assert sum(len(prediction.detections) for prediction in frozen) > 5
    for one, other in zip(frozen, exported, strict=True):
        assert [detection.name for detection in one.detections] == [detection.name for detection in other.detections]
        np.testing.assert_allclose(
            [detection.box for detection in one.detections],
            [detection.box for detection in other.detections],
            atol=1e-5,
        )


def test_frozen_graph_that_is_not_a_detector_is_reported(tmp_path: Path, image: Path) -> None:
    (tmp_path / "text.pb").write_text("not a graph")
    with pytest.raises(SavedModelError, match=r"text\.pb: not a frozen graph"):
        predict(tmp_path / "text.pb", [image])
    with tf.Graph().as_default() as graph:
        tf.compat.v1.placeholder(tf.uint8, [1, None, None, 3], "image_tensor")
    (tmp_path / "empty.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(SavedModelError, match=r"empty\.pb is not a detector: it lacks detection_boxes"):
        predict(tmp_path / "empty.pb", [image])


def test_folders_and_options_for_many_images_write_result_files(finder: Path, image: Path, tmp_path: Path) -> None:
    one = predict(finder, image, formats="jsonl", output_directory=tmp_path / "one")
    many = predict(finder, image.parent, output_directory=tmp_path / "many", draw=True)
    assert isinstance(one, PredictionRun)
    assert isinstance(many, PredictionRun)
    assert (one.images, one.files) == (1, ("predictions.jsonl",))
    assert (many.images, many.files) == (1, ("predictions.jsonl", "drawn/"))


def test_unknown_url_scheme_is_rejected(image: Path) -> None:
    with pytest.raises(UnsupportedError, match="not supported yet: ftp://localhost/digits"):
        predict("ftp://localhost/digits", [image])


def test_folder_is_not_an_image_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"is a folder\. Pass the images in it"):
        read_image(tmp_path)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    grey = np.full((6, 8), 204 * 257, np.uint16)
    (Image.fromarray(grey) if mode == "I;16" else Image.new("RGB", (8, 6), (204, 204, 204)).convert(mode)).save(path)
    read = read_image(path)
    assert (read.mode, read.size) == ("RGB", (8, 6))
    if mode != "1":
        assert np.abs(np.asarray(read).astype(int) - 204).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (12, 9), (64, 48), (160, 160), (640, 480), (3000, 200), (1920, 1080)])
def test_drawing_works_at_any_size_and_stays_inside(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (128, 128, 128))
    detections = [
        Detection(1, "a name that is far too long for a small image", 0.987, (-0.2, -0.1, 0.3, 0.2)),
        Detection(2, "corner", 0.6, (0.9, 0.9, 1.4, 1.3), np.ones((33, 33)), (0.9, 0.9, 1.4, 1.3)),
        Detection(3, "nothing", 0.5, (0.5, 0.5, 0.5, 0.5), np.ones(size[::-1]), WHOLE_IMAGE, ((0.5, 0.5, 1.0),)),
        Detection(4, "ノート", 0.5, (0.1, 0.1, 0.9, 0.9)),
    ]
    drawn = draw_detections(image, detections)
    assert drawn.size == size
    assert drawn.tobytes() != image.tobytes()
    assert image.getcolors() == [(size[0] * size[1], (128, 128, 128))]  # the input is unchanged
    assert draw_detections(image, detections, magnify=2).size == (size[0] * 2, size[1] * 2)


def test_mask_covers_its_box_or_the_whole_image() -> None:
    mask = np.zeros((4, 4))
    mask[:2] = 1.0
    over_box = Detection(1, "x", 0.9, (0.5, 0.5, 1.5, 1.0), mask, (0.5, 0.5, 1.5, 1.0))
    pixels = over_box.mask_px(40, 40)
    assert pixels[20:38, 20:40].all()  # the upper half of a box that reaches over the edge
    assert pixels.sum() == pytest.approx(400, abs=40)
    mask = np.zeros((40, 40))
    mask[5:10, 0:8] = 1.0
    over_image = Detection(1, "x", 0.9, (0.1, 0.0, 0.3, 0.2), mask)
    np.testing.assert_array_equal(over_image.mask_px(40, 40), mask > 0)


def test_run_lengths_go_column_by_column() -> None:
    assert run_lengths(np.array([[0, 1, 1], [0, 0, 1]], bool)) == [2, 1, 1, 2]
    assert run_lengths(np.array([[1, 0], [1, 0]], bool)) == [0, 2, 2]
    assert run_lengths(np.zeros((2, 2), bool)) == [4]
