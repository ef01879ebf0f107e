"""Small models, a server for them in this process, and requests: shared by the tests of the server."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from unfreeze.server.process import Server
from unfreeze.server.settings import Settings

LONG_S = 60.0  # the timeout of what must happen, even on a machine under load
POLL_S = 0.02


def write_half_plus(folder: Path, plus: float) -> None:
    """TensorFlow Serving's own example: x / 2 + plus, as predict, regress and classify, in TF1's form."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        half, added = v1.Variable(0.5), v1.Variable(plus)
        x = v1.placeholder(tf.float32, [None, 1], "x")
        plain = v1.placeholder(tf.float32, None, "plain")
        examples = v1.placeholder(tf.string, [None], "examples")
        parsed = v1.io.parse_example(examples, {"x": v1.io.FixedLenFeature([1], tf.float32)})["x"]
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.builder.SavedModelBuilder(str(folder))
        info = v1.saved_model.build_tensor_info
        build = v1.saved_model.build_signature_def
        scores = parsed * half + added
        signatures = {
            "serving_default": build(
                {"x": info(plain)}, {"y": info(plain * half + added)}, "tensorflow/serving/predict"
            ),
            "tensorflow/serving/regress": build(
                {"inputs": info(examples)}, {"outputs": info(scores)}, "tensorflow/serving/regress"
            ),
            "classify_x_to_y": build(
                {"inputs": info(examples)}, {"scores": info(scores)}, "tensorflow/serving/classify"
            ),
        }
        assert x is not None
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


class Shapes(tf.Module):
    """Signatures with inputs and outputs of several types; the output `rows` is the size of the batch."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "tag"),
            tf.TensorSpec([None, None], tf.float32, "signal"),
            tf.TensorSpec([None, 2, 2], tf.int32, "sensor"),
        ]
    )
    def several(self, tag: tf.Tensor, signal: tf.Tensor, sensor: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "name_bytes": tag,
            "text": tf.strings.join([tag, "!"]),
            "sum": tf.reduce_sum(signal, axis=1),
            "doubled": sensor * 2,
            "rows": tf.fill([tf.shape(tag)[0]], tf.shape(tag)[0]),
        }

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, "x")])
    def plain(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def odd(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scalar": tf.reduce_sum(x), "y": x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.bool, "x")])
    def booleans(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.logical_not(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def images(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        sizes = tf.map_fn(
            lambda encoded: tf.shape(tf.io.decode_image(encoded, channels=3, expand_animations=False)),
            image_bytes,
            tf.int32,
        )
        return {"size": sizes}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "seconds")])
    def slow(self, seconds: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes for a time that grows with `seconds`, without Python."""
        size = tf.cast(seconds[0] * 1000.0, tf.int32)
        step = lambda number, x: (number + 1, tf.linalg.matmul(x, x) * 1e-3)
        _, x = tf.while_loop(lambda number, x: number < size, step, [0, tf.ones([64, 64])])
        return {"y": seconds + 0.0 * x[0, 0]}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, "path")])
    def writes(self, path: tf.Tensor) -> dict[str, tf.Tensor]:
        """Writes its path into that file; if it is a pipe, as soon as a reader opens the other end."""
        with tf.control_dependencies([tf.io.write_file(path, path)]):
            return {"path": tf.identity(path)}


def write_shapes(folder: Path) -> None:
    module = Shapes()
    signatures = {name: getattr(module, name) for name in ("several", "odd", "booleans", "images", "slow", "writes")}
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.plain, **signatures})


@contextmanager
def serving(config: Any, **settings: Any) -> Iterator[Server]:
    """Runs a server on free ports, with a deadline that is too long to be reached unless a test sets another one."""
    options = {"port": 0, "rest_api_port": 0, "rest_api_timeout_in_ms": int(2000 * LONG_S), **settings}
    running = Server(Settings(models=config, **options))
    running.start()
    try:
        yield running
    finally:
        running.stop()


def config_of(**base_paths: Path) -> Any:
    config = ModelServerConfig()
    for name, path in base_paths.items():
        config.model_config_list.config.add(name=name, base_path=str(path), model_platform="tensorflow")
    return config


def send_request(
    running: Server, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Returns (status, parsed JSON) of one request; a body that is not bytes is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", running.rest_port or 0, timeout=2 * LONG_S)
    try:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def predict(running: Server, body: Any, path: str = "/v1/models/half:predict") -> tuple[int, Any]:
    return send_request(running, "POST", path, body)


def png(height: int, width: int) -> bytes:
    encoded: bytes = tf.io.encode_png(np.zeros((height, width, 3), np.uint8)).numpy()
    return encoded


def wait_until(condition: Callable[[], Any], description: str) -> None:
    """Waits for a condition. It counts attempts rather than time, of which a machine that was paused has lost some."""
    for _ in range(int(LONG_S / POLL_S)):
        if condition():
            return
        time.sleep(POLL_S)
    raise AssertionError(f"not within {LONG_S:g} s: {description}")


def in_parallel(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Returns the results of `work` in threads that start at the same time; raises what one of them raised."""
    start = threading.Barrier(count)

    def run(index: int) -> Any:
        start.wait(LONG_S)
        return work(index)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


class Blocker:
    """Calls wait in `block` until `released` is set."""

    def __init__(self) -> None:
        self.calls = threading.Semaphore(0)
        self.released = threading.Event()

    def wait_for_call(self) -> None:
        assert self.calls.acquire(timeout=LONG_S), "nothing called"

    def block(self) -> None:
        self.calls.release()
        assert self.released.wait(2 * LONG_S), "the blocker was not released"


@contextmanager
def blocked(running: Server, name: str, signature: str = "serving_default") -> Iterator[Blocker]:
    """Blocks the calls of a model's signature until `released` is set, or until the end of the `with` block."""
    loaded: Any = running.engine.models.find(name).loaded_model()  # a SavedModel, which has functions
    functions = loaded.functions
    call, blocker = functions[signature], Blocker()

    def blocked_call(**inputs: Any) -> Any:
        blocker.block()
        return call(**inputs)

    functions[signature] = blocked_call
    try:
        yield blocker
    finally:
        blocker.released.set()
        functions[signature] = call
