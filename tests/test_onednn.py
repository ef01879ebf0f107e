"""Tests which weights depend on the request, and in which processes oneDNN may keep those of the first request."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import tensorflow as tf

from unfreeze import onednn
from unfreeze.cached_weights import request_dependent_weights, request_dependent_weights_of_graph
from unfreeze.exporting.export import export
from unfreeze.targets.kserve import package_kserve
from unfreeze.targets.sagemaker import package_sagemaker
from unfreeze.targets.tensorflow_serving import package_tensorflow_serving

IMAGES = tf.TensorSpec([None, 8, 8, 3], name="images")
FILTER = tf.constant(0.1, shape=[3, 3, 3, 3])
BOTH = {onednn.ENABLE: "1", onednn.ASSUME_FROZEN_WEIGHTS: "1"}


@pytest.fixture(autouse=True)
def no_onednn_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(onednn.ENABLE, raising=False)  # see conftest.py


def conv(x: tf.Tensor, kernel: Any) -> tf.Tensor:
    return tf.nn.conv2d(x, kernel, 1, "SAME")


def from_input(x: tf.Tensor) -> tf.Tensor:
    """Returns a filter `[3, 3, 3, 3]` that depends on the images."""
    return FILTER * tf.reduce_mean(x)


class Weights(tf.Module):
    def __init__(self) -> None:
        self.kernel = tf.Variable(FILTER)
        self.stacked = tf.Variable(tf.stack([FILTER, 2 * FILTER]))
        self.matrix = tf.Variable(tf.ones([8, 8]))


def written(folder: Path, network: Callable[[tf.Tensor, Weights], tf.Tensor]) -> Path:
    """Writes a SavedModel of a network."""
    weights = Weights()
    call = tf.function(lambda images: {"y": network(images, weights)}, input_signature=[IMAGES], autograph=False)
    tf.saved_model.save(weights, str(folder), signatures={"serving_default": call})
    return folder


@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def conv_in_function(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return conv(x, kernel)


def repeated(x: tf.Tensor, kernel: tf.Tensor, changes: bool) -> tf.Tensor:
    """Returns the result of a loop whose filter stays the same, or changes in each step."""

    def body(step: tf.Tensor, y: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return step + 1, conv(y, kernel), 2 * kernel if changes else kernel

    return tf.while_loop(lambda step, y, kernel: step < 3, body, (0, x, kernel))[1]


def matrix_product(x: tf.Tensor) -> tf.Tensor:
    """Returns a constant matrix times pixels, as in interpolation: `[8, 8 * 3]` of the first image."""
    return tf.matmul(tf.ones([8, 8]), tf.reshape(x[0], [8, 24]))


FROZEN: dict[str, Callable[[tf.Tensor, Weights], tf.Tensor]] = {
    "a constant": lambda x, w: conv(x, FILTER),
    "a variable": lambda x, w: conv(x, w.kernel),
    "computed from a variable": lambda x, w: conv(x, tf.reshape(w.stacked[1] * 2, [3, 3, 3, 3])),
    "a variable in a function": lambda x, w: conv_in_function(x, w.kernel),
    "the same variable twice": lambda x, w: conv_in_function(conv_in_function(x, w.kernel), w.kernel),
    "kept by a loop": lambda x, w: repeated(x, tf.identity(w.kernel), changes=False),
    "of a branch": lambda x, w: tf.cond(
        tf.reduce_mean(x) > 0, lambda: conv(x, w.kernel), lambda: conv(x, 2 * w.kernel)
    ),
    "in map_fn": lambda x, w: tf.map_fn(lambda image: conv(image[tf.newaxis], w.kernel)[0], x),
    "interpolation": lambda x, w: tf.nn.relu(matrix_product(x)) * 2,
    "interpolation, then means": lambda x, w: conv(
        tf.reshape(matrix_product(x), [1, 8, 8, 3]) + tf.constant([1.0, 2.0, 3.0]), w.kernel
    ),
    "a matrix of variables with a bias": lambda x, w: tf.nn.bias_add(
        tf.matmul(tf.reshape(x, [-1, 8]), w.matrix), tf.ones([8])
    ),
    "a product of a batch": lambda x, w: tf.nn.bias_add(tf.matmul(x, x, transpose_b=True), tf.ones([8])),
    "behind a scatter": lambda x, w: conv(tf.scatter_nd(tf.cast(x[:, 0, 0, :1], tf.int32), x, [4, 8, 8, 3]), w.kernel),
    "a transposed convolution": lambda x, w: tf.nn.conv2d_transpose(x, w.kernel, tf.shape(x), 1),
    "a separable convolution": lambda x, w: tf.nn.depthwise_conv2d(x, w.kernel, [1, 1, 1, 1], "SAME"),
}

# The operation that is reported, and the network.
CHANGING: dict[str, tuple[str, Callable[[tf.Tensor, Weights], tf.Tensor]]] = {
    "of the input": ("Conv2D ", lambda x, w: conv(x, from_input(x))),
    "through a function": ("Conv2D Conv2D in function ", lambda x, w: conv_in_function(x, from_input(x))),
    "a function with two filters": (
        "Conv2D Conv2D in function ",
        lambda x, w: conv_in_function(conv_in_function(x, 3 * w.kernel), 2 * w.kernel),
    ),
    "a loop that changes it": ("Conv2D ", lambda x, w: repeated(x, tf.identity(w.kernel), changes=True)),
    "a loop that gets it": ("Conv2D ", lambda x, w: repeated(x, from_input(x), changes=False)),
    "a branch": ("Conv2D ", lambda x, w: tf.cond(
        tf.reduce_mean(x) > 0, lambda: conv(x, w.kernel), lambda: conv(x, from_input(x))
    )),
    "chosen by a branch": ("Conv2D ", lambda x, w: conv(x, tf.cond(
        tf.reduce_mean(x) > 0, lambda: tf.identity(w.kernel), lambda: 2 * w.kernel
    ))),
    "map_fn over filters": ("Conv2D ", lambda x, w: tf.map_fn(lambda kernel: conv(x, kernel), tf.identity(w.stacked))),
    "random": ("Conv2D ", lambda x, w: conv(x, tf.random.normal([3, 3, 3, 3]))),
    "depthwise": ("DepthwiseConv2dNative ", lambda x, w: tf.nn.depthwise_conv2d(
        x, from_input(x), [1, 1, 1, 1], "SAME"
    )),
    "Conv3D": ("Conv3D ", lambda x, w: tf.nn.conv3d(x[:, tf.newaxis], from_input(x)[tf.newaxis], [1] * 5, "SAME")),
    "transposed": ("Conv2DBackpropInput ", lambda x, w: tf.nn.conv2d_transpose(x, from_input(x), tf.shape(x), 1)),
    "product and bias": ("MatMul ", lambda x, w: tf.nn.relu(tf.nn.bias_add(matrix_product(x), tf.ones([24])))),
    "product and vector": ("MatMul ", lambda x, w: tf.ones([24]) + tf.identity(matrix_product(x))),
    "a variable that a request writes": ("Conv2D ", lambda x, w: conv(x, w.kernel.assign(from_input(x)))),
}  # fmt: skip


@pytest.mark.parametrize("case", FROZEN)
def test_weights_that_are_the_same_in_every_request(case: str, tmp_path: Path) -> None:
    assert request_dependent_weights(written(tmp_path, FROZEN[case])) is None


@pytest.mark.parametrize("case", CHANGING)
def test_weights_that_depend_on_the_request(case: str, tmp_path: Path) -> None:
    expected, network = CHANGING[case]
    operation = request_dependent_weights(written(tmp_path, network))
    assert operation is not None
    assert operation.startswith(expected)


@pytest.mark.parametrize("changes", [False, True])
def test_tensorflow_1_loops(changes: bool) -> None:
    """Enter, Merge, Switch, NextIteration, Exit, as in frozen graphs."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [1, 8, 8, 3], "x")
        v1.disable_control_flow_v2()
        try:
            y = repeated(x, v1.get_variable("kernel", initializer=FILTER.numpy(), use_resource=False), changes)
        finally:
            v1.enable_control_flow_v2()
        assert {"Enter", "Merge", "NextIteration"} <= {operation.type for operation in graph.get_operations()}
    operation = request_dependent_weights_of_graph(graph.as_graph_def(), [(["x:0"], [y.name])])
    assert operation == ("Conv2D while/Conv2D" if changes else None)


