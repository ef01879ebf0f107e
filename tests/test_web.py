"""The page of `unfreeze serve` in headless Chromium, with the real server and a model that detects red pixels."""

import io
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from PIL import Image
from serving import LONG_S, blocked, config_of, send_request

from unfreeze.server.process import Server
from unfreeze.server.serve import page_address, start_server

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
REQUIRED = "UNFREEZE_NEEDS_BROWSER"  # set where a missing browser is a failure, as in .ci/run
LABELS = "item { id: 1 name: 'red' display_name: '<b>red</b> & co' }\nitem { id: 2 name: 'half' }\n"
RECORD = {
    "unfreeze": "0.1.0",
    "tensorflow": "2.21.0",
    "exported_at": "2026-01-02T03:04:05+00:00",
    "checkpoint": {
        "prefix": "/home/somebody/training/run/model.ckpt-8000",
        "step": 8000,
        "format": "tf1",
        "files": {"model.ckpt-8000.data-00000-of-00001": {"size_bytes": 5, "sha256": "2e71ace7"}},
    },
    "model": "ssd",
    "feature_extractor": "ssd_mobilenet_v1",
    "num_classes": 2,
    "verified": True,
    "checks": [{"name": "values", "status": "passed", "detail": "the same everywhere", "numbers": {}}],
}


