"""An intact SavedModel passes every check, and each kind of damage fails the check that covers it."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from unfreeze import protobuf_wire as wire
from unfreeze.errors import ImageError, SavedModelError, UnsupportedError
from unfreeze.verification import (
    ExpectedWeight,
    Tolerances,
    WorkerProcesses,
    compare_detections,
    sample_images,
    tensor_digest,
    verify_saved_model,
)
from unfreeze.verification.failures import Failure
from unfreeze.verification.feeds import image_feeds
from unfreeze.verification.meta_graph import TensorInfo, read_meta_graph
from unfreeze.verification.output_comparison import largest_difference
from unfreeze.verification.report import Check, Report, Status
from unfreeze.verification.steps import Step, WorkerKind
from unfreeze.verification.workers import Worker

PIXELS = tf.TensorSpec([None, None, None, 3], tf.uint8, "inputs")
STRINGS = tf.TensorSpec([None], tf.string, "inputs")


class SmallDetector(tf.Module):
    """A small model with the outputs of a detector: for sixteen cells of an image a box, a score and a class."""

    def __init__(self, *, trained: bool = True) -> None:
        """Creates variables, or constants with the same values if it is not `trained`."""
        super().__init__()
        random = np.random.default_rng(7)
        weight = tf.Variable if trained else tf.constant
        self.kernel = weight(random.normal(0, 0.7, (3, 4)).astype(np.float32), name="kernel")
        self.boxes = weight(random.uniform(0.05, 0.9, (16, 4)).astype(np.float32), name="boxes")
        self.table = weight(random.normal(0, 1, (200, 300)).astype(np.float32), name="table")
        self.steps = weight(np.int64(5500), name="steps")

    def detect(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """`[N, H, W, 3]` float32 in 0 … 255 -> the outputs."""
        cells = tf.reshape(tf.image.resize(pixels, (4, 4)) / 127.5 - 1.0, [-1, 16, 3])
        logits = cells @ self.kernel + 1e-3 * tf.reduce_mean(self.table)
        scores, order = tf.math.top_k(tf.reduce_max(tf.sigmoid(logits), -1), 16)
        boxes = tf.clip_by_value(self.boxes + 0.05 * logits, 0.0, 1.0)
        return {
            "detection_boxes": tf.gather(boxes, order, batch_dims=1),
            "detection_scores": scores,
            "detection_classes": tf.cast(tf.gather(tf.argmax(logits, -1), order, batch_dims=1) + 1, tf.float32),
            "num_detections": tf.reduce_sum(tf.cast(scores > 0.55, tf.float32), -1),
            "raw_detection_boxes": boxes,
            "raw_detection_scores": logits,
        }

    def of_pixels(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """uint8 or float32 images -> the outputs."""
        return self.detect(tf.cast(inputs, tf.float32))

    def of_files(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """PNG files -> the outputs."""
        decode = lambda file: tf.io.decode_png(file, channels=3)
        return self.of_pixels(tf.map_fn(decode, inputs, fn_output_signature=tf.uint8))

    def of_examples(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Serialized tf.Examples -> the outputs."""
        features = tf.io.parse_example(inputs, {"image/encoded": tf.io.FixedLenFeature([], tf.string)})
        return self.of_files(features["image/encoded"])


def write(folder: Path, serving=SmallDetector.of_pixels, spec=PIXELS, others: bool = False, **options: bool) -> Path:
    """Saves a detector whose serving signature is `serving`."""
    detector = SmallDetector(**options)

    def signature(function, spec):
        return tf.function(lambda inputs: function(detector, inputs), input_signature=[spec]).get_concrete_function()

    signatures = {"serving_default": signature(serving, spec)}
    if others:
        floats = tf.TensorSpec([None, None, None, 3], tf.float32, "inputs")
        signatures |= {
            "image_tensor": signature(SmallDetector.of_pixels, PIXELS),
            "float_image_tensor": signature(SmallDetector.of_pixels, floats),
            "encoded_image_string_tensor": signature(SmallDetector.of_files, STRINGS),
            "tf_example": signature(SmallDetector.of_examples, STRINGS),
        }
    tf.saved_model.save(detector, str(folder), signatures=signatures)
    return folder


