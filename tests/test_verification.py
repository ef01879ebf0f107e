"""A sound SavedModel passes every check, and each kind of damage fails the check that is for it."""

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
from unfreeze.errors import ImageError, SavedModelError, UnsupportedError, VerificationError
from unfreeze.verification import (
    ExpectedWeight,
    Tolerances,
    WorkerProcesses,
    compare_detections,
    sample_images,
    tensor_digest,
    verify_saved_model,
)
from unfreeze.verification import images as proof_pictures
from unfreeze.verification.meta_graph import TensorInfo, read_meta_graph
from unfreeze.verification.output_comparison import furthest
from unfreeze.verification.report import Check, Report
from unfreeze.verification.workers import Worker

PIXELS = tf.TensorSpec([None, None, None, 3], tf.uint8, "inputs")
STRINGS = tf.TensorSpec([None], tf.string, "inputs")


class SmallDetector(tf.Module):
    """Something that answers like a detector: sixteen cells of a picture, each with a box, a score and a class."""

    def __init__(self, *, trained: bool = True) -> None:
        """Hold variables, or, where it is not `trained`, the same numbers as constants."""
        super().__init__()
        random = np.random.default_rng(7)
        hold = tf.Variable if trained else tf.constant
        self.kernel = hold(random.normal(0, 0.7, (3, 4)).astype(np.float32), name="kernel")
        self.boxes = hold(random.uniform(0.05, 0.9, (16, 4)).astype(np.float32), name="boxes")
        self.table = hold(random.normal(0, 1, (200, 300)).astype(np.float32), name="table")
        self.steps = hold(np.int64(5500), name="steps")

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
        """Answer uint8 or float32 pictures."""
        return self.detect(tf.cast(inputs, tf.float32))

    def of_files(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Answer PNG files."""
        decode = lambda file: tf.io.decode_png(file, channels=3)
        return self.of_pixels(tf.map_fn(decode, inputs, fn_output_signature=tf.uint8))

    def of_examples(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Answer serialized tf.Examples."""
        features = tf.io.parse_example(inputs, {"image/encoded": tf.io.FixedLenFeature([], tf.string)})
        return self.of_files(features["image/encoded"])


def write(folder: Path, serving=SmallDetector.of_pixels, spec=PIXELS, others: bool = False, **options: bool) -> Path:
    """Save a detector whose serving signature is `serving`."""
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
    """Map the names of a checkpoint to the variables of a saved detector."""
    names = {"kernel": "kernel", "boxes": "boxes", "Table/weights": "table", "global_step": "steps"}
    return {
        key: ExpectedWeight(f"{name}/.ATTRIBUTES/VARIABLE_VALUE", np.asarray(getattr(detector, name)))
        for key, name in names.items()
    }


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a SavedModel with nothing wrong; not to be written to."""
    return write(tmp_path_factory.mktemp("sound") / "saved_model", others=True)


@pytest.fixture
def broken(sound: Path, tmp_path: Path) -> Path:
    """Give a copy of it, to break."""
    return Path(shutil.copytree(sound, tmp_path / "saved_model"))


@pytest.fixture(scope="module")
def workers():
    """Give worker processes for all tests: what one test does to them must not disturb the next."""
    with WorkerProcesses() as started:
        yield started


@pytest.fixture(scope="module")
def prove(workers: WorkerProcesses):
    """Give `verify` with these worker processes."""
    return lambda folder, **arguments: verify_saved_model(folder, workers=workers, **arguments)


def statuses(report: Report) -> dict[str, str]:
    """Give the status of each check by name."""
    return {check.name: check.status for check in report.checks}


def test_a_sound_model_passes_every_check(sound, prove):
    detector = SmallDetector()
    told = []
    report = prove(
        sound,
        weights=weights_of(detector),
        in_memory=detector.of_pixels,
        against=sound,
        on_progress=told.append,
    )
    assert set(statuses(report).values()) == {"passed"}, report.table()
    assert report.passed
    report.raise_if_failed()
    assert report["weights"].numbers["compared"] == 4
    assert report["weights"].numbers["size_bytes"] == 4 * (12 + 64 + 60000) + 8
    assert report["weights"].numbers["largest"] == "table/.ATTRIBUTES/VARIABLE_VALUE"
    assert set(report["other_signatures"].numbers) == {
        "image_tensor",
        "float_image_tensor",
        "encoded_image_string_tensor",
        "tf_example",
    }
    case = report["batch"].numbers["cases"]["an artificial picture"]
    assert case["matched"] == case["detections"] > 4
    assert len(told) == 1 + len(report.checks)
    assert json.loads(json.dumps(report.to_dict()))["passed"] is True
    assert "fresh process, TF2 loader" in report.table()


@pytest.mark.parametrize("serving", [SmallDetector.of_files, SmallDetector.of_examples])
def test_a_serving_signature_of_strings_is_asked_for_files_or_examples(serving, prove, tmp_path):
    report = prove(write(tmp_path / "saved_model", serving, STRINGS), in_memory=SmallDetector().of_pixels)
    assert report.passed, report.table()
    assert {report[name].status for name in ("tf2_loader", "batch", "in_memory", "tf1_loader", "cpp_loader")} == {
        "passed"
    }


@pytest.mark.parametrize("images", [1, 3])
def test_a_fixed_shape_is_kept_to(images, prove, tmp_path):
    spec = tf.TensorSpec([images, 30, 40, 3], tf.uint8, "inputs")
    report = prove(write(tmp_path / "saved_model", spec=spec), images=[sample_images(30, 40)[0]])
    assert report.passed, report.table()
    assert report["batch"].status == "skipped"
    assert report["tf1_loader"].numbers["cases"]["image 0"]["detections"] > 0


def test_pictures_of_the_user_are_tried(sound, prove, tmp_path):
    Image.fromarray(sample_images(50, 60)[1]).save(tmp_path / "cat.png")
    report = prove(sound, images=[tmp_path / "cat.png"])
    assert list(report["batch"].numbers["cases"]) == [str(tmp_path / "cat.png")]
    (tmp_path / "cat.png").write_bytes(b"not a picture")
    with pytest.raises(ImageError, match=r"cat\.png"):
        prove(sound, images=[tmp_path / "cat.png"])


def test_the_record_of_an_export_proves_the_weights_later(broken, prove):
    report = prove(broken, weights=weights_of(SmallDetector()))
    record = broken.parent / "export.json"
    record.write_text(report.record.to_json())
    again = prove(broken)
    assert again["weights"].status == again["files"].status == "passed", again.table()
    kept = json.loads(record.read_text())
    kept["weights"]["kernel"]["sha256"] = "0" * 64
    record.write_text(json.dumps(kept))
    assert prove(broken)["weights"].detail == "kernel has other bytes than the checkpoint's"
    (broken / "fingerprint.pb").write_bytes(b"another")
    assert "fingerprint.pb has 7 bytes" in prove(broken)["files"].detail
    record.write_text("{")
    with pytest.raises(SavedModelError, match=r"export\.json: not JSON"):
        prove(broken)


def test_without_anything_to_compare_with_the_weights_are_not_called_equal(sound, prove):
    report = prove(sound)
    assert report["weights"].status == "skipped"
    assert "no checkpoint" in report["weights"].detail
    assert report.passed


def test_weights_that_differ_are_named(sound, prove):
    weights = weights_of(SmallDetector())
    kernel = weights["kernel"].value.copy()
    kernel[1, 2] = np.nextafter(kernel[1, 2], np.float32(9))
    weights["kernel"] = ExpectedWeight(weights["kernel"].variable, lambda: kernel)
    weights["boxes"] = ExpectedWeight(weights["boxes"].variable, weights["boxes"].value.reshape(4, 16))
    weights["lost"] = ExpectedWeight("nowhere", kernel)
    check = prove(sound, weights=weights)["weights"]
    assert check.status == "failed"
    assert check.numbers["problems"] == [
        "kernel has other bytes than the checkpoint's",
        "boxes is float32 [16, 4], in the checkpoint float32 [4, 16]",
        "lost is not in variables/ (no nowhere)",
    ]


def test_a_flipped_byte_is_found(broken, prove):
    data = broken / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[content.index(np.asarray(SmallDetector().table).tobytes()) + 1000] ^= 1
    data.write_bytes(content)
    report = prove(broken, weights=weights_of(SmallDetector()))
    assert "table/.ATTRIBUTES/VARIABLE_VALUE is damaged" in report["files"].detail
    assert "table/.ATTRIBUTES/VARIABLE_VALUE is damaged" in report["weights"].detail
    assert {report[name].status for name in ("files", "weights", "tf2_loader", "tf1_loader", "cpp_loader")} == {
        "failed"
    }


def test_a_shard_cut_short_is_found(broken, prove):
    data = broken / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1000])
    report = prove(broken)
    assert report["files"].status == report["tf2_loader"].status == "failed"
    assert "damaged" in report["files"].detail


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("variables.index", "variables/variables.index is missing"),
        ("variables.data-00000-of-00001", "variables/variables.data-00000-of-00001 is missing"),
    ],
)
def test_a_missing_file_is_named(gone, said, broken, prove):
    (broken / "variables" / gone).unlink()
    report = prove(broken)
    assert report["files"].detail == said
    assert report["tf2_loader"].status == report["cpp_loader"].status == "failed"


def test_what_a_broken_off_write_left_is_named(broken, prove):
    (broken / "variables" / "variables.data-00000-of-00001.tempstate123").write_bytes(b"x")
    (broken / "variables" / "variables.data-00001-of-00003").write_bytes(b"x")
    detail = prove(broken)["files"].detail
    assert "tempstate123 is left over" in detail
    assert "shards of 1 and of 3" in detail
    assert "variables/variables.data-00002-of-00003 is missing" in detail


def test_a_frozen_model_fails(prove, tmp_path):
    folder = write(tmp_path / "saved_model", trained=False)
    report = prove(folder)
    assert report["files"].status == report["weights"].status == "failed"
    assert "frozen export" in report["files"].detail
    assert "frozen export" in report["weights"].detail
    assert report["tf2_loader"].status == report["cpp_loader"].status == "passed"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give what the original exporter writes: a graph of constants, tensors under their names, and its SavedModel."""
    folder = tmp_path_factory.mktemp("original")
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


def test_the_originals_empty_variables_fail_with_a_clear_word(original, prove, tmp_path):
    report = prove(original / "saved_model")
    assert report["files"].detail.startswith("variables/ is empty: a frozen export")
    assert report["weights"].status == "failed"
    assert report["tf2_loader"].status == report["tf1_loader"].status == report["cpp_loader"].status == "passed"
    copy = shutil.copytree(original / "saved_model", tmp_path / "copy")
    (copy / "variables").rmdir()
    assert prove(copy)["files"].detail.startswith("variables/ is missing: a frozen export")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("encoded_image_string_tensor", tf.string),
        ("tf_example", tf.string),
        ("float_image_tensor", tf.float32),
        ("input_tensor", tf.uint8),
    ],
)
def test_a_frozen_graph_is_asked_for_what_its_placeholder_is_called(name, dtype, sound, prove, tmp_path):
    with tf.Graph().as_default() as graph:
        detector = SmallDetector(trained=False)
        given = tf.compat.v1.placeholder(dtype, [None] if dtype == tf.string else [None, None, None, 3], name=name)
        read = {"tf_example": detector.of_examples, "encoded_image_string_tensor": detector.of_files}
        answer = read.get(name, lambda images: detector.of_pixels(tf.cast(images, tf.uint8)))(given)
        for output, value in answer.items():
            tf.identity(value, output)
    (tmp_path / "frozen.pb").write_bytes(graph.as_graph_def().SerializeToString())
    check = prove(sound, against=tmp_path / "frozen.pb")["against"]
    assert check.status == "passed", check.detail