class RedFinder(tf.Module):
    """A detector of red pixels: their box as class 1 with score 0.9, and its upper half as class 2 with 0.6."""

    def detect(self, pixels: tf.Tensor, scores: list[float]) -> dict[str, tf.Tensor]:
        """[H, W, 3] -> the outputs of a detector: boxes [1, D, 4], scores, classes."""
        red = (tf.cast(pixels[..., 0], tf.int32) > 180) & (tf.cast(pixels[..., 1], tf.int32) < 90)
        places = tf.cast(tf.where(red), tf.float32)
        size = tf.cast(tf.shape(red), tf.float32)
        low, high = tf.reduce_min(places, 0) / size, (tf.reduce_max(places, 0) + 1) / size
        half = tf.stack([(low[0] + high[0]) / 2, high[1]])
        boxes = tf.stack([tf.concat([low, high], 0), tf.concat([low, half], 0), tf.zeros(4)])
        return {
            "detection_boxes": boxes[tf.newaxis],
            "detection_scores": tf.constant([scores]),
            "detection_classes": tf.constant([[1.0, 2.0, 1.0]]),
            "num_detections": tf.constant([3.0]),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "encoded_image_string_tensor")])
    def file(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.detect(tf.io.decode_image(inputs[0], channels=3, expand_animations=False), [0.9, 0.6, 0.0])

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "image_tensor")])
    def pixels(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds a mask that covers the left half of each box, a keypoint in a corner, and a score that is NaN."""
        detections = self.detect(inputs[0], [0.8, 0.55, float("nan")])
        mask = tf.tile(tf.constant([1.0, 1.0, 0.0, 0.0])[tf.newaxis, tf.newaxis, tf.newaxis], [1, 3, 4, 1])
        return detections | {
            "detection_masks": mask,
            "detection_keypoints": detections["detection_boxes"][:, :, tf.newaxis, :2],
        }


def write_model(folder: Path, *signatures: str, record: bool = True) -> Path:
    """Writes a version and renames it into place, since a server may read the folder at any time."""
    staged = folder.with_name(f".{folder.name}")
    module = RedFinder()
    signature_names = {"file": "encoded_image_string_tensor", "pixels": "image_tensor"}
    tf.saved_model.save(
        module, str(staged), {signature_names[name]: getattr(module, name) for name in signatures or ("file",)}
    )
    (staged / "assets" / "label_map.pbtxt").write_text(LABELS)
    if record:
        (staged / "export.json").write_text(json.dumps(RECORD))
    return staged.rename(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that takes image files."""
    return write_model(tmp_path_factory.mktemp("red") / "model")


@contextmanager
def serving(base: Path, **options: Any) -> Iterator[Server]:
    running = start_server(
        base, model_name="red", port=None, rest_api_port=0, file_system_poll_wait_seconds=0.05, **options
    )
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def running(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("base")
    shutil.copytree(model, base / "1")
    with serving(base) as started:
        yield started


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        response = f"no browser: none of {', '.join(BROWSERS)} is installed (Debian: apt-get install chromium)"
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(response)
    if not os.environ.get(REQUIRED):
        pytest.importorskip("playwright", reason="playwright is not installed; it is in the extra dev")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers do not allow the sandbox of the browser; it opens only our own page.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def listen_for_choosers(tab: Any) -> None:
    """Has the browser report its file choosers from the start, rather than by `expect_file_chooser` alone.

    That call asks for the reports and does not wait for the answer: a key that follows may arrive first, and then
    headless Chromium cancels the chooser without a report.
    """
    tab.on("filechooser", lambda chooser: None)


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A tab. Errors in its console fail the test, except for failed requests, which some tests provoke."""
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(LONG_S * 1000)
    tab = context.new_page()
    listen_for_choosers(tab)
    console_errors: list[str] = []
    tab.on("pageerror", lambda error: console_errors.append(str(error)))
    tab.on("console", lambda message: print(f"console: {message.type}: {message.text}"))  # shown where a test fails
    tab.on("console", lambda message: console_errors.append(message.text) if message.type == "error" else None)
    yield tab
    context.close()
    assert [error for error in console_errors if not error.startswith("Failed to load resource")] == []


def encoded_image(width: int = 200, height: int = 100, kind: str = "PNG", **options: Any) -> bytes:
    """Returns a gray image with a red rectangle: x from 20 to 80 %, y from 10 to 40 %."""
    image = Image.new("RGB", (width, height), (120, 120, 120))
    image.paste((255, 0, 0), (width // 5, height // 10, width * 4 // 5, height * 2 // 5))
    encoded = io.BytesIO()
    image.save(encoded, kind, **options)
    return encoded.getvalue()


def visit(page: Any, running: Server) -> None:
    page.goto(page_address(running))
    page.locator("#card dd").first.wait_for()


def choose(page: Any, content: bytes, name: str = "a.png", kind: str = "image/png") -> None:
    page.set_input_files("#file", [{"name": name, "mimeType": kind, "buffer": content}])


def says(page: Any, selector: str, text: str) -> None:
    """Waits until an element contains a text."""
    page.locator(selector).filter(has_text=text).first.wait_for(state="attached")


def boxes(page: Any) -> list[list[float]]:
    """Returns (left, top, right, bottom) of the boxes on the page, in percent of the image."""
    shown = page.locator("#image").bounding_box()
    width, height = shown["width"], shown["height"]
    drawn = []
    for box in page.locator("#boxes .box").all():
        left, top, wide, high = (float(box.get_attribute(name)) for name in ("x", "y", "width", "height"))
        drawn.append([100 * left / width, 100 * top / height, 100 * (left + wide) / width, 100 * (top + high) / height])
    return drawn


def test_dropped_image(page: Any, running: Server) -> None:
    visit(page, running)
    dropped = page.evaluate_handle(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            return data;
        }""",
        list(encoded_image()),
    )
    page.dispatch_event("body", "dragover", {"dataTransfer": dropped})
    assert "over" in page.locator("#dropzone").get_attribute("class")
    page.dispatch_event("body", "drop", {"dataTransfer": dropped})
    says(page, "#summary", "<b>red</b> & co, half with a score of at least 50 %. Version 1 responded in")
    assert "over" not in page.locator("#dropzone").get_attribute("class")
    # Drawn in the order of increasing scores, so that the highest score is on top.
    assert boxes(page)[1] == pytest.approx([20, 10, 80, 40], abs=0.1)
    assert boxes(page)[0] == pytest.approx([20, 10, 80, 25], abs=0.1)
    assert page.locator("#boxes text").all_text_contents() == ["<b>red</b> & co 90 %", "half 60 %"]
    rows = [row.all_text_contents() for row in (line.locator("th, td") for line in page.locator("#rows tr").all())]
    assert rows == [["<b>red</b> & co", "90 %", "40, 10, 120 × 30"], ["half", "60 %", "40, 10, 120 × 15"]]


def test_model_card(page: Any, running: Server) -> None:
    visit(page, running)
    response = page.locator("#card").text_content()
    for part in (
        "ssd_mobilenet_v1 (ssd), 2 classes",
        "run/model.ckpt-8000, step 8000, tf1",
        "2e71ace7",
        "verified at export",
    ):
        assert part in response
    assert "somebody" not in page.content()
    assert page.locator("#checks-summary").text_content() == "Verification: 1 check passed"
    assert page.locator("#check-list").text_content() == "values passed: the same everywhere"
    assert page.locator("h1").text_content().strip() == "red"


@pytest.mark.parametrize(
    ("signature", "tensor", "used"),
    [
        ("serving_default", "serving_default_input_tensor:0", "serving_default"),
        ("tf_example", "tf_example:0", None),
        ("encoded_image_string_tensor", "x:0", "encoded_image_string_tensor"),
    ],
)
def test_which_signature_is_used(page: Any, running: Server, signature: str, tensor: str, used: str | None) -> None:
    """A string input of any other name, as in exports of the OD API, receives the image file."""
    named = {name: {} for name in ("detection_boxes", "detection_scores", "detection_classes")}
    shape = {"dim": [{"size": "-1"}], "unknown_rank": False}
    definition = {"inputs": {"x": {"name": tensor, "dtype": "DT_STRING", "tensor_shape": shape}}, "outputs": named}
    response = {"metadata": {"signature_def": {"signature_def": {signature: definition}}}}
    page.route("**/metadata", lambda route: route.fulfill(json=response))
    visit(page, running)
    assert page.locator("#card").text_content().endswith(f"Signature{used}" if used else "from the label map")
    if not used:
        choose(page, encoded_image())
        says(page, "#error", "This model has no signature that takes only an image")


def test_threshold_classes_and_a_single_detection(page: Any, running: Server) -> None:
    visit(page, running)
    choose(page, encoded_image())
    says(page, "#summary", "half")
    page.locator("#threshold").fill("0.7")
    assert page.locator("#threshold-value").text_content() == "70 %"
    assert len(boxes(page)) == page.locator("#rows tr").count() == 1
    page.locator("#threshold").fill("0.5")
    page.get_by_label("<b>red</b> & co").uncheck()
    assert page.locator("#boxes text").all_text_contents() == ["half 60 %"]
    page.get_by_label("<b>red</b> & co").check()
    page.locator("#rows button").nth(1).click()
    assert page.locator("#boxes text").all_text_contents() == ["half 60 %"]
    assert page.locator("#rows tr").count() == 2
    page.locator("#threshold").fill("0.95")
    assert page.locator("#no-detections").text_content() == "No detections above the score threshold"


def test_photos_with_an_exif_orientation(page: Any, running: Server) -> None:
    """The page rotates them before it sends them, since TensorFlow's decoder does not."""
    visit(page, running)
    for orientation, size, upright in (
        (6, "100 × 200", [60, 20, 90, 80]),
        (8, "100 × 200", [10, 20, 40, 80]),
        (3, "200 × 100", [20, 60, 80, 90]),
    ):
        exif = Image.Exif()
        exif[0x0112] = orientation
        choose(page, encoded_image(kind="JPEG", exif=exif, quality=95), f"photo{orientation}.jpg", "image/jpeg")
        says(page, "#caption", f"photo{orientation}-upright.jpg, {size}, rotated upright")
        says(page, "#summary", "half")
        assert boxes(page)[1] == pytest.approx(upright, abs=2)


def test_format_that_tensorflow_does_not_read(page: Any, running: Server) -> None:
    visit(page, running)
    choose(page, encoded_image(kind="WEBP", lossless=True), "a.webp", "image/webp")
    says(page, "#summary", "half")
    assert boxes(page)[1] == pytest.approx([20, 10, 80, 40], abs=0.1)
    assert "base64 < 'a-converted.png'" in page.locator("#curl").text_content()


def test_files_that_are_not_images(page: Any, running: Server) -> None:
    visit(page, running)
    choose(page, b"no image", "notes.txt", "text/plain")
    says(page, "#error", "notes.txt is not an image that this browser can read. Choose a JPEG")
    choose(page, encoded_image())
    says(page, "#summary", "half")
    assert page.locator("#error").text_content() == ""
    for number, content in enumerate([b"\x89PNG\r\n\x1a\n", encoded_image()[:60], b"", b"\xff\xd8\xff\xe1"]):
        choose(page, content, f"{number}.png")
        says(page, "#error", f"{number}.png is not an image")
        assert len(boxes(page)) == 2, "the detections of the previous image stay"


def test_slow_server(page: Any, running: Server) -> None:
    visit(page, running)
    with blocked(running, "red", "encoded_image_string_tensor") as blocker:
        choose(page, encoded_image())
        blocker.wait_for_call()
        page.locator("#busy").filter(has_text="Running …").wait_for()
        says(page, "#busy-text", "Running … 1 s")
        page.get_by_role("button", name="Cancel").click()
        says(page, "#error", "Cancelled.")
        assert page.locator("#busy").is_hidden()
        assert page.evaluate("document.activeElement.id") == "retry"
    page.get_by_role("button", name="Try again").click()
    says(page, "#summary", "half")
    assert page.locator("#error").text_content() == ""


def test_only_the_last_image_is_shown(page: Any, running: Server) -> None:
    visit(page, running)
    with blocked(running, "red", "encoded_image_string_tensor") as blocker:
        choose(page, encoded_image(200, 100), "first.png")
        blocker.wait_for_call()
        choose(page, encoded_image(100, 300), "second.png")
        blocker.wait_for_call()
    says(page, "#summary", "half")
    assert page.locator("#caption").text_content() == "second.png, 100 × 300"
    assert page.locator("#rows td").nth(1).text_content() == "20, 30, 60 × 90"


def test_failing_server(page: Any, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "1")
    with serving(tmp_path, max_image_pixels=30_000) as running:
        visit(page, running)
        choose(page, encoded_image(400, 300))
        says(page, "#error", "The server responded with error 400: ")
        assert "pixels" in page.locator("#error").text_content()
        assert page.locator("#summary").text_content() == ""
        choose(page, encoded_image())
        says(page, "#summary", "half")
    says(page, "#offline", "The server does not respond. Is it still running?")
    choose(page, encoded_image())
    says(page, "#error", "The server does not respond.")


def test_server_that_comes_back(page: Any, running: Server) -> None:
    gone = threading.Event()
    page.route("**/v1/models", lambda route: route.abort() if gone.is_set() else route.continue_())
    visit(page, running)
    gone.set()
    says(page, "#offline", "Retrying every 2 seconds.")
    gone.clear()
    page.locator("#offline:empty").wait_for(state="attached")


def test_version_published_while_the_page_is_open(page: Any, model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(model, base / "1")
    with serving(base) as running:
        visit(page, running)
        choose(page, encoded_image())
        says(page, "#summary", "Version 1 responded")
        shutil.copytree(model, tmp_path / "staged")
        (tmp_path / "staged").rename(base / "2")
        says(page, "#announcement", "Version 2 is available.")
        says(page, "#summary", "Version 2 responded")
        assert page.locator("#version option").all_text_contents() == ["newest (2)", "2"]


def test_several_versions_and_models(page: Any, model: Path, tmp_path: Path) -> None:
    for number in "12":
        shutil.copytree(model, tmp_path / "red" / number)
    write_model(tmp_path / "model", "pixels", record=False).rename(tmp_path / "pixels")
    (tmp_path / "other").mkdir()
    (tmp_path / "pixels").rename(tmp_path / "other" / "5")
    (tmp_path / "red" / "3").mkdir()
    (tmp_path / "red" / "3" / "saved_model.pb").write_bytes(b"incomplete")
    config = config_of(red=tmp_path / "red", other=tmp_path / "other")
    config.model_config_list.config[0].model_version_policy.all.SetInParent()
    (tmp_path / "models.config").write_text(str(config))
    running = start_server(model_config_file=tmp_path / "models.config", port=None, rest_api_port=0)
    try:
        visit(page, running)
        # The models are sorted by name.
        says(page, "#card-note", "This model has no export.json")
        assert page.locator("#model option").all_text_contents() == ["other", "red"]
        choose(page, encoded_image())
        says(page, "#summary", "Version 5 responded")
        assert "curl -d @request.json" in page.locator("#curl").text_content()
        shows_masks_and_keypoints(page)
        page.select_option("#model", "red")
        says(page, "#summary", "Version 2 responded")
        assert page.locator("#version option").all_text_contents() == ["newest (2)", "3 (failed)", "2", "1"]
        page.select_option("#version", "1")
        says(page, "#summary", "Version 1 responded")
        assert "/v1/models/red/versions/1:predict" in page.locator("#curl").text_content()
    finally:
        running.stop()


def shows_masks_and_keypoints(page: Any) -> None:
    """Checks that the mask covers the left half of the box, x 20 to 80 % and y 10 to 40 %, and the keypoints."""
    opacity = """([x, y]) => {
        const canvas = document.getElementById("masks");
        return canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data[3];
    }"""
    inside, right, below = (page.evaluate(opacity, place) for place in ([0.3, 0.3], [0.7, 0.3], [0.3, 0.6]))
    assert (inside > 0, right, below) == (True, 0, 0)
    shown = page.locator("#image").bounding_box()
    keypoints = page.locator("#boxes .keypoint")
    assert keypoints.count() == 2
    assert float(keypoints.first.get_attribute("cx")) == pytest.approx(0.2 * shown["width"], abs=0.5)
    assert float(keypoints.first.get_attribute("cy")) == pytest.approx(0.1 * shown["height"], abs=0.5)


def test_keyboard_only(page: Any, running: Server) -> None:
    visit(page, running)
    focused = lambda: page.evaluate("document.activeElement.id")
    page.keyboard.press("Tab")
    assert focused() == "version"
    page.keyboard.press("Tab")
    assert focused() == "file"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": encoded_image()}])
    says(page, "#summary", "half")
    for _ in range(2):
        page.keyboard.press("Tab")
    assert focused() == "threshold"
    for _ in range(15):
        page.keyboard.press("ArrowRight")
    assert page.locator("#threshold-value").text_content() == "65 %"
    assert len(boxes(page)) == 1
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert boxes(page) == [], "the class is hidden, and its checkbox keeps the focus"
    page.keyboard.press("Space")
    assert len(boxes(page)) == 1
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#rows button[aria-pressed=true]").count() == 1


def test_roles_and_names_for_screen_readers(page: Any, running: Server) -> None:
    visit(page, running)
    assert page.get_by_role("status").count() >= 3
    assert page.get_by_role("slider", name="Score threshold").count() == 1
    assert page.get_by_role("combobox", name="Version").count() == 1
    choose(page, encoded_image())
    says(page, "#summary", "half")
    assert page.get_by_role("table").get_by_role("row").count() == 3
    assert page.get_by_role("img", name="Image a.png").count() == 1
    assert page.get_by_role("checkbox").count() == 2
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, select, button")].filter(node => !node.labels?.length
            && !node.textContent.trim() && !node.getAttribute("aria-label")).map(node => node.outerHTML)"""
    )
    assert unnamed == []


def test_photo_is_taken_on_a_phone(chromium: Any, running: Server) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    try:
        phone = context.new_page()
        listen_for_choosers(phone)
        visit(phone, running)
        with phone.expect_file_chooser() as chooser:
            phone.get_by_text("Take a photo").tap()
        assert chooser.value.element.get_attribute("capture") == "environment"
        chooser.value.set_files([{"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": encoded_image(kind="JPEG")}])
        says(phone, "#summary", "half")
    finally:
        context.close()


def test_nothing_overflows_on_a_phone(page: Any, running: Server) -> None:
    visit(page, running)
    choose(page, encoded_image(1600, 400), f"{'long' * 30}.png")
    says(page, "#summary", "half")
    for width in (320, 390, 800):
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # Drawn again when the browser reports the new size of the image.
        image_width = page.evaluate("document.getElementById('image').getBoundingClientRect().width")
        page.locator(f'#boxes[viewBox^="0 0 {image_width:g} "]').wait_for()
        assert boxes(page)[1] == pytest.approx([20, 10, 80, 40], abs=0.2)


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="curl or bash is not installed")
def test_curl_command_sends_the_same_request(page: Any, running: Server, tmp_path: Path) -> None:
    name = 'it\'s $(a) "image".png'
    (tmp_path / name).write_bytes(encoded_image())
    visit(page, running)
    page.set_input_files("#file", tmp_path / name)
    says(page, "#summary", "half")
    command = page.locator("#curl").text_content()
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    [prediction] = json.loads(done.stdout)["predictions"]
    assert prediction["detection_boxes"][0] == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_rest_is_unchanged(running: Server) -> None:
    """Clients that do not accept HTML receive KServe's liveness response at /."""
    assert send_request(running, "GET", "/") == (200, {"status": "alive"})
    assert send_request(running, "GET", "/", headers={"Accept": "*/*"}) == (200, {"status": "alive"})
    status, card = send_request(running, "GET", "/page/card?model=red&version=1")
    assert (status, card["class_names"], card["export"]["checkpoint"]["name"]) == (
        200,
        {"1": "<b>red</b> & co", "2": "half"},
        "run/model.ckpt-8000",
    )
    assert send_request(running, "GET", "/page/card?model=red&version=9")[0] == 404
    assert send_request(running, "GET", "/page/card?model=red&version=x")[0] == 400
    assert send_request(running, "GET", "/page/card")[0] == 404
