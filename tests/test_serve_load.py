"""The server under load: batches, overload, deadlines, a version published meanwhile, and its end."""

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving import (
    LONG_S,
    Blocker,
    blocked,
    config_of,
    in_parallel,
    png,
    predict,
    send_request,
    serving,
    wait_until,
    write_half_plus,
    write_shapes,
)
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from unfreeze.errors import ConfigError
from unfreeze.server.batching import Batcher
from unfreeze.server.process import Server
from unfreeze.server.settings import METRICS_PATH, Batching, read_batching
from unfreeze.server.status import StatusCode, StatusError

SHAPES = "/v1/models/shapes:predict"
LONG_MILLIS = int(2000 * LONG_S)
LONG_MICROS = 1000 * LONG_MILLIS


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_half_plus(folder / "half" / "1", 2.0)
    write_half_plus(folder / "next", 3.0)
    write_shapes(folder / "shapes" / "1")
    return folder


@pytest.fixture(scope="module")
def batching(models: Path) -> Iterator[Server]:
    """A server with batches of four that wait until they are full: every test sends full ones."""
    settings = Batching(max_batch_size=4, batch_timeout_micros=LONG_MICROS, num_batch_threads=2)
    with serving(config_of(shapes=models / "shapes"), batching=settings) as running:
        yield running


def several(tag: str, length: int) -> dict[str, Any]:
    instance = {"tag": tag, "signal": [1.0] * length, "sensor": [[1, 2], [3, 4]]}
    return {"signature_name": "several", "instances": [instance]}


def test_waiting_requests_run_in_one_batch(batching: Server) -> None:
    responses = in_parallel(4, lambda index: predict(batching, several(f"t{index}", 3), SHAPES))
    rows = []
    for index, (code, document) in enumerate(responses):
        assert code == 200
        [prediction] = document["predictions"]
        assert prediction["text"] == f"t{index}!"
        rows.append(prediction["rows"])
    assert rows == [4, 4, 4, 4]


def test_only_equal_shapes_share_a_batch(batching: Server) -> None:
    responses = in_parallel(8, lambda index: predict(batching, several("t", 1 + index % 2), SHAPES))
    assert [document["predictions"][0]["sum"] for _, document in responses] == [1.0, 2.0] * 4
    assert [document["predictions"][0]["rows"] for _, document in responses] == [4] * 8


def test_broken_image_fails_only_its_own_request(batching: Server) -> None:
    def send(index: int) -> tuple[int, Any]:
        encoded = b"\x89PNG\r\n\x1a\nbroken" if index == 1 else png(4, 5)
        value = {"b64": base64.b64encode(encoded).decode()}
        return predict(batching, {"signature_name": "images", "instances": [value]}, SHAPES)

    responses = in_parallel(4, send)
    assert [code for code, _ in responses] == [200, 400, 200, 200]
    assert [document["predictions"] for code, document in responses if code == 200] == [[[4, 5, 3]]] * 3


def test_request_with_too_many_rows_is_rejected(batching: Server) -> None:
    code, document = predict(batching, {"instances": [[1.0]] * 5}, SHAPES)
    assert (code, document) == (400, {"error": "Task size 5 is larger than maximum input batch size 4"})


def test_outputs_that_cannot_be_split_are_an_error(batching: Server) -> None:
    code, document = predict(batching, {"signature_name": "odd", "inputs": [1.0] * 4}, SHAPES)
    assert code == 400
    assert "Batched output tensor has 0 dimensions" in document["error"]


def doubled(seen: list[Any]) -> Callable[[Any], dict[str, np.ndarray]]:
    def run(inputs: Any) -> dict[str, np.ndarray]:
        seen.append(inputs["x"])
        return {"y": inputs["x"] * 2}

    return run


def batcher(**settings: Any) -> Batcher:
    return Batcher(Batching(**{"num_batch_threads": 1, "batch_timeout_micros": LONG_MICROS, **settings}))


def call(batcher: Batcher, run: Any, x: np.ndarray, seconds: float = 2 * LONG_S) -> np.ndarray:
    return batcher.call("key", run, {"x": x}, time.monotonic() + seconds)["y"]


def rows_that_wait(batcher: Batcher) -> int:
    with batcher.changed:
        return sum(batch.rows for queue in batcher.queues.values() for batch in queue)