@pytest.mark.parametrize("other", ["frozen_inference_graph.pb", "saved_model"])
def test_the_original_answers_the_same(other, sound, original, prove):
    check = prove(sound, against=original / other)["against"]
    assert check.status == "passed", check.detail
    outputs = check.numbers["cases"]["an artificial picture"]["outputs"]
    assert set(outputs) == set(SmallDetector().of_pixels(sample_images()))
    assert all(output["largest"] <= output["tolerance"] for output in outputs.values())
    assert "detection_boxes: largest" in check.detail


def test_another_model_is_told_from_it(sound, prove):
    def other(pictures):
        answer = {name: value.numpy() for name, value in SmallDetector().of_pixels(pictures).items()}
        answer["detection_boxes"][1, 0, 2] += 0.01
        return answer | {"detection_masks": np.zeros((2, 16, 3, 3))}

    check = prove(sound, against=other)["against"]
    assert check.status == "failed"
    assert "image 1: detection 0" in check.detail
    assert "detection_boxes: largest 1.0e-02" in check.detail
    assert "only there: detection_masks" in check.detail
    assert prove(sound, against=other, tolerances=Tolerances(boxes=0.02))["against"].status == "passed"
    assert "KeyError" in prove(sound, against=lambda pictures: {}["x"])["against"].detail