@pytest.mark.parametrize(
    ("generation", "name"),
    [
        ("tf1", "ssd_mobilenet_v2_coco"),
        ("tf1", "v_mrcnn_pad_matmul"),
        ("tf1", "v_context_rcnn_self_attention"),
        ("tf2", "v_efficientdet_b0"),
        ("tf2", "v_center_deepmac_cond_inst"),
    ],
)
def test_exports_have_no_weights_that_depend_on_the_request(generation: str, name: str, tmp_path: Path) -> None:
    prefix = reference.write_checkpoint(reference.golden(name, generation), tmp_path)
    exported = export(prefix, output_directory=tmp_path / "out", verify=False)
    assert request_dependent_weights(exported.saved_model) is None


def test_malformed_node_is_reported() -> None:
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="x", op="Placeholder")
    graph.node.add(name="y", op="Switch")
    graph.node.add(name="z", op="Merge", input=["y", "absent"])
    assert request_dependent_weights_of_graph(graph, [(["x:0"], ["z:0"])]) == "Switch y"


def run(program: str, *arguments: object, **environment: str) -> Any:
    """Returns what a program prints as JSON in a new process."""
    inherited = {name: value for name, value in os.environ.items() if name not in BOTH}
    command = [sys.executable, "-c", f"import json, os, sys\n{program}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**inherited, **environment})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


PRINT = f"print(json.dumps([os.environ.get(name) for name in {tuple(BOTH)!r}]))\n"


def detector(folder: Path, kernel: Callable[[tf.Tensor], tf.Tensor]) -> Path:
    """Writes a detector whose only score is a convolution of the image with this filter."""

    def detect(images: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.cast(images, tf.float32) / 255
        scores = tf.reduce_mean(conv(pixels, kernel(pixels)), axis=[1, 2, 3])[:, tf.newaxis]
        box = tf.tile([[[0.0, 0.0, 1.0, 1.0]]], [tf.shape(images)[0], 1, 1])
        return {"detection_boxes": box, "detection_scores": scores, "detection_classes": tf.ones_like(scores)}

    call = tf.function(detect, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)], autograph=False)
    tf.saved_model.save(tf.Module(), str(folder), signatures={"image_tensor": call, "serving_default": call})
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector(tmp_path_factory.mktemp("good") / "1", lambda x: FILTER)