def weights_of(detector: SmallDetector) -> dict[str, ExpectedWeight]:
    """Returns the weights of a checkpoint with the variables of a saved detector."""
    names = {"kernel": "kernel", "boxes": "boxes", "Table/weights": "table", "global_step": "steps"}
    return {
        key: ExpectedWeight(f"{name}/.ATTRIBUTES/VARIABLE_VALUE", np.asarray(getattr(detector, name)))
        for key, name in names.items()
    }


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An intact SavedModel, which no test may change."""
    return write(tmp_path_factory.mktemp("intact") / "saved_model", others=True)


@pytest.fixture
def broken(intact: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(intact, tmp_path / "saved_model"))


@pytest.fixture(scope="module")
def workers():
    """Worker processes for all tests: what one test does to them must not affect the next."""
    with WorkerProcesses() as started:
        yield started


@pytest.fixture(scope="module")
def verify(workers: WorkerProcesses):
    """`verify_saved_model` with these worker processes."""
    return lambda folder, **arguments: verify_saved_model(folder, workers=workers, **arguments)


def statuses(report: Report) -> dict[str, str]:
    """Returns the status of each check by name."""
    return {check.name: check.status for check in report.checks}


def test_intact_model_passes_every_check(intact, verify):
    detector = SmallDetector()
    messages = []
    report = verify(
        intact,
        weights=weights_of(detector),
        in_memory=detector.of_pixels,
        against=intact,
        on_progress=messages.append,
    )
    assert set(statuses(report).values()) == {"passed"}, report.table()
    assert report.passed
    assert report["weights"].numbers["compared"] == 4
    assert report["weights"].numbers["size_bytes"] == 4 * (12 + 64 + 60000) + 8
    assert report["weights"].numbers["largest"] == "table/.ATTRIBUTES/VARIABLE_VALUE"
    assert set(report["other_signatures"].numbers) == {
        "image_tensor",
        "float_image_tensor",
        "encoded_image_string_tensor",
        "tf_example",
    }
    sample = report["batch"].numbers["samples"]["a generated image"]
    assert sample["matched"] == sample["detections"] > 4
    assert len(messages) == 1 + len(report.checks)
    assert json.loads(json.dumps(report.to_dict()))["passed"] is True
    assert "TF2 loader, new process" in report.table()


@pytest.mark.parametrize("serving", [SmallDetector.of_files, SmallDetector.of_examples])
def test_serving_signature_of_strings_gets_files_or_examples(serving, verify, tmp_path):
    report = verify(write(tmp_path / "saved_model", serving, STRINGS), in_memory=SmallDetector().of_pixels)
    assert report.passed, report.table()
    assert {report[name].status for name in ("tf2_loader", "batch", "in_memory", "tf1_loader", "cpp_loader")} == {
        "passed"
    }


@pytest.mark.parametrize("images", [1, 3])
def test_fixed_input_shape_is_respected(images, verify, tmp_path):
    spec = tf.TensorSpec([images, 30, 40, 3], tf.uint8, "inputs")
    report = verify(write(tmp_path / "saved_model", spec=spec), images=[sample_images(30, 40)[0]])
    assert report.passed, report.table()
    assert report["batch"].status == "skipped"
    assert report["tf1_loader"].numbers["samples"]["image 0"]["detections"] > 0


def test_images_of_the_user_are_run(intact, verify, tmp_path):
    Image.fromarray(sample_images(50, 60)[1]).save(tmp_path / "cat.png")
    report = verify(intact, images=[tmp_path / "cat.png"])
    assert list(report["batch"].numbers["samples"]) == [str(tmp_path / "cat.png")]
    (tmp_path / "cat.png").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"cat\.png"):
        verify(intact, images=[tmp_path / "cat.png"])


def test_weights_are_verified_later_by_the_export_record(broken, verify):
    report = verify(broken, weights=weights_of(SmallDetector()))
    record = broken.parent / "export.json"
    record.write_text(report.record.to_json())
    again = verify(broken)
    assert again["weights"].status == again["files"].status == "passed", again.table()
    kept = json.loads(record.read_text())
    kept["weights"]["kernel"]["sha256"] = "0" * 64
    record.write_text(json.dumps(kept))
    assert verify(broken)["weights"].detail == "kernel does not equal the checkpoint's value"
    (broken / "fingerprint.pb").write_bytes(b"another")
    assert "fingerprint.pb has 7 bytes" in verify(broken)["files"].detail
    record.write_text("{")
    with pytest.raises(SavedModelError, match=r"export\.json: not JSON"):
        verify(broken)


def test_weights_are_skipped_without_checkpoint_and_record(intact, verify):
    report = verify(intact)
    assert report["weights"].status == "skipped"
    assert "no checkpoint" in report["weights"].detail
    assert report.passed


def test_weights_that_differ_are_listed(intact, verify):
    weights = weights_of(SmallDetector())
    kernel = weights["kernel"].value.copy()
    kernel[1, 2] = np.nextafter(kernel[1, 2], np.float32(9))
    weights["kernel"] = ExpectedWeight(weights["kernel"].variable, lambda: kernel)
    weights["boxes"] = ExpectedWeight(weights["boxes"].variable, weights["boxes"].value.reshape(4, 16))
    weights["lost"] = ExpectedWeight("nowhere", kernel)
    check = verify(intact, weights=weights)["weights"]
    assert check.status == "failed"
    assert check.numbers["problems"] == [
        "kernel does not equal the checkpoint's value",
        "boxes is float32 [16, 4] (checkpoint: float32 [4, 16])",
        "lost is not in variables/ (no nowhere)",
    ]


def test_flipped_byte_fails_the_checksum(broken, verify):
    data = broken / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[content.index(np.asarray(SmallDetector().table).tobytes()) + 1000] ^= 1
    data.write_bytes(content)
    report = verify(broken, weights=weights_of(SmallDetector()))
    assert "table/.ATTRIBUTES/VARIABLE_VALUE is damaged" in report["files"].detail
    assert "table/.ATTRIBUTES/VARIABLE_VALUE is damaged" in report["weights"].detail
    assert {report[name].status for name in ("files", "weights", "tf2_loader", "tf1_loader", "cpp_loader")} == {
        "failed"
    }


def test_truncated_shard_is_reported(broken, verify):
    data = broken / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1000])
    report = verify(broken)
    assert report["files"].status == report["tf2_loader"].status == "failed"
    assert "damaged" in report["files"].detail


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("variables.index", "variables/variables.index is missing"),
        ("variables.data-00000-of-00001", "variables/variables.data-00000-of-00001 is missing"),
    ],
)
def test_missing_file_is_reported(name, problem, broken, verify):
    (broken / "variables" / name).unlink()
    report = verify(broken)
    assert report["files"].detail == problem
    assert report["tf2_loader"].status == report["cpp_loader"].status == "failed"


def test_leftovers_of_an_interrupted_write_are_reported(broken, verify):
    (broken / "variables" / "variables.data-00000-of-00001.tempstate123").write_bytes(b"x")
    (broken / "variables" / "variables.data-00001-of-00003").write_bytes(b"x")
    detail = verify(broken)["files"].detail
    assert "tempstate123 is left over" in detail
    assert "shards of 1 and of 3" in detail
    assert "variables/variables.data-00002-of-00003 is missing" in detail


def test_frozen_model_fails(verify, tmp_path):
    folder = write(tmp_path / "saved_model", trained=False)
    report = verify(folder)
    assert report["files"].status == report["weights"].status == "failed"
    assert "frozen export" in report["files"].detail
    assert "frozen export" in report["weights"].detail
    assert report["tf2_loader"].status == report["cpp_loader"].status == "passed"


@pytest.fixture(scope="module")
def od_api_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the Object Detection API: a frozen graph whose tensors have its names, and its SavedModel."""
    folder = tmp_path_factory.mktemp("od_api_export")
    with tf.Graph().as_default() as graph:
        detector = SmallDetector(trained=False)
        image = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3], name="image_tensor")
        outputs = {name: tf.identity(value, name) for name, value in detector.of_pixels(image).items()}
        with tf.compat.v1.Session() as session:
            signature = tf.compat.v1.saved_model.signature_def_utils.predict_signature_def({"inputs": image}, outputs)
            builder = tf.compat.v1.saved_model.Builder(str(folder / "saved_model"))
            builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
            builder.save()
    (folder / "frozen_inference_graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
    return folder


def test_empty_variables_of_an_od_api_export_fail(od_api_export, verify, tmp_path):
    report = verify(od_api_export / "saved_model")
    assert report["files"].detail.startswith("variables/ is empty: a frozen export")
    assert report["weights"].status == "failed"
    assert report["tf2_loader"].status == report["tf1_loader"].status == report["cpp_loader"].status == "passed"
    copy = shutil.copytree(od_api_export / "saved_model", tmp_path / "copy")
    (copy / "variables").rmdir()
    assert verify(copy)["files"].detail.startswith("variables/ is missing: a frozen export")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("encoded_image_string_tensor", tf.string),
        ("tf_example", tf.string),
        ("float_image_tensor", tf.float32),
        ("input_tensor", tf.uint8),
    ],
)
def test_frozen_graph_gets_the_input_that_its_placeholder_names(name, dtype, intact, verify, tmp_path):
    with tf.Graph().as_default() as graph:
        detector = SmallDetector(trained=False)
        placeholder = tf.compat.v1.placeholder(
            dtype, [None] if dtype == tf.string else [None, None, None, 3], name=name
        )
        read = {"tf_example": detector.of_examples, "encoded_image_string_tensor": detector.of_files}
        outputs = read.get(name, lambda images: detector.of_pixels(tf.cast(images, tf.uint8)))(placeholder)
        for output, value in outputs.items():
            tf.identity(value, output)
    (tmp_path / "frozen.pb").write_bytes(graph.as_graph_def().SerializeToString())
    check = verify(intact, against=tmp_path / "frozen.pb")["against"]
    assert check.status == "passed", check.detail