@pytest.mark.parametrize(
    ("against", "said"), [("nowhere", "no such file or folder"), (__file__, "neither a SavedModel folder nor")]
)
def test_something_that_cannot_be_compared_with_is_refused(against, said, sound):
    with pytest.raises(SavedModelError, match=said):
        verify_saved_model(sound, against=against)


def test_a_file_that_is_no_frozen_graph_fails_the_check(sound, prove, tmp_path):
    (tmp_path / "other.pb").write_bytes(b"\x07nonsense")
    check = prove(sound, against=tmp_path / "other.pb")["against"]
    assert check.status == "failed"
    assert "not a frozen graph" in check.detail


def test_an_output_without_the_batch_fails(prove, tmp_path):
    def serving(detector, inputs):
        return detector.of_pixels(inputs) | {
            "anchors": detector.boxes + 0,
            "image_shape": tf.reduce_mean(detector.boxes),
        }

    report = prove(write(tmp_path / "saved_model", serving))
    assert report["signature"].numbers["problems"] == [
        "serving_default: anchors is float32 [16, 4], its first dimension is not the batch",
        "serving_default: image_shape is float32 [], its first dimension is not the batch",
    ]
    assert "serving_default: anchors is [16, 4] for 2 images" in report["batch"].numbers["problems"]