def test_batches_are_padded_to_allowed_sizes_and_run_at_close() -> None:
    seen: list[Any] = []
    waiting = batcher(max_batch_size=8, allowed_batch_sizes=(4, 8))
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(call, waiting, doubled(seen), np.array([[float(index)]])) for index in range(3)]
        wait_until(lambda: rows_that_wait(waiting) == 3, "three rows wait")
        waiting.close()
        assert [future.result(LONG_S).tolist() for future in futures] == [[[0.0]], [[2.0]], [[4.0]]]
    assert [value.shape for value in seen] == [(4, 1)]


def test_lengths_are_padded_if_enabled() -> None:
    seen: list[Any] = []
    waiting = batcher(max_batch_size=2, pad_variable_length_inputs=True)
    in_parallel(2, lambda index: call(waiting, doubled(seen), np.ones((1, 1 + index))))
    waiting.close()
    assert [value.shape for value in seen] == [(2, 2)]
    assert seen[0].sum() == 3.0


def test_large_request_is_split_if_enabled() -> None:
    seen: list[Any] = []
    waiting = batcher(max_batch_size=2, enable_large_batch_splitting=True, batch_timeout_micros=0)
    assert call(waiting, doubled(seen), np.arange(5.0)).tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    waiting.close()
    assert max(len(value) for value in seen) == 2


def test_full_queue_and_deadline_of_a_batch() -> None:
    blocker, seen = Blocker(), []

    def stuck(inputs: Any) -> dict[str, np.ndarray]:
        seen.append(inputs["x"])
        blocker.block()
        return {"y": inputs["x"]}

    waiting = batcher(max_batch_size=1, max_enqueued_batches=1, batch_timeout_micros=0)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(call, waiting, stuck, np.zeros(1))
        blocker.wait_for_call()  # the only thread has it, and the queue is empty
        with pytest.raises(StatusError) as late:
            call(waiting, stuck, np.ones(1), seconds=0.01)
        assert late.value.code is StatusCode.DEADLINE_EXCEEDED
        assert rows_that_wait(waiting) == 1
        with pytest.raises(StatusError) as full:
            call(waiting, stuck, np.ones(1))
        assert full.value.code is StatusCode.RESOURCE_EXHAUSTED
        blocker.released.set()
        assert first.result(LONG_S).tolist() == [0.0]
    waiting.close()
    assert len(seen) == 1  # the second one had timed out