@pytest.mark.parametrize("other", ["frozen_inference_graph.pb", "saved_model"])
def test_od_api_export_returns_the_same(other, intact, od_api_export, verify):
    check = verify(intact, against=od_api_export / other)["against"]
    assert check.status == "passed", check.detail
    outputs = check.numbers["samples"]["a generated image"]["outputs"]
    assert set(outputs) == set(SmallDetector().of_pixels(sample_images()))
    assert all(output["largest"] <= output["tolerance"] for output in outputs.values())
    assert "detection_boxes: largest" in check.detail


def test_different_model_fails_the_comparison(intact, verify):
    def other(images):
        outputs = {name: value.numpy() for name, value in SmallDetector().of_pixels(images).items()}
        outputs["detection_boxes"][1, 0, 2] += 0.01
        return outputs | {"detection_masks": np.zeros((2, 16, 3, 3))}

    check = verify(intact, against=other)["against"]
    assert check.status == "failed"
    assert "image 1: detection 0" in check.detail
    assert "detection_boxes: largest 1.0e-02" in check.detail
    assert "only in the reference: detection_masks" in check.detail
    assert verify(intact, against=other, tolerances=Tolerances(boxes=0.02))["against"].status == "passed"
    assert "KeyError" in verify(intact, against=lambda images: {}["x"])["against"].detail