def test_missing_outputs_and_other_dtypes_and_names_fail(prove, tmp_path):
    def serving(detector, inputs):
        answer = detector.of_pixels(inputs)
        del answer["num_detections"]
        return answer | {"detection_classes": tf.cast(answer["detection_classes"], tf.int64)}

    report = prove(write(tmp_path / "saved_model", serving, tf.TensorSpec([None, None, None, 3], tf.uint8, "picture")))
    assert report["signature"].status == "failed"
    problems = report["signature"].numbers["problems"]
    assert "serving_default has no num_detections" in problems
    assert "serving_default: detection_classes is int64, not float32" in problems
    assert "serving_default takes picture, not one of inputs or input_tensor" in problems


def test_a_batch_that_answers_otherwise_than_its_pictures_fails(prove, tmp_path):
    def serving(detector, inputs):
        answer = detector.of_pixels(inputs)
        place = tf.cast(tf.range(tf.shape(inputs)[0]), tf.float32)
        return answer | {"detection_boxes": answer["detection_boxes"] + 1e-3 * place[:, None, None]}

    report = prove(write(tmp_path / "saved_model", serving))
    assert report["batch"].status == "failed"
    assert "image 1: detection 0" in report["batch"].detail
    assert report["tf2_loader"].status == report["signature"].status == "passed"


def test_a_batch_is_forgiven_the_noise_of_the_model_itself(prove, tmp_path):
    def serving(detector, inputs):
        answer = detector.of_pixels(inputs)
        noise = 1e-4 * tf.cast(tf.shape(inputs)[0] - 1, tf.float32)  # of any batch, whatever else is in it
        return answer | {"detection_boxes": answer["detection_boxes"] + noise}

    report = prove(write(tmp_path / "saved_model", serving))
    assert report["batch"].status == "passed"
    assert report["batch"].numbers["noise"] == pytest.approx(1e-4, rel=0.01)
    assert "the same picture twice in a batch moves by 1.0e-04" in report["batch"].detail
    assert report["tf1_loader"].status == report["cpp_loader"].status == "passed"


def test_another_signature_that_answers_otherwise_fails(prove, tmp_path):
    def swapped(detector, inputs):
        return detector.of_pixels(inputs[..., ::-1])

    detector = SmallDetector()
    signatures = {
        name: tf.function(lambda inputs, f=function: f(detector, inputs), input_signature=[PIXELS])
        for name, function in {"serving_default": SmallDetector.of_pixels, "image_tensor": swapped}.items()
    }
    tf.saved_model.save(detector, str(tmp_path / "saved_model"), signatures=signatures)
    report = prove(tmp_path / "saved_model")
    assert report["other_signatures"].status == "failed"
    assert report["other_signatures"].detail.startswith("image_tensor: ")