@pytest.fixture(scope="module")
def other_good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector(tmp_path_factory.mktemp("other") / "1", lambda x: FILTER / 2)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector(tmp_path_factory.mktemp("bad") / "1", from_input)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "a.png"
    tf.io.write_file(str(path), tf.io.encode_png(tf.fill([16, 16, 3], tf.constant(200, tf.uint8))))
    return path


def test_library_sets_no_variable(good: Path, image: Path) -> None:
    program = "import unfreeze\nunfreeze.predict(sys.argv[1], sys.argv[2], draw=False)\n" + PRINT
    assert run(program, good, image) == [None, None]


COMMAND = f"""
from unfreeze.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert not done.code
{PRINT}"""


def test_command_that_runs_a_model_sets_both(good: Path, image: Path) -> None:
    assert run(COMMAND, "predict", good, image, "--no-draw") == ["1", "1"]


def test_second_is_not_set_for_a_model_that_does_not_allow_it(bad: Path, image: Path) -> None:
    assert run(COMMAND, "predict", bad, image, "--no-draw") == ["1", None]


@pytest.mark.parametrize("setting", [{onednn.ENABLE: "0"}, {onednn.ASSUME_FROZEN_WEIGHTS: "0"}])
def test_settings_of_the_user_stay(setting: dict[str, str], good: Path, image: Path) -> None:
    expected = [setting.get(onednn.ENABLE, "1"), setting.get(onednn.ASSUME_FROZEN_WEIGHTS)]
    assert run(COMMAND, "predict", good, image, "--no-draw", **setting) == expected


LOAD = """
from unfreeze import onednn
onednn.enable_for_command()
from unfreeze.server import loading
import numpy as np
printed = []
for folder in sys.argv[1:]:
    try:
        model = loading.load(folder)
        images = [np.full([1, 16, 16, 3], value, np.uint8) for value in (100, 200)]
        printed += [[float(model.run("", {name: image})["detection_scores"][0, 0]) for image in images]
                    for name in model.signature_def("").inputs]
    except Exception as error:
        printed.append(f"{type(error).__name__} {error}")
print(json.dumps([printed, os.environ.get(onednn.ASSUME_FROZEN_WEIGHTS)]))
"""


def test_server_rejects_a_model_with_request_dependent_weights(good: Path, other_good: Path, bad: Path) -> None:
    """A version with other weights uses its own."""
    (first, second, error, again), value = run(LOAD, good, other_good, bad, good)
    assert value == "1"
    assert second == pytest.approx([score / 2 for score in first])
    assert again == first
    assert re.sub(r"__inference_detect_\d+", "detect", error) == (
        f"StatusError FAILED_PRECONDITION: {bad}: the weights of Conv2D Conv2D in function detect depend on the "
        "request, and with TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1, which is in effect in this process, the weights of the "
        "first request would be reused. Set TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=0."
    )