@pytest.mark.parametrize(
    ("against", "message"), [("nowhere", "no such file or folder"), (__file__, "neither a SavedModel folder nor")]
)
def test_invalid_reference_is_rejected(against, message, intact):
    with pytest.raises(SavedModelError, match=message):
        verify_saved_model(intact, against=against)


def test_reference_that_is_not_a_graph_fails_the_comparison(intact, verify, tmp_path):
    (tmp_path / "other.pb").write_bytes(b"\x07nonsense")
    check = verify(intact, against=tmp_path / "other.pb")["against"]
    assert check.status == "failed"
    assert "not a frozen graph" in check.detail


def test_output_without_batch_dimension_fails(verify, tmp_path):
    def serving(detector, inputs):
        return detector.of_pixels(inputs) | {
            "anchors": detector.boxes + 0,
            "image_shape": tf.reduce_mean(detector.boxes),
        }

    report = verify(write(tmp_path / "saved_model", serving))
    assert report["signature"].numbers["problems"] == [
        "serving_default: anchors is float32 [16, 4], its first dimension is not the batch",
        "serving_default: image_shape is float32 [], its first dimension is not the batch",
    ]
    assert "serving_default: anchors is [16, 4] for 2 images" in report["batch"].numbers["problems"]


def test_missing_outputs_and_wrong_dtypes_and_names_fail(verify, tmp_path):
    def serving(detector, inputs):
        outputs = detector.of_pixels(inputs)
        del outputs["num_detections"]
        return outputs | {"detection_classes": tf.cast(outputs["detection_classes"], tf.int64)}

    report = verify(write(tmp_path / "saved_model", serving, tf.TensorSpec([None, None, None, 3], tf.uint8, "photo")))
    assert report["signature"].status == "failed"
    problems = report["signature"].numbers["problems"]
    assert "serving_default has no num_detections" in problems
    assert "serving_default: detection_classes is int64, not float32" in problems
    assert "serving_default takes photo (expected: inputs or input_tensor)" in problems