def test_what_was_saved_is_not_what_was_in_memory(sound, prove):
    check = prove(sound, in_memory=lambda pictures: SmallDetector().of_pixels(pictures // 2))["in_memory"]
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


def test_a_model_that_kills_its_process_fails_and_nothing_else_suffers(prove, sound, tmp_path):
    def abort():
        return tf.raw_ops.Abort(error_msg="it falls over", exit_without_error=False)

    report = prove(write_with(tmp_path / "saved_model", abort))
    for name in ("tf2_loader", "tf1_loader", "cpp_loader"):
        assert report[name].status == "failed"
        assert report[name].detail.startswith("the process was ended by SIGABRT"), report[name].detail
        assert "it falls over" in report[name].detail
    assert report["files"].status == report["signature"].status == "passed"
    assert prove(sound).passed


def test_a_model_that_hangs_is_given_up(tmp_path):
    def forever():
        return tf.while_loop(lambda i: i >= 0, lambda i: tf.math.floormod(i + 1, 7), [tf.constant(0)])[0]

    folder = write_with(tmp_path / "saved_model", forever)
    worker = Worker("c_api", tmp_path, timeout_s=1.0)
    reply = worker.ask("cpp_loader", str(folder), []).result()
    worker.close()
    assert reply.problem == "no answer within 1 s"


def test_where_there_is_no_c_api_the_tf2_loader_asks_the_other_signatures(sound, tmp_path, monkeypatch):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").touch()
    with WorkerProcesses() as workers:
        workers.c_api.close()
        monkeypatch.syspath_prepend(tmp_path)
        workers.c_api = Worker("c_api", tmp_path, timeout_s=60.0)
        report = verify_saved_model(sound, workers=workers)
    assert report.passed
    assert report["cpp_loader"].status == "skipped"
    assert "libtensorflow" in report["cpp_loader"].detail
    assert report["other_signatures"].status == "passed"


def test_a_broken_off_verification_leaves_no_process(tmp_path):
    worker = Worker("c_api", tmp_path, timeout_s=60.0)
    waiting = [worker.ask("cpp_loader", "nowhere", []) for _ in range(3)]
    worker.close()
    assert worker._process.poll() is not None
    assert all(each.cancelled() or each.result().problem for each in waiting)


def test_a_model_that_no_loader_takes_fails(broken, prove):
    path = broken / "saved_model.pb"
    path.write_bytes(path.read_bytes().replace(b"TopKV2", b"TopKV7"))
    report = prove(broken)
    for name in ("tf2_loader", "tf1_loader", "cpp_loader"):
        assert report[name].status == "failed"
        assert "TopKV7" in report[name].detail
    with pytest.raises(VerificationError) as raised:
        report.raise_if_failed()
    assert len(str(raised.value).splitlines()) == 1


def test_a_cut_saved_model_pb_fails_the_files_and_skips_the_rest(broken):
    path = broken / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:5000])
    report = verify_saved_model(broken)
    assert statuses(report) == {name: "failed" if name == "files" else "skipped" for name in statuses(report)}
    assert "damaged" in report["files"].detail


def test_what_is_no_saved_model_is_refused(tmp_path):
    with pytest.raises(SavedModelError, match="no such folder"):
        verify_saved_model(tmp_path / "nowhere")
    with pytest.raises(SavedModelError, match=r"no saved_model\.pb"):
        verify_saved_model(tmp_path)
    (tmp_path / "saved_model.pbtxt").write_text("")
    with pytest.raises(UnsupportedError, match="not supported yet"):
        verify_saved_model(tmp_path)


