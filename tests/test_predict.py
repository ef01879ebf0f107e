"""Pictures in, detections and drawings out, with a SavedModel that really looks: it finds red and blue blocks."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw

from unfreeze import cli
from unfreeze.errors import ConfigError, ImageError, OutputError, SavedModelError, UnfreezeError, UnsupportedError
from unfreeze.images import WHOLE_IMAGE, Detection, draw_detections, read_image
from unfreeze.images.detections import run_lengths
from unfreeze.prediction.predict import drawn_paths, predict

WIDTH, HEIGHT = 320, 240
RED_BLOCK = (40, 60, 120, 140)  # left, top, right, bottom in pixels
BLUE_BLOCK = (200, 100, 300, 220)
LABEL_MAP = "item { id: 1 name: 'red' display_name: 'rouge' }\nitem { id: 2 name: 'blue' }\n"


def found_blocks(images: tf.Tensor) -> dict[str, tf.Tensor]:
    """[N, H, W, 3] in 0 to 255 -> the bounding boxes of what is red (class 1) and blue (class 2)."""
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
    """[N, 2, L] of zeros and ones -> where the ones begin and end, in 0 to 1."""
    length = tf.cast(tf.shape(line)[-1], tf.float32)
    first = tf.cast(tf.argmax(line, axis=-1), tf.float32)
    last = length - tf.cast(tf.argmax(line[..., ::-1], axis=-1), tf.float32)
    return first / length, last / length


def decoded(strings: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(
        lambda one: tf.io.decode_image(one, 3, expand_animations=False), strings, fn_output_signature="uint8"
    )


def of_examples(strings: tf.Tensor) -> tf.Tensor:
    features = tf.io.parse_example(strings, {"image/encoded": tf.io.FixedLenFeature([], tf.string)})
    return decoded(features["image/encoded"])


def saved(folder: Path, signature: str, read: Callable, shape: list, dtype: str, name: str = "input_tensor") -> Path:
    """Write a SavedModel with one signature, whose pictures come through `read`."""

    @tf.function(input_signature=[tf.TensorSpec(shape, dtype, name)], autograph=False)
    def answer(given: tf.Tensor) -> dict[str, tf.Tensor]:
        return found_blocks(read(given))

    tf.saved_model.save(tf.Module(), str(folder), signatures={signature: answer})
    return folder


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "saved_model"
    return saved(folder, "image_tensor", tf.identity, [None, None, None, 3], "uint8")


def scene() -> Image.Image:
    picture = Image.new("RGB", (WIDTH, HEIGHT), (90, 110, 90))
    for block, color in ((RED_BLOCK, (250, 20, 20)), (BLUE_BLOCK, (20, 20, 250))):
        left, top, right, bottom = block
        ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=color)
    return picture


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


def test_the_drawing_has_the_pictures_size_and_boxes(finder: Path, image: Path) -> None:
    [prediction] = predict(finder, image, output_directory=image.parent / "new" / "folder")
    assert prediction.drawn == image.parent / "new" / "folder" / "scene_detections.png"
    drawn, before = np.asarray(Image.open(prediction.drawn)), np.asarray(scene())
    assert drawn.shape == before.shape
    changed = (drawn != before).any(axis=-1)
    left, top, right, bottom = RED_BLOCK
    assert changed[top:bottom, left].all()
    assert changed[bottom - 1, left:right].all()
    assert not changed[170:, :190].any()  # nothing was found there


def test_json_has_boxes_both_ways(finder: Path, image: Path) -> None:
    [prediction] = predict(finder, [image], draw=False, min_score=0.8)
    told = json.loads(json.dumps(prediction.to_dict()))
    assert told["drawn"] is None
    [red] = told["detections"]
    assert red["box_px"] == [60.0, 40.0, 140.0, 120.0]
    assert red["box"] == [0.25, 0.125, 0.5833333, 0.375]
    assert red["keypoints"][1] == {"y": 0.5833333, "x": 0.375, "y_px": 140.0, "x_px": 120.0, "score": 1.0}
    assert red["mask"]["size"] == [HEIGHT, WIDTH]
    inside = sum(red["mask"]["counts"][1::2])
    assert inside == pytest.approx(80 * 80 / 2, rel=0.1)  # the upper half of the box
    assert sum(red["mask"]["counts"]) == WIDTH * HEIGHT


def test_the_folder_above_is_taken_too(finder: Path, image: Path) -> None:
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
        ("serving_default", of_examples, [None], "string", "input_tensor"),
        ("serving_default", of_examples, [None], "string", "tf_example"),
        ("encoded_image_string_tensor", decoded, [None], "string", "inputs"),
    ],
)
def test_every_kind_of_input(
    tmp_path: Path, image: Path, signature: str, read: Callable, shape: list, dtype: str, name: str
) -> None:
    model = saved(tmp_path / "model", signature, read, shape, dtype, name)
    [prediction] = predict(model, [image], draw=False)
    red, blue = prediction.detections
    assert red.box_px(WIDTH, HEIGHT) == pytest.approx(px(RED_BLOCK), abs=5)
    assert blue.box_px(WIDTH, HEIGHT) == pytest.approx(px(BLUE_BLOCK), abs=5)


def test_names_come_from_the_label_map_given(finder: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "map.pbtxt").write_text(LABEL_MAP)
    [prediction] = predict(finder, [image], label_map=tmp_path / "map.pbtxt", draw=False)
    assert [detection.name for detection in prediction.detections] == ["rouge", "blue"]


def test_names_come_from_the_assets(image: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "serving_default", tf.identity, [None, None, None, 3], "uint8")
    (model / "assets").mkdir(exist_ok=True)
    (model / "assets" / "digits.pbtxt").write_text(LABEL_MAP)
    [prediction] = predict(model, [image], draw=False)
    assert [detection.name for detection in prediction.detections] == ["rouge", "blue"]
    (model / "assets" / "more.pbtxt").write_text(LABEL_MAP)
    with pytest.raises(ConfigError, match=r"several label maps \(digits.pbtxt, more.pbtxt\)"):
        predict(model, [image])


def test_a_bad_picture_does_not_stop_the_others(finder: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    cut = tmp_path / "cut.jpg"
    scene().save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    failures: list[tuple[str, UnfreezeError]] = []
    done = predict(
        finder,
        [tmp_path / "text.png", image, tmp_path, cut, tmp_path / "none.png"],
        on_failure=lambda path, error: failures.append((path, error)),
    )
    assert [prediction.image for prediction in done] == [image]
    assert [type(error) for _, error in failures] == [ImageError] * 4
    for (path, error), told in zip(
        failures, ["is not an image", "is a folder", "cannot be read", "does not exist"], strict=True
    ):
        assert str(error).startswith(path)
        assert told in str(error)
        assert "\n" not in str(error)
    with pytest.raises(ImageError, match=r"text.png is not an image"):
        predict(finder, [tmp_path / "text.png"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cut.jpg",
        "scene.png",
        "scene_detections.png",
        "text.png",
    ]


def test_the_command_line_tells_all_and_leaves_with_2(
    finder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(finder), str(tmp_path / "text.png"), str(image), "--json", "--min_score", "0.8"])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {tmp_path / 'text.png'} is not an image")
    result = json.loads(told.out)
    assert [failure["image"] for failure in result["failures"]] == [str(tmp_path / "text.png")]
    [prediction] = result["predictions"]
    assert [detection["class_id"] for detection in prediction["detections"]] == [1]
    assert Path(prediction["drawn"]).is_file()
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(finder), str(image), "--no-draw"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{image}: class 1 90%, class 2 75%\n"


def test_a_drawing_is_not_overwritten_unasked(finder: Path, image: Path) -> None:
    drawn = predict(finder, [image])[0].drawn
    assert drawn is not None
    drawn.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        predict(finder, [image])
    assert drawn.read_bytes() == b"precious"
    predict(finder, [image], overwrite=True)
    assert Image.open(drawn).size == (WIDTH, HEIGHT)


def test_an_output_directory_that_cannot_be(finder: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        predict(finder, [image], output_directory=tmp_path / "file")


def test_drawings_never_share_a_path() -> None:
    images = [Path("a/x.png"), Path("b/x.bmp"), Path("x.JPG"), Path("out/x_detections.png")]
    assert list(drawn_paths(images, "out")) == [
        Path("out/x_detections_2.png"),
        Path("out/x_detections_3.png"),
        Path("out/x_detections.JPG"),
        Path("out/x_detections_detections.png"),
    ]
    assert list(drawn_paths(images[:1], None)) == [Path("a/x_detections.png")]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "has no saved_model.pb"),
        (lambda folder: folder.write_text(""), "is a file"),
    ],
)
def test_no_saved_model(tmp_path: Path, image: Path, make: Callable, told: str) -> None:
    make(tmp_path / "model")
    with pytest.raises(SavedModelError, match=told):
        predict(tmp_path / "model", [image])


def test_a_saved_model_that_is_torn_or_no_detector(tmp_path: Path, image: Path) -> None:
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "saved_model.pb").write_bytes(b"\x08\x01\xff\xff")
    with pytest.raises(SavedModelError, match="cannot be loaded"):
        predict(torn, [image])

    @tf.function(input_signature=[tf.TensorSpec([None], "float32", "x")], autograph=False)
    def double(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": 2.0 * x}

    tf.saved_model.save(tf.Module(), str(tmp_path / "other"), signatures=double)
    with pytest.raises(SavedModelError, match=r"not a detector: serving_default lacks detection_boxes.* it has y"):
        predict(tmp_path / "other", [image])


def test_an_unknown_kind_of_url_is_refused_by_name(image: Path) -> None:
    with pytest.raises(UnsupportedError, match="not supported yet: ftp://localhost/digits"):
        predict("ftp://localhost/digits", [image])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("picture.tiff" if mode == "CMYK" else "picture.png")
    grey = np.full((6, 8), 204 * 257, np.uint16)
    (Image.fromarray(grey) if mode == "I;16" else Image.new("RGB", (8, 6), (204, 204, 204)).convert(mode)).save(path)
    read = read_image(path)
    assert (read.mode, read.size) == ("RGB", (8, 6))
    if mode != "1":
        assert np.abs(np.asarray(read).astype(int) - 204).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (12, 9), (64, 48), (160, 160), (640, 480), (3000, 200), (1920, 1080)])
def test_drawing_works_at_any_size_and_stays_inside(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (128, 128, 128))
    detections = [
        Detection(1, "a name that is far too long for a small picture", 0.987, (-0.2, -0.1, 0.3, 0.2)),
        Detection(2, "corner", 0.6, (0.9, 0.9, 1.4, 1.3), np.ones((33, 33)), (0.9, 0.9, 1.4, 1.3)),
        Detection(3, "nothing", 0.5, (0.5, 0.5, 0.5, 0.5), np.ones(size[::-1]), WHOLE_IMAGE, ((0.5, 0.5, 1.0),)),
        Detection(4, "ノート", 0.5, (0.1, 0.1, 0.9, 0.9)),
    ]
    drawn = draw_detections(picture, detections)
    assert drawn.size == size
    assert drawn.tobytes() != picture.tobytes()
    assert picture.getcolors() == [(size[0] * size[1], (128, 128, 128))]  # the picture itself is left alone
    assert draw_detections(picture, detections, magnify=2).size == (size[0] * 2, size[1] * 2)


def test_a_mask_is_drawn_where_it_is() -> None:
    mask = np.zeros((4, 4))
    mask[:2] = 1.0
    over_box = Detection(1, "x", 0.9, (0.5, 0.5, 1.5, 1.0), mask, (0.5, 0.5, 1.5, 1.0))
    found = over_box.mask_px(40, 40)
    assert found[20:38, 20:40].all()  # the upper half of a box that reaches over the edge
    assert found.sum() == pytest.approx(400, abs=40)
    whole = np.zeros((40, 40))
    whole[5:10, 0:8] = 1.0
    of_picture = Detection(1, "x", 0.9, (0.1, 0.0, 0.3, 0.2), whole)
    np.testing.assert_array_equal(of_picture.mask_px(40, 40), whole > 0)


def test_run_lengths_go_column_by_column() -> None:
    assert run_lengths(np.array([[0, 1, 1], [0, 0, 1]], bool)) == [2, 1, 1, 2]
    assert run_lengths(np.array([[1, 0], [1, 0]], bool)) == [0, 2, 2]
    assert run_lengths(np.zeros((2, 2), bool)) == [4]