def test_batching_parameters_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "batching.txt"
    path.write_text(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 100 } max_enqueued_batches { value: 5 }\n"
        "num_batch_threads { value: 3 } allowed_batch_sizes: [4, 8] pad_variable_length_inputs: true\n"
    )
    assert read_batching(path) == Batching(8, 100, 5, 3, (4, 8), True)
    for text, message in [
        ("max_batch_size: 8", "is not a BatchingParameters in text format"),
        ("nonsense { value: 8 }", "is not a BatchingParameters in text format"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: [4, 6]", "allowed_batch_sizes must increase and end with"),
        ("num_batch_threads { value: 0 }", r"num_batch_threads must be at least 1 \(found: 0\)"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_batching(path)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


SLOTS = 4


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory from /proc")
def test_overload_is_rejected_at_once_and_accepted_requests_are_answered(models: Path) -> None:
    settings = {"max_queued_requests": SLOTS, "num_run_threads": 1}
    with serving(config_of(shapes=models / "shapes"), **settings) as running:
        body = {"signature_name": "slow", "instances": [0.05]}
        assert predict(running, body, SHAPES)[0] == 200
        before = resident_bytes()
        with ThreadPoolExecutor(SLOTS) as threads:
            for _ in range(5):
                with blocked(running, "shapes", "slow") as blocker:
                    accepted = [threads.submit(predict, running, body, SHAPES) for _ in range(SLOTS)]
                    wait_until(lambda: running.engine.admission.requests == SLOTS, "every slot is used")
                    # None of the accepted requests can be answered meanwhile: a rejection waits for nothing.
                    rejected = in_parallel(4 * SLOTS, lambda index: predict(running, body, SHAPES))
                    assert {code for code, _ in rejected} == {429}
                    assert all("The server is full" in document["error"] for _, document in rejected)
                    assert not any(future.done() for future in accepted)
                    blocker.released.set()
                    responses = [future.result(2 * LONG_S) for future in accepted]
                assert [code for code, _ in responses] == [200] * SLOTS
                wait_until(lambda: running.engine.admission.requests == 0, "every slot is free again")
        assert running.engine.admission.rejected == 5 * 4 * SLOTS
        assert resident_bytes() - before < 100 * 2**20


def test_each_of_many_requests_is_answered_or_rejected(models: Path) -> None:
    settings = {"max_queued_requests": SLOTS, "num_run_threads": 1}
    with serving(config_of(shapes=models / "shapes"), **settings) as running:
        body = json.dumps({"signature_name": "slow", "instances": [0.05]}).encode()

        def send(index: int) -> Counter[int]:
            codes: Counter[int] = Counter()
            connection = http.client.HTTPConnection("127.0.0.1", running.rest_port or 0, timeout=2 * LONG_S)
            for _ in range(10):
                connection.request("POST", SHAPES, body)
                response = connection.getresponse()
                document = json.loads(response.read())
                codes[response.status] += 1
                assert ("predictions" in document) == (response.status == 200)
            connection.close()
            return codes

        counted = sum(in_parallel(4 * SLOTS, send), Counter[int]())
        assert set(counted) <= {200, 429}
        assert counted[200] >= SLOTS
        assert running.engine.admission.rejected == counted[429]
        wait_until(lambda: running.engine.admission.requests == 0, "every slot is free again")


def test_deadline_over_rest_and_grpc(models: Path) -> None:
    settings = {"rest_api_timeout_in_ms": 200, "num_run_threads": 1}
    with serving(config_of(shapes=models / "shapes"), **settings) as running:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "shapes"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones((1, 1), np.float32)))
        with (
            blocked(running, "shapes") as blocker,
            grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel,
        ):
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            called = False
            while not called:  # on a slow machine, the deadline may pass before the model is called
                late = predict(running, {"instances": [[1.0]]}, SHAPES)
                assert late == (504, {"error": "Timed out waiting for notification"})
                called = blocker.calls.acquire(blocking=False)
            with pytest.raises(grpc.RpcError) as caught:  # the late request still uses the only slot
                stub.Predict(request, timeout=0.2)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            blocker.released.set()
            response = stub.Predict(request, timeout=LONG_S)
        assert tf.make_ndarray(response.outputs["y"]).tolist() == [[2.0]]


INCOMPLETE = b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{"


def test_slow_body_frees_its_slot(models: Path) -> None:
    with serving(config_of(half=models / "half"), max_queued_requests=1, rest_api_timeout_in_ms=200) as running:
        with socket.create_connection(("127.0.0.1", running.rest_port or 0), LONG_S) as slow:
            slow.sendall(INCOMPLETE)
            assert slow.recv(1000).startswith(b"HTTP/1.1 504")
            wait_until(lambda: running.engine.admission.requests == 0, "its slot is free again")
        wait_until(lambda: predict(running, {"instances": [1.0]})[0] == 200, "another request has it")


def test_missing_body_frees_its_slot(models: Path) -> None:
    with serving(config_of(half=models / "half"), max_queued_requests=1) as running:
        with socket.create_connection(("127.0.0.1", running.rest_port or 0), LONG_S) as closed:
            closed.sendall(INCOMPLETE)
            wait_until(lambda: running.engine.admission.requests == 1, "the only slot is used")
            assert predict(running, {"instances": [1.0]})[0] == 429
        wait_until(lambda: running.engine.admission.requests == 0, "its slot is free again")  # long before its deadline
        assert predict(running, {"instances": [1.0]}) == (200, {"predictions": [2.5]})


@pytest.mark.parametrize("sent", [b"", b"POST /v1/models/half:predict HTTP/1.1\r\nHost: a\r\n"])
def test_incomplete_head_closes_the_connection(models: Path, sent: bytes) -> None:
    with (
        serving(config_of(half=models / "half"), rest_api_timeout_in_ms=300) as running,
        socket.create_connection(("127.0.0.1", running.rest_port or 0), LONG_S) as slow,
    ):
        slow.sendall(sent)
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 Request Timeout")
        assert slow.recv(1000) == b""


def test_incomplete_second_head_closes_the_connection(models: Path) -> None:
    head = b"GET /v1/models/half HTTP/1.1\r\nHost: a\r\n\r\n"
    with (
        serving(config_of(half=models / "half"), rest_api_timeout_in_ms=300) as running,
        socket.create_connection(("127.0.0.1", running.rest_port or 0), LONG_S) as slow,
    ):
        slow.sendall(head)
        assert slow.recv(10_000).startswith(b"HTTP/1.1 200 OK")
        slow.sendall(head[:20])
        wait_until(lambda: b"408 Request Timeout" in slow.recv(10_000), "the second request times out")


def test_publishing_a_version_under_load_fails_no_request(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "half", tmp_path / "half")
    settings = {"file_system_poll_wait_seconds": 0.1, "max_queued_requests": 32}
    with serving(config_of(half=tmp_path / "half"), **settings) as running:
        ended = threading.Event()

        def send(index: int) -> list[float]:
            predictions = []
            while not ended.is_set():
                code, document = predict(running, {"instances": [1.0]})
                assert code == 200, document
                predictions += document["predictions"]
            code, document = predict(running, {"instances": [1.0]})
            return [*predictions, *document["predictions"]]

        def publish() -> None:
            for number in range(2, 5):
                shutil.copytree(models / "next", tmp_path / "staged")
                (tmp_path / "staged").rename(tmp_path / "half" / str(number))
                wait_until(lambda number=number: predict_version(running) == number, f"version {number} responds")

        with ThreadPoolExecutor(6) as threads:
            sending = [threads.submit(send, index) for index in range(6)]
            try:
                publish()
            finally:
                ended.set()
            results = [future.result(2 * LONG_S) for future in sending]
        for predictions in results:
            assert predictions == sorted(predictions)  # the old version until the new one responds, never back
            assert predictions[-1] == 3.5


def predict_version(running: Server) -> int:
    _, document = send_request(running, "GET", "/v1/models/half")
    return max(int(status["version"]) for status in document["model_version_status"] if status["state"] == "AVAILABLE")


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "unfreeze", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM ends a process at once on Windows")
def test_shutdown_answers_accepted_requests(models: Path, tmp_path: Path) -> None:
    port, pipe = free_port(), tmp_path / "pipe"
    os.mkfifo(pipe)
    flags = ["--model_name=shapes", f"--rest_api_port={port}", "--port=0", f"--rest_api_timeout_in_ms={LONG_MILLIS}"]
    running = command(str(models / "shapes"), *flags)

    def waiting() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{METRICS_PATH}", timeout=LONG_S) as page:
            return "\nunfreeze_requests_waiting 1\n" in page.read().decode()

    def closed() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), LONG_S).close()
        except OSError:
            return True
        return False

    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "serving shapes [1]\n"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * LONG_S)
        connection.request("POST", SHAPES, json.dumps({"signature_name": "writes", "inputs": str(pipe)}).encode())
        wait_until(waiting, "the request is accepted")
        running.send_signal(signal.SIGTERM)
        wait_until(closed, "no more requests are taken")
        assert running.poll() is None
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # the model has waited for one
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())) == (200, {"outputs": str(pipe)})
        os.close(reader)
        assert running.wait(LONG_S) == 0
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize(
    ("arguments", "document"),
    [
        (["{models}/none"], "does not exist. Pass the folder with the numbered versions, or a"),
        ([], "there is no model to serve. Pass MODEL_BASE_PATH"),
        (["{models}/half", "--port=8501"], "--rest-api-port cannot be the same as --port"),
        (["{models}/half", "--model-config-file=x"], "exclude each other"),
        (["{models}/half", "--batching-parameters-file=x"], "has no effect without --enable-batching"),
        (["s3://bucket/models"], "not supported yet: serving from s3://bucket/models"),
        (["{models}/half", "--sagemaker", "--model-name=x"], "--model-name: not with --sagemaker"),
    ],
)
def test_wrong_command_lines_are_rejected(
    models: Path, arguments: list[str], document: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from unfreeze import cli
    from unfreeze.errors import UnfreezeError

    try:
        code = cli.dispatch(["serve", *(argument.format(models=models) for argument in arguments)])
        shown = capsys.readouterr().err
    except UnfreezeError as error:
        code, shown = error.exit_code, str(error)
    assert code == 2
    assert document in shown


def test_server_from_python(models: Path) -> None:
    import unfreeze

    port = free_port()
    with unfreeze.start_server(models / "half", model_name="half", rest_api_port=port, port=None) as running:
        assert (running.rest_port, running.grpc_port) == (port, None)
        assert predict(running, {"instances": [1.0]}) == (200, {"predictions": [2.5]})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), LONG_S)


def test_port_in_use_is_reported(models: Path) -> None:
    from unfreeze.errors import OutputError

    with serving(config_of(half=models / "half")) as running:
        for used in ({"rest_api_port": running.rest_port}, {"port": running.grpc_port}):
            with pytest.raises(OutputError, match=r"cannot listen on 127\.0\.0\.1:\d+"):
                serving(config_of(half=models / "half"), **used).__enter__()


def test_missing_extra_is_reported_in_one_line() -> None:
    program = "import sys; sys.modules['uvicorn'] = None; from unfreeze.cli import main; main(['serve', 'x'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    document = done.stderr.strip().splitlines()[-1]
    assert document == "error: serve needs uvicorn, which is not installed. Run: pip install 'unfreeze[serve]'"