def test_neither_the_caller_nor_the_cpp_loader_imports_tensorflow(sound):
    program = (
        "import sys; from unfreeze.verification import verify_saved_model; "
        "print(verify_saved_model(sys.argv[1]).passed, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(sound)], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
    load = (
        "import sys; from unfreeze.verification.worker import c_api_steps; c_api_steps(); "
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_program_is_read_without_tensorflow(sound):
    program = read_meta_graph(sound)
    assert set(program.signatures) == {
        "serving_default",
        "image_tensor",
        "float_image_tensor",
        "encoded_image_string_tensor",
        "tf_example",
    }
    serving = program.signatures["serving_default"]
    assert str(serving.inputs["inputs"]) == "uint8 [?, ?, ?, 3]"
    assert str(serving.outputs["detection_boxes"]) == "float32 [?, 16, 4]"
    assert program.tensorflow_version == tf.__version__
    assert 0 < program.constants_bytes < 20_000


def test_the_forms_of_a_picture_hold_the_same_pixels():
    pictures = sample_images(31, 45)
    strings = TensorInfo("x:0", "string", (None,))
    files, examples = proof_pictures.feeds(pictures, strings, None)
    for file, example, picture in zip(files, examples, pictures, strict=True):
        assert (np.asarray(Image.open(io.BytesIO(file))) == picture).all()
        features = tf.train.Example.FromString(example).features.feature
        assert features["image/encoded"].bytes_list.value == [file]
    assert proof_pictures.feeds(pictures, TensorInfo("x:0", "int64", (None,)), None) == []
    assert (pictures[1] == pictures[0][:, ::-1]).all()
    assert tensor_digest(sample_images()).sha256 == "d6f08ba8275eb5ec280c89fe28ed7cd042784de5a1a5041e890c4e6a3819a4b4"


def test_wire_reads_what_it_writes_and_refuses_what_is_cut():
    message = wire.field(1, b"key") + wire.field(15, b"x" * 300)
    assert [(number, bytes(value)) for number, value in wire.fields(message)] == [(1, b"key"), (15, b"x" * 300)]
    for end in (1, 3, len(message) - 1):
        with pytest.raises(ValueError, match="bytes"):
            list(wire.fields(message[:end]))
    with pytest.raises(ValueError, match="no field"):
        list(wire.fields(b"\x0f"))


def test_a_digest_tells_bytes_shapes_and_dtypes():
    zeros = np.zeros((2, 3), np.float32)
    assert tensor_digest(zeros) == tensor_digest(zeros.copy(order="F"))
    assert tensor_digest(zeros) != tensor_digest(zeros.reshape(3, 2))
    assert tensor_digest(-zeros) != tensor_digest(zeros)
    assert tensor_digest(b"a\0") != tensor_digest(b"a")
    assert tensor_digest(np.array([b"ab", b"c"], object)) != tensor_digest(np.array([b"a", b"bc"], object))
    assert tensor_digest(np.int64(3)).shape == ()


def test_a_quantized_number_is_told_by_the_integer_that_files_hold():
    integers = np.arange(6, dtype=np.uint8).reshape(2, 3)
    quantized = integers.view(tf.quint8.as_numpy_dtype)  # as checkpoints and constants are read
    assert quantized.dtype.names
    assert tensor_digest(quantized) == tensor_digest(integers)
    assert tensor_digest(quantized) != tensor_digest(integers.astype(np.int8))


def test_not_a_number_is_as_far_as_can_be():
    ours = np.array([1.0, np.nan], np.float32)
    assert furthest(ours, ours.copy()) == 0.0
    assert furthest(ours, np.array([1.0, 2.0], np.float32)) == np.inf
    assert furthest(np.array([1.0, 2.0], np.float32), ours) == np.inf
    assert furthest(ours[:1], np.array([1.5], np.float32)) == 0.5


def test_a_report_says_what_failed_and_escapes_nothing():
    report = Report(Path("x"), (Check("files", "failed", "[red]gone[/red]"), Check("weights", "skipped", "why")))
    assert not report.passed
    assert "[red]gone[/red]" in report.table()
    with pytest.raises(VerificationError, match="failed 1 of 2 checks"):
        report.raise_if_failed()


# ---- detections


def answer(scores, boxes=None, classes=None, count=None, **outputs):
    """Make an answer to one image."""
    scores = np.asarray(scores, np.float32)
    rows = len(scores)
    boxes = np.tile(np.linspace(0.1, 0.5, rows, dtype=np.float32)[:, None], 4) if boxes is None else boxes
    made = {
        "detection_scores": scores,
        "detection_boxes": np.asarray(boxes, np.float32),
        "detection_classes": np.ones(rows, np.float32) if classes is None else np.asarray(classes, np.float32),
        "num_detections": np.float32(np.count_nonzero(scores) if count is None else count),
    }
    return {name: np.asarray(value)[None] for name, value in (made | outputs).items()}


def reordered(given, order):
    """Put the rows of an answer into another order."""
    return {name: value if value.ndim == 1 else value[:, order] for name, value in given.items()}


def test_equal_answers_match():
    given = answer([0.9, 0.5, 0.0], detection_masks=np.random.rand(3, 5, 5))
    found = compare_detections(given, given)
    assert found.ok
    assert (found.detections, found.matched, found.swapped, found.cut) == (2, 2, 0, 0)
    assert found.largest() == 0


def test_near_ties_may_stand_in_another_order_and_take_their_masks_along():
    ours = answer([0.9, 0.50003, 0.5, 0.0], detection_masks=np.arange(4 * 9.0).reshape(4, 3, 3))
    theirs = reordered(ours, [0, 2, 1, 3])
    found = compare_detections(ours, theirs)
    assert found.ok, found.problems
    assert (found.matched, found.swapped) == (3, 2)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (answer([0.9, 0.6, 0.0]), "detection 1 .* has no match: the nearest has score 0.60000"),
        (answer([0.9, 0.5, 0.0], classes=[1, 2, 1]), "detection 1 .* has no match: none is near"),
        (answer([0.9, 0.5, 0.0], boxes=np.full((3, 4), 0.1)), r"detection 1 .* box \(0.1000"),
        (answer([0.9, 0.0, 0.0]), "2 detections on one side, 1 on the other"),
        (answer([0.9, 0.5, 0.3], count=2), "scores differ after the last detection"),
        (answer([0.9, np.nan, 0.0], count=2), "detection 1 .* has no match"),
    ],
)
def test_what_differs_is_told(theirs, said):
    found = compare_detections(answer([0.9, 0.5, 0.0]), theirs)
    assert not found.ok
    assert any(re.search(said, problem) for problem in found.problems), found.problems


