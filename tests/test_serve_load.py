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
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving import ask, config_of, png, predict, serving, write_half_plus, write_shapes
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from unfreeze import server
from unfreeze.errors import ConfigError
from unfreeze.server.batching import Batcher
from unfreeze.server.failures import Code, Failure

SHAPES = "/v1/models/shapes:predict"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_half_plus(folder / "half" / "1", 2.0)
    write_half_plus(folder / "next", 3.0)
    write_shapes(folder / "shapes" / "1")
    return folder


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work` gives in so many threads that start at once."""
    results: list[Any] = [None] * count
    start = threading.Barrier(count)

    def run(index: int) -> None:
        start.wait()
        results[index] = work(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture(scope="module")
def batching(models: Path) -> Iterator[server.Server]:
    settings = server.Batching(max_batch_size=4, batch_timeout_micros=300_000, num_batch_threads=2)
    with serving(config_of(shapes=models / "shapes"), batching=settings) as running:
        yield running


def several(tag: str, length: int) -> dict[str, Any]:
    instance = {"tag": tag, "signal": [1.0] * length, "sensor": [[1, 2], [3, 4]]}
    return {"signature_name": "several", "instances": [instance]}


def test_requests_that_wait_together_are_answered_together(batching: server.Server) -> None:
    answers = together(4, lambda index: predict(batching, several(f"t{index}", 3), SHAPES))
    rows = []
    for index, (code, told) in enumerate(answers):
        assert code == 200
        [prediction] = told["predictions"]
        assert prediction["text"] == f"t{index}!"
        rows.append(prediction["rows"])
    assert rows == [4, 4, 4, 4]


def test_only_equal_shapes_are_put_together(batching: server.Server) -> None:
    answers = together(4, lambda index: predict(batching, several("t", 1 + index % 2), SHAPES))
    assert [told["predictions"][0]["sum"] for _, told in answers] == [1.0, 2.0, 1.0, 2.0]
    assert [told["predictions"][0]["rows"] for _, told in answers] == [2, 2, 2, 2]


def test_a_broken_picture_fails_alone(batching: server.Server) -> None:
    def send(index: int) -> tuple[int, Any]:
        encoded = b"\x89PNG\r\n\x1a\nbroken" if index == 1 else png(4, 5)
        value = {"b64": base64.b64encode(encoded).decode()}
        return predict(batching, {"signature_name": "pictures", "instances": [value]}, SHAPES)

    answers = together(4, send)
    assert [code for code, _ in answers] == [200, 400, 200, 200]
    assert [told["predictions"] for code, told in answers if code == 200] == [[[4, 5, 3]]] * 3


def test_too_many_rows_for_a_batch(batching: server.Server) -> None:
    code, told = predict(batching, {"instances": [[1.0]] * 5}, SHAPES)
    assert (code, told) == (400, {"error": "Task size 5 is larger than maximum input batch size 4"})


def test_outputs_that_cannot_be_taken_apart(batching: server.Server) -> None:
    code, told = predict(batching, {"signature_name": "odd", "inputs": [1.0]}, SHAPES)
    assert code == 400
    assert "Batched output tensor has 0 dimensions" in told["error"]


def doubled(seen: list[Any]) -> Callable[[Any], dict[str, np.ndarray]]:
    def run(inputs: Any) -> dict[str, np.ndarray]:
        seen.append(inputs["x"])
        return {"y": inputs["x"] * 2}

    return run


def batcher(**settings: Any) -> Batcher:
    return Batcher(server.Batching(**{"num_batch_threads": 1, "batch_timeout_micros": 200_000, **settings}))


def call(batcher: Batcher, seen: list[Any], x: np.ndarray, seconds: float = 30.0) -> np.ndarray:
    return batcher.call("key", doubled(seen), {"x": x}, time.monotonic() + seconds)["y"]


def test_allowed_batch_sizes_fill_up() -> None:
    seen: list[Any] = []
    waiting = batcher(max_batch_size=8, allowed_batch_sizes=(4, 8))
    answers = together(3, lambda index: call(waiting, seen, np.array([[float(index)]])))
    waiting.close()
    assert [answer.tolist() for answer in answers] == [[[0.0]], [[2.0]], [[4.0]]]
    assert [value.shape for value in seen] == [(4, 1)]


def test_lengths_are_padded_if_asked() -> None:
    seen: list[Any] = []
    waiting = batcher(max_batch_size=2, pad_variable_length_inputs=True)
    together(2, lambda index: call(waiting, seen, np.ones((1, 1 + index))))
    waiting.close()
    assert [value.shape for value in seen] == [(2, 2)]
    assert seen[0].sum() == 3.0


def test_a_large_request_is_split_if_asked() -> None:
    seen: list[Any] = []
    waiting = batcher(max_batch_size=2, enable_large_batch_splitting=True, batch_timeout_micros=0)
    assert call(waiting, seen, np.arange(5.0)).tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    waiting.close()
    assert max(len(value) for value in seen) == 2


def test_a_full_queue_and_a_deadline_of_a_batch() -> None:
    released = threading.Event()

    def stuck(inputs: Any) -> dict[str, np.ndarray]:
        released.wait(30)
        return {"y": inputs["x"]}

    waiting = batcher(max_batch_size=1, max_enqueued_batches=1, batch_timeout_micros=0)
    codes: list[Code] = []

    def send(seconds: float) -> None:
        try:
            waiting.call("key", stuck, {"x": np.zeros(1)}, time.monotonic() + seconds)
        except Failure as failure:
            codes.append(failure.code)

    first = threading.Thread(target=send, args=(0.5,))
    first.start()
    while waiting.queues or not first.is_alive():
        time.sleep(0.01)
    second = threading.Thread(target=send, args=(0.5,))
    second.start()
    while not waiting.queues:
        time.sleep(0.01)
    send(0.5)
    assert codes == [Code.RESOURCE_EXHAUSTED]
    first.join()
    second.join()
    assert codes == [Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED, Code.DEADLINE_EXCEEDED]
    released.set()
    waiting.close()


def test_batching_parameters_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "batching.txt"
    path.write_text(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 100 } max_enqueued_batches { value: 5 }\n"
        "num_batch_threads { value: 3 } allowed_batch_sizes: [4, 8] pad_variable_length_inputs: true\n"
    )
    assert server.read_batching(path) == server.Batching(8, 100, 5, 3, (4, 8), True)
    for text, told in [
        ("max_batch_size: 8", "is not a BatchingParameters in text format"),
        ("nonsense { value: 8 }", "is not a BatchingParameters in text format"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: [4, 6]", "allowed_batch_sizes must increase and end with"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be above 0; received 0"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=told):
            server.read_batching(path)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory from /proc")
def test_overload_is_refused_quickly_and_nothing_accepted_is_lost(models: Path) -> None:
    settings = {"max_queued_requests": 4, "num_run_threads": 1}
    with serving(config_of(shapes=models / "shapes"), **settings) as running:
        body = json.dumps({"signature_name": "slow", "instances": [0.3]}).encode()
        assert predict(running, body, SHAPES)[0] == 200
        took: dict[int, list[float]] = {200: [], 429: []}
        before = resident_bytes()
        end = time.monotonic() + 3.0

        def send(index: int) -> Counter[int]:
            codes: Counter[int] = Counter()
            connection = http.client.HTTPConnection("127.0.0.1", running.rest_port or 0, timeout=60)
            while time.monotonic() < end:
                started = time.perf_counter()
                connection.request("POST", SHAPES, body)
                response = connection.getresponse()
                told = json.loads(response.read())
                codes[response.status] += 1
                took[response.status].append(time.perf_counter() - started)
                assert ("predictions" in told) == (response.status == 200)
                if response.status == 429:
                    assert "The server is full" in told["error"]
                    time.sleep(0.01)
            return codes

        counted = sum(together(16, send), Counter[int]())  # four times what is let in
        assert set(counted) == {200, 429}
        assert np.median(took[429]) < np.median(took[200])  # these share a core with the clients
        assert resident_bytes() - before < 100 * 2**20
        assert running.engine.gate.requests == 0
        assert running.engine.gate.refused == counted[429]


def test_a_deadline_over_rest_and_grpc(models: Path) -> None:
    with serving(config_of(shapes=models / "shapes"), rest_api_timeout_in_ms=200, num_run_threads=1) as running:
        code, told = predict(running, {"signature_name": "slow", "instances": [20.0]}, SHAPES)
        assert (code, told) == (504, {"error": "Timed out waiting for notification"})
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "shapes"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones((1, 1), np.float32)))
        with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:  # the only place is taken by the first request still
                stub.Predict(request, timeout=0.2)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            response = stub.Predict(request, timeout=60)
        assert tf.make_ndarray(response.outputs["y"]).tolist() == [[2.0]]


def test_a_slow_body_gives_its_place_back(models: Path) -> None:
    settings = {"max_queued_requests": 1, "rest_api_timeout_in_ms": 300}
    with serving(config_of(half=models / "half"), **settings) as running:
        with socket.create_connection(("127.0.0.1", running.rest_port or 0)) as slow:
            slow.sendall(b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
            assert slow.recv(1000).startswith(b"HTTP/1.1 504")
        with socket.create_connection(("127.0.0.1", running.rest_port or 0)) as gone:
            gone.sendall(b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
        time.sleep(0.1)
        assert predict(running, {"instances": [1.0]}) == (200, {"predictions": [2.5]})


def test_a_version_published_under_load_costs_no_request(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "half", tmp_path / "half")
    settings = {"file_system_poll_wait_seconds": 0.1, "max_queued_requests": 32}
    with serving(config_of(half=tmp_path / "half"), **settings) as running:
        ended = threading.Event()

        def send(index: int) -> list[float]:
            answers = []
            while not ended.is_set():
                code, told = predict(running, {"instances": [1.0]})
                assert code == 200, told
                answers += told["predictions"]
            code, told = predict(running, {"instances": [1.0]})
            return [*answers, *told["predictions"]]

        def publish() -> None:
            for number in range(2, 5):
                shutil.copytree(models / "next", tmp_path / "staged")
                (tmp_path / "staged").rename(tmp_path / "half" / str(number))
                while predict_version(running) < number:
                    time.sleep(0.05)
            ended.set()

        publisher = threading.Thread(target=publish)
        publisher.start()
        answered = together(6, send)
        publisher.join()
        for answers in answered:
            assert answers == sorted(answers)  # the old version until the new one answers, never back
            assert answers[-1] == 3.5


def predict_version(running: server.Server) -> int:
    _, told = ask(running, "GET", "/v1/models/half")
    return max(int(one["version"]) for one in told["model_version_status"] if one["state"] == "AVAILABLE")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "unfreeze", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM ends a process at once on Windows")
def test_the_end_waits_for_what_was_accepted(models: Path) -> None:
    port = free_port()
    flags = ["--model_name=shapes", f"--rest_api_port={port}", "--port=0", "--enable_batching=false"]
    running = command(str(models / "shapes"), *flags)
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "serving shapes [1]\n"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = {"signature_name": "slow", "instances": [4.0]}
        connection.request("POST", SHAPES, json.dumps(body).encode())
        time.sleep(0.5)
        running.send_signal(signal.SIGTERM)
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())) == (200, {"predictions": [4.0]})
        assert running.wait(30) == 0
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{models}/none"], "is not a folder; give the one that holds the numbered versions"),
        ([], "give MODEL_BASE_PATH"),
        (["{models}/half", "--port=8501"], "--rest-api-port cannot be the same as --port"),
        (["{models}/half", "--model-config-file=x"], "not both"),
        (["{models}/half", "--batching-parameters-file=x"], "needs --enable-batching"),
        (["s3://bucket/models"], "not supported yet: s3://bucket/models"),
        (["{models}/half", "--sagemaker", "--model-name=x"], "--model-name: not with --sagemaker"),
    ],
)
def test_a_wrong_command_line(
    models: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from unfreeze import cli
    from unfreeze.errors import UnfreezeError

    try:
        code = cli.dispatch(["serve", *(argument.format(models=models) for argument in arguments)])
        shown = capsys.readouterr().err
    except UnfreezeError as error:
        code, shown = error.exit_code, str(error)
    assert code == 2
    assert told in shown


def test_a_port_that_is_taken(models: Path) -> None:
    from unfreeze.errors import OutputError

    with serving(config_of(half=models / "half")) as running:
        for taken in ({"rest_api_port": running.rest_port}, {"port": running.grpc_port}):
            with pytest.raises(OutputError, match=r"cannot listen on 127\.0\.0\.1:\d+"):
                serving(config_of(half=models / "half"), **taken).__enter__()


def test_a_missing_extra_is_told_in_one_line() -> None:
    program = "import sys; sys.modules['uvicorn'] = None; from unfreeze.cli import main; main(['serve', 'x'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    told = done.stderr.strip().splitlines()[-1]
    assert told == "error: serve needs uvicorn, which is not installed: pip install 'unfreeze[serve]'"