def test_variable_stays_unset_after_a_model_that_does_not_allow_it(good: Path, bad: Path) -> None:
    (changing, frozen), value = run(LOAD, bad, good)
    assert value is None
    assert changing[1] == pytest.approx(4 * changing[0], rel=1e-3)
    assert frozen[1] == pytest.approx(2 * frozen[0], rel=1e-3)
    assert run(LOAD, bad, good, **{onednn.ASSUME_FROZEN_WEIGHTS: "0"}) == [[changing, frozen], "0"]


def test_evaluate_rejects_a_frozen_graph_with_request_dependent_weights(good: Path, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        images = v1.placeholder(tf.uint8, [None, None, None, 3], "image_tensor")
        pixels = tf.cast(images, tf.float32)
        changing = tf.fill([3, 3, 3, 3], tf.reduce_mean(pixels))
        tf.identity(tf.reduce_mean(conv(pixels, changing), axis=[1, 2]), "detection_scores")
    (tmp_path / "frozen_inference_graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
    program = """
from unfreeze import onednn
onednn.enable_for_command()
from unfreeze.runtimes import find_model, load_model
load_model(find_model(sys.argv[1]))
try:
    load_model(find_model(sys.argv[2]))
except Exception as error:
    print(json.dumps(f"{type(error).__name__} {error}"))
"""
    printed = run(program, good, tmp_path / "frozen_inference_graph.pb")
    assert printed.startswith(f"SavedModelError {tmp_path}/frozen_inference_graph.pb: the weights of Conv2D Conv2D dep")


def environments(saved_model: Path, folder: Path) -> list[dict[str, str]]:
    """Returns the variables that `package` writes for each server."""
    yaml = pytest.importorskip("yaml")
    package_tensorflow_serving(saved_model, folder / "serving")
    package_kserve(saved_model, folder / "kserve")
    compose = yaml.safe_load((folder / "serving" / "compose.yaml").read_text())
    objects = {item["kind"]: item for item in yaml.safe_load_all((folder / "serving" / "kubernetes.yaml").read_text())}
    service = yaml.safe_load((folder / "kserve" / "inference-service.yaml").read_text())
    containers = [
        objects["Deployment"]["spec"]["template"]["spec"]["containers"][0],
        service["spec"]["predictor"]["model"],
    ]
    return [
        compose["services"]["serving"]["environment"],
        *({variable["name"]: variable["value"] for variable in container["env"]} for container in containers),
    ]


def test_packages_set_both(good: Path, tmp_path: Path) -> None:
    assert environments(good, tmp_path) == [BOTH] * 3
    packaged = package_kserve(good, tmp_path / "again")
    assert packaged.to_dict()["environment"] == BOTH
    assert "is not set" not in str(packaged)


def test_packages_omit_the_second_for_a_model_that_does_not_allow_it(bad: Path, tmp_path: Path) -> None:
    assert environments(bad, tmp_path) == [{onednn.ENABLE: "1"}] * 3
    packaged = package_kserve(bad, tmp_path / "again")
    last = str(packaged).splitlines()[-1]
    assert last.startswith("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS is not set: the weights of Conv2D Conv2D in function ")
    assert packaged.to_dict()["note"] == last


@pytest.mark.parametrize("frozen", [True, False])
def test_packages_for_sagemaker(frozen: bool, tmp_path: Path) -> None:
    def detect(files: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.map_fn(lambda file: tf.cast(tf.io.decode_png(file, 3), tf.float32), files, tf.float32)
        scores = tf.reduce_mean(conv(pixels, FILTER if frozen else from_input(pixels)), axis=[1, 2])
        boxes = tf.zeros([tf.shape(files)[0], 3, 4])
        return {"detection_boxes": boxes, "detection_scores": scores, "detection_classes": tf.ones_like(scores)}

    call = tf.function(detect, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"), signatures={"encoded_image_string_tensor": call})
    packaged = package_sagemaker(tmp_path / "m", tmp_path / "out", name="digits")
    container = json.loads((packaged.folder / "create-model.json").read_text())["PrimaryContainer"]
    expected = BOTH if frozen else {onednn.ENABLE: "1"}
    assert container["Environment"] == {"SAGEMAKER_TFS_DEFAULT_MODEL_NAME": "digits", **expected}


def test_workers_get_the_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BOTH:
        monkeypatch.delenv(name, raising=False)
    assert onednn.worker_environment() == {onednn.ENABLE: "1"}
    monkeypatch.setenv(onednn.ENABLE, "0")
    monkeypatch.setenv(onednn.ASSUME_FROZEN_WEIGHTS, "0")
    assert onednn.worker_environment() == {onednn.ENABLE: "0", onednn.ASSUME_FROZEN_WEIGHTS: "0"}