def test_batch_that_differs_from_single_images_fails(verify, tmp_path):
    def serving(detector, inputs):
        outputs = detector.of_pixels(inputs)
        place = tf.cast(tf.range(tf.shape(inputs)[0]), tf.float32)
        return outputs | {"detection_boxes": outputs["detection_boxes"] + 1e-3 * place[:, None, None]}

    report = verify(write(tmp_path / "saved_model", serving))
    assert report["batch"].status == "failed"
    assert "image 1: detection 0" in report["batch"].detail
    assert report["tf2_loader"].status == report["signature"].status == "passed"


def test_batch_may_differ_by_the_noise_of_the_model(verify, tmp_path):
    def serving(detector, inputs):
        outputs = detector.of_pixels(inputs)
        noise = 1e-4 * tf.cast(tf.shape(inputs)[0] - 1, tf.float32)  # of any batch, whatever else is in it
        return outputs | {"detection_boxes": outputs["detection_boxes"] + noise}

    report = verify(write(tmp_path / "saved_model", serving))
    assert report["batch"].status == "passed"
    assert report["batch"].numbers["noise"] == pytest.approx(1e-4, rel=0.01)
    assert "the model's own noise is 1.0e-04" in report["batch"].detail
    assert report["tf1_loader"].status == report["cpp_loader"].status == "passed"


def test_other_signature_with_different_outputs_fails(verify, tmp_path):
    def swapped(detector, inputs):
        return detector.of_pixels(inputs[..., ::-1])

    detector = SmallDetector()
    signatures = {
        name: tf.function(lambda inputs, f=function: f(detector, inputs), input_signature=[PIXELS])
        for name, function in {"serving_default": SmallDetector.of_pixels, "image_tensor": swapped}.items()
    }
    tf.saved_model.save(detector, str(tmp_path / "saved_model"), signatures=signatures)
    report = verify(tmp_path / "saved_model")
    assert report["other_signatures"].status == "failed"
    assert report["other_signatures"].detail.startswith("image_tensor: ")


def test_outputs_that_differ_from_the_model_in_memory_fail(intact, verify):
    check = verify(intact, in_memory=lambda images: SmallDetector().of_pixels(images // 2))["in_memory"]
    assert check.status == "failed"


class AtLoad(tf.saved_model.experimental.TrackableResource):
    """A resource whose initializer runs when a loader loads the model."""

    def __init__(self, act) -> None:
        super().__init__()
        self.act = act

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="at_load")

    def _initialize(self) -> None:
        with tf.control_dependencies([self.act()]):
            tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=tf.constant(0.0))


def write_with(folder: Path, act) -> Path:
    """Save a detector that does something when it is loaded."""
    detector = SmallDetector()
    detector.resource = AtLoad(act)
    serve = tf.function(lambda inputs: detector.of_pixels(inputs), input_signature=[PIXELS])
    detector.touch = tf.function(
        lambda: tf.raw_ops.ReadVariableOp(resource=detector.resource.resource_handle, dtype=tf.float32),
        input_signature=[],
    )
    tf.saved_model.save(detector, str(folder), signatures={"serving_default": serve})
    return folder