def test_a_tie_with_the_last_score_kept_may_be_cut_otherwise():
    boxes = np.random.default_rng(0).random((4, 4))
    ours, theirs = answer([0.9, 0.5], boxes[:2]), answer([0.9, 0.50004], boxes[[0, 3]])
    found = compare_detections(ours, theirs)
    assert found.ok, found.problems
    assert (found.matched, found.cut) == (1, 1)
    padded = compare_detections(answer([0.9, 0.5, 0.0], boxes[:3]), answer([0.9, 0.50004, 0.0], boxes[[0, 3, 2]]))
    assert not padded.ok
    assert not compare_detections(answer([0.9, 0.5], boxes[:2]), answer([0.9, 0.52], boxes[[0, 3]])).ok


def test_raw_rows_may_stand_in_another_order_as_whole_rows_only():
    random = np.random.default_rng(0)
    boxes, scores = random.random((7, 4)), random.random((7, 3))
    order = [0, 3, 2, 1, 4, 6, 5]
    ours = answer([0.9], raw_detection_boxes=boxes, raw_detection_scores=scores)
    same = answer([0.9], raw_detection_boxes=boxes[order], raw_detection_scores=scores[order])
    torn = answer([0.9], raw_detection_boxes=boxes[order], raw_detection_scores=scores)
    assert compare_detections(ours, same).ok
    assert not compare_detections(ours, torn).ok


def test_other_outputs_are_held_to_their_scale_and_shape():
    ours = answer([0.9], features=np.array([1000.0, 1.0]))
    assert compare_detections(ours, answer([0.9], features=np.array([1000.05, 1.0]))).ok
    assert not compare_detections(ours, answer([0.9], features=np.array([1000.2, 1.0]))).ok
    assert not compare_detections(ours, answer([0.9], features=np.array([np.nan, 1.0]))).ok
    assert "on one side" in compare_detections(ours, answer([0.9], features=np.zeros(3))).problems[0]
    assert compare_detections({"a": np.zeros(1)}, {"b": np.zeros(1)}).problems
    names = np.array([b"one"], object)
    assert compare_detections({"a": names}, {"a": names.copy()}).ok
    assert not compare_detections({"a": names}, {"a": np.array([b"two"], object)}).ok