def test_model_that_kills_its_process_fails_alone(verify, intact, tmp_path):
    def abort():
        return tf.raw_ops.Abort(error_msg="it falls over", exit_without_error=False)

    report = verify(write_with(tmp_path / "saved_model", abort))
    for name in ("tf2_loader", "tf1_loader", "cpp_loader"):
        assert report[name].status == "failed"
        assert report[name].detail.startswith("the process was ended by SIGABRT"), report[name].detail
        assert "it falls over" in report[name].detail
    assert report["files"].status == report["signature"].status == "passed"
    assert verify(intact).passed


def test_model_that_hangs_times_out(tmp_path):
    def forever():
        return tf.while_loop(lambda i: i >= 0, lambda i: tf.math.floormod(i + 1, 7), [tf.constant(0)])[0]

    folder = write_with(tmp_path / "saved_model", forever)
    worker = Worker(WorkerKind.C_API, tmp_path, timeout_s=1.0)
    result = worker.submit(Step.CPP_LOADER, str(folder), []).result()
    worker.close()
    assert result.message == "no response within 1 s"


def test_other_signatures_run_with_tf2_loader_without_c_api(intact, tmp_path, monkeypatch):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").touch()
    with WorkerProcesses() as workers:
        workers.c_api.close()
        monkeypatch.syspath_prepend(tmp_path)
        workers.c_api = Worker(WorkerKind.C_API, tmp_path, timeout_s=60.0)
        report = verify_saved_model(intact, workers=workers)
    assert report.passed
    assert report["cpp_loader"].status == "skipped"
    assert "libtensorflow" in report["cpp_loader"].detail
    assert report["other_signatures"].status == "passed"


def test_stopped_verification_leaves_no_process(tmp_path):
    worker = Worker(WorkerKind.C_API, tmp_path, timeout_s=60.0)
    futures = [worker.submit(Step.CPP_LOADER, "nowhere", []) for _ in range(3)]
    worker.close()
    assert worker._process.poll() is not None
    assert all(future.cancelled() or future.result().message for future in futures)


def test_model_with_unknown_operation_fails_every_loader(broken, verify):
    path = broken / "saved_model.pb"
    path.write_bytes(path.read_bytes().replace(b"TopKV2", b"TopKV7"))
    report = verify(broken)
    for name in ("tf2_loader", "tf1_loader", "cpp_loader"):
        assert report[name].status == "failed"
        assert "TopKV7" in report[name].detail


def test_truncated_saved_model_pb_fails_files_and_skips_the_rest(broken):
    path = broken / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:5000])
    report = verify_saved_model(broken)
    assert statuses(report) == {name: "failed" if name == "files" else "skipped" for name in statuses(report)}
    assert "damaged" in report["files"].detail


def test_folder_without_saved_model_is_rejected(tmp_path):
    with pytest.raises(SavedModelError, match="no such folder"):
        verify_saved_model(tmp_path / "nowhere")
    with pytest.raises(SavedModelError, match=r"no saved_model\.pb"):
        verify_saved_model(tmp_path)
    (tmp_path / "saved_model.pbtxt").write_text("")
    with pytest.raises(UnsupportedError, match="not supported yet"):
        verify_saved_model(tmp_path)


def test_parent_and_cpp_loader_do_not_import_tensorflow(intact):
    program = (
        "import sys; from unfreeze.verification import verify_saved_model; "
        "print(verify_saved_model(sys.argv[1]).passed, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(intact)], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
    load = (
        "import sys; from unfreeze.verification.worker import c_api_steps; c_api_steps(); "
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_signatures_are_read_without_tensorflow(intact):
    meta_graph = read_meta_graph(intact)
    assert set(meta_graph.signatures) == {
        "serving_default",
        "image_tensor",
        "float_image_tensor",
        "encoded_image_string_tensor",
        "tf_example",
    }
    serving = meta_graph.signatures["serving_default"]
    assert str(serving.inputs["inputs"]) == "uint8 [?, ?, ?, 3]"
    assert str(serving.outputs["detection_boxes"]) == "float32 [?, 16, 4]"
    assert meta_graph.tensorflow_version == tf.__version__
    assert 0 < meta_graph.constants_bytes < 20_000


def test_every_form_of_an_image_has_the_same_pixels():
    images = sample_images(31, 45)
    strings = TensorInfo("x:0", "string", (None,))
    files, examples = image_feeds(images, strings, None)
    for file, example, image in zip(files, examples, images, strict=True):
        assert (np.asarray(Image.open(io.BytesIO(file))) == image).all()
        features = tf.train.Example.FromString(example).features.feature
        assert features["image/encoded"].bytes_list.value == [file]
    assert image_feeds(images, TensorInfo("x:0", "int64", (None,)), None) == []
    assert (images[1] == images[0][:, ::-1]).all()
    assert tensor_digest(sample_images()).sha256 == "d6f08ba8275eb5ec280c89fe28ed7cd042784de5a1a5041e890c4e6a3819a4b4"


def test_wire_format_round_trips_and_rejects_truncated_messages():
    message = wire.field(1, b"key") + wire.field(15, b"x" * 300)
    assert [(number, bytes(value)) for number, value in wire.fields(message)] == [(1, b"key"), (15, b"x" * 300)]
    for end in (1, 3, len(message) - 1):
        with pytest.raises(ValueError, match="bytes"):
            list(wire.fields(message[:end]))
    with pytest.raises(ValueError, match="not a field"):
        list(wire.fields(b"\x0f"))


def test_digest_depends_on_bytes_shape_and_dtype():
    zeros = np.zeros((2, 3), np.float32)
    assert tensor_digest(zeros) == tensor_digest(zeros.copy(order="F"))
    assert tensor_digest(zeros) != tensor_digest(zeros.reshape(3, 2))
    assert tensor_digest(-zeros) != tensor_digest(zeros)
    assert tensor_digest(b"a\0") != tensor_digest(b"a")
    assert tensor_digest(np.array([b"ab", b"c"], object)) != tensor_digest(np.array([b"a", b"bc"], object))
    assert tensor_digest(np.int64(3)).shape == ()


def test_quantized_number_has_the_digest_of_its_stored_integer():
    integers = np.arange(6, dtype=np.uint8).reshape(2, 3)
    quantized = integers.view(tf.quint8.as_numpy_dtype)  # as checkpoints and constants are read
    assert quantized.dtype.names
    assert tensor_digest(quantized) == tensor_digest(integers)
    assert tensor_digest(quantized) != tensor_digest(integers.astype(np.int8))


def test_nan_is_infinitely_different():
    ours = np.array([1.0, np.nan], np.float32)
    assert largest_difference(ours, ours.copy()) == 0.0
    assert largest_difference(ours, np.array([1.0, 2.0], np.float32)) == np.inf
    assert largest_difference(np.array([1.0, 2.0], np.float32), ours) == np.inf
    assert largest_difference(ours[:1], np.array([1.5], np.float32)) == 0.5


def test_table_prints_details_verbatim():
    failed = Check("files", Status.FAILED, "[red]missing[/red]")
    report = Report(Path("x"), (failed, Check("weights", Status.SKIPPED, "why")))
    assert not report.passed
    assert "[red]missing[/red]" in report.table()


def test_failure_skips_tensorflows_headings():
    error = ValueError("Graph execution error:\n\nDetected at node 'x'\n  the shapes do not match\nmore")
    assert Failure.of(error) == Failure("ValueError: the shapes do not match")
    assert Failure.of(KeyError()) == Failure("KeyError: KeyError")
    assert Failure.of(UnsupportedError("not run: no C API")) == Failure("not run: no C API", unsupported=True)


# ---- detections


def make_outputs(scores, boxes=None, classes=None, count=None, **outputs):
    """Returns outputs for one image."""
    scores = np.asarray(scores, np.float32)
    rows = len(scores)
    boxes = np.tile(np.linspace(0.1, 0.5, rows, dtype=np.float32)[:, None], 4) if boxes is None else boxes
    outputs_by_name = {
        "detection_scores": scores,
        "detection_boxes": np.asarray(boxes, np.float32),
        "detection_classes": np.ones(rows, np.float32) if classes is None else np.asarray(classes, np.float32),
        "num_detections": np.float32(np.count_nonzero(scores) if count is None else count),
    }
    return {name: np.asarray(value)[None] for name, value in (outputs_by_name | outputs).items()}


def reordered(outputs, order):
    """Returns the outputs with their rows in another order."""
    return {name: value if value.ndim == 1 else value[:, order] for name, value in outputs.items()}


def test_equal_outputs_match():
    outputs = make_outputs([0.9, 0.5, 0.0], detection_masks=np.random.rand(3, 5, 5))
    comparison = compare_detections(outputs, outputs)
    assert comparison.ok
    assert (comparison.detections, comparison.matched, comparison.swapped, comparison.cut) == (2, 2, 0, 0)
    assert comparison.largest() == 0


def test_near_ties_may_be_reordered_with_their_masks():
    ours = make_outputs([0.9, 0.50003, 0.5, 0.0], detection_masks=np.arange(4 * 9.0).reshape(4, 3, 3))
    theirs = reordered(ours, [0, 2, 1, 3])
    comparison = compare_detections(ours, theirs)
    assert comparison.ok, comparison.problems
    assert (comparison.matched, comparison.swapped) == (3, 2)


@pytest.mark.parametrize(
    ("theirs", "problem"),
    [
        (make_outputs([0.9, 0.6, 0.0]), "detection 1 .* has no match: the nearest has score 0.60000"),
        (
            make_outputs([0.9, 0.5, 0.0], classes=[1, 2, 1]),
            "detection 1 .* has no match: no other one of its class is left",
        ),
        (make_outputs([0.9, 0.5, 0.0], boxes=np.full((3, 4), 0.1)), r"detection 1 .* box \(0.1000"),
        (make_outputs([0.9, 0.0, 0.0]), "2 detections in one model, 1 in the other"),
        (make_outputs([0.9, 0.5, 0.3], count=2), "scores differ after the last detection"),
        (make_outputs([0.9, np.nan, 0.0], count=2), "detection 1 .* has no match"),
    ],
)
def test_differences_are_described(theirs, problem):
    comparison = compare_detections(make_outputs([0.9, 0.5, 0.0]), theirs)
    assert not comparison.ok
    assert any(re.search(problem, line) for line in comparison.problems), comparison.problems


def test_tie_with_the_last_kept_score_may_be_missing():
    boxes = np.random.default_rng(0).random((4, 4))
    ours, theirs = make_outputs([0.9, 0.5], boxes[:2]), make_outputs([0.9, 0.50004], boxes[[0, 3]])
    comparison = compare_detections(ours, theirs)
    assert comparison.ok, comparison.problems
    assert (comparison.matched, comparison.cut) == (1, 1)
    padded = compare_detections(
        make_outputs([0.9, 0.5, 0.0], boxes[:3]), make_outputs([0.9, 0.50004, 0.0], boxes[[0, 3, 2]])
    )
    assert not padded.ok
    assert not compare_detections(make_outputs([0.9, 0.5], boxes[:2]), make_outputs([0.9, 0.52], boxes[[0, 3]])).ok


def test_raw_rows_may_be_reordered_only_as_complete_rows():
    random = np.random.default_rng(0)
    boxes, scores = random.random((7, 4)), random.random((7, 3))
    order = [0, 3, 2, 1, 4, 6, 5]
    ours = make_outputs([0.9], raw_detection_boxes=boxes, raw_detection_scores=scores)
    same = make_outputs([0.9], raw_detection_boxes=boxes[order], raw_detection_scores=scores[order])
    mixed = make_outputs([0.9], raw_detection_boxes=boxes[order], raw_detection_scores=scores)
    assert compare_detections(ours, same).ok
    assert not compare_detections(ours, mixed).ok


def test_other_outputs_are_compared_by_scale_and_shape():
    ours = make_outputs([0.9], features=np.array([1000.0, 1.0]))
    assert compare_detections(ours, make_outputs([0.9], features=np.array([1000.05, 1.0]))).ok
    assert not compare_detections(ours, make_outputs([0.9], features=np.array([1000.2, 1.0]))).ok
    assert not compare_detections(ours, make_outputs([0.9], features=np.array([np.nan, 1.0]))).ok
    assert "in one model" in compare_detections(ours, make_outputs([0.9], features=np.zeros(3))).problems[0]
    assert compare_detections({"a": np.zeros(1)}, {"b": np.zeros(1)}).problems
    names = np.array([b"one"], object)
    assert compare_detections({"a": names}, {"a": names.copy()}).ok
    assert not compare_detections({"a": names}, {"a": np.array([b"two"], object)}).ok
