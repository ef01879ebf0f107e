"""Request logs: what is logged, that TensorFlow reads the files, and that they serve as warm-up requests."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from serving import config_of, predict, send_request, serving, wait_until, write_half_plus
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from unfreeze.server.loading import load
from unfreeze.server.process import Server
from unfreeze.server.request_log import ModelLog
from unfreeze.server.status import invalid
from unfreeze.server.tfrecord_files import RecordFile
from unfreeze.server.warmup import warm_up


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    write_half_plus(folder / "1", 2.0)
    return folder


def logged_config(half: Path, prefix: Path, rate: float = 1.0) -> Any:
    config = config_of(half=half)
    logging_config = config.model_config_list.config[0].logging_config
    logging_config.log_collector_config.filename_prefix = str(prefix)
    logging_config.sampling_config.sampling_rate = rate
    return config


def logs_in(folder: Path, pattern: str = "*.tfrecord") -> list[Any]:
    files = [str(path) for path in sorted(folder.glob(pattern))]
    records = tf.data.TFRecordDataset(files).as_numpy_iterator() if files else []
    return [prediction_log_pb2.PredictionLog.FromString(record) for record in records]


def metric(running: Server, code: str) -> str:
    name = f':tensorflow:serving:request_log_count{{model_name="half",status_code="{code}"}} '
    return "".join(line for line in running.engine.metrics.page().splitlines() if line.startswith(name))[len(name) :]


@pytest.fixture(scope="module")
def folder(half: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the logs of five requests, of which four succeeded, by a server that has stopped."""
    folder = tmp_path_factory.mktemp("logs")
    with serving(logged_config(half, folder / "requests")) as running:
        assert predict(running, {"instances": [1.0, 2.0]})[0] == 200
        assert predict(running, {"inputs": {"x": 4.0}}, "/v1/models/half/versions/1:predict")[0] == 200
        assert predict(running, {"instances": ["text"]})[0] == 400
        examples = {"signature_name": "tensorflow/serving/regress", "examples": [{"x": 6.0}]}
        assert send_request(running, "POST", "/v1/models/half:regress", examples)[0] == 200
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "half"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([8.0]))
        request.output_filter.append("y")
        with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request)
        wait_until(lambda: metric(running, "OK") == "4", "four requests are logged")
        assert f"requests of half are logged: {folder}/requests-half-*.tfrecord" in str(running)
        assert [path.suffix for path in folder.iterdir()] == [".partial"]
    return folder


def test_rest_and_grpc_requests_are_logged_with_their_responses(folder: Path) -> None:
    row, column, regress, by_grpc = logs_in(folder)
    assert [tf.make_ndarray(row.predict_log.request.inputs["x"]).tolist()] == [[1.0, 2.0]]
    assert [tf.make_ndarray(row.predict_log.response.outputs["y"]).tolist()] == [[2.5, 3.0]]
    assert row.predict_log.request.model_spec.signature_name == "serving_default"
    assert not row.predict_log.request.model_spec.HasField("version")
    assert column.predict_log.request.model_spec.version.value == 1
    assert tf.make_ndarray(column.predict_log.request.inputs["x"]) == 4.0
    assert [entry.value for entry in regress.regress_log.response.result.regressions] == [5.0]
    assert list(by_grpc.predict_log.request.output_filter) == ["y"]
    assert tf.make_ndarray(by_grpc.predict_log.response.outputs["y"]).tolist() == [6.0]
    specs = [log.request.model_spec for log in (row.predict_log, regress.regress_log, by_grpc.predict_log)]
    assert [spec.name for spec in specs] == ["half"] * 3
    for log in (row, column, regress, by_grpc):
        metadata = log.log_metadata
        assert (metadata.model_spec.name, metadata.model_spec.version.value) == ("half", 1)
        assert metadata.sampling_config.sampling_rate == 1.0
        assert list(metadata.saved_model_tags) == ["serve"]
        assert metadata.timestamp_secs > 1.7e9


def test_log_serves_as_warm_up_requests(folder: Path, half: Path, tmp_path: Path) -> None:
    [log] = folder.iterdir()
    shutil.copytree(half / "1", tmp_path / "1")
    (tmp_path / "1" / "assets.extra").mkdir()
    shutil.copy(log, tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests")
    assert warm_up(load(tmp_path / "1")) == 4


def test_config_that_is_replaced_ends_the_log(half: Path, tmp_path: Path) -> None:
    with serving(logged_config(half, tmp_path / "a"), port=None) as running:
        predict(running, {"instances": [1.0]})
        running.engine.apply(logged_config(half, tmp_path / "a", rate=0.0))
        wait_until(lambda: list(tmp_path.glob("*.tfrecord")), "the file is complete")
        predict(running, {"instances": [2.0]})
        running.engine.apply(config_of(half=half))
        predict(running, {"instances": [3.0]})
        assert running.engine.request_logs.logs == {}
    assert len(logs_in(tmp_path)) == 1


def test_request_whose_response_cannot_be_written_is_not_logged(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> bytes:
        raise invalid("inconsistent batch size")

    monkeypatch.setattr("unfreeze.server.json_tensors.write_predict", fail)
    with serving(logged_config(half, tmp_path / "a"), port=None) as running:
        assert predict(running, {"instances": [1.0]})[0] == 400
    assert logs_in(tmp_path) == []


def test_full_disk_ends_the_log_with_one_warning(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    append = RecordFile.append

    def append_once(file: RecordFile, record: bytes) -> None:
        if file.records:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(file, record)

    monkeypatch.setattr(RecordFile, "append", append_once)
    caplog.set_level(logging.WARNING, "unfreeze.server")
    with serving(logged_config(half, tmp_path / "a"), port=None) as running:
        for value in range(4):
            assert predict(running, {"instances": [float(value)]}) == (200, {"predictions": [value / 2 + 2.0]})
        wait_until(lambda: metric(running, "UNAVAILABLE") == "3", "three requests are counted as not written")
    [warning] = [record.getMessage() for record in caplog.records]
    assert "requests of model half are no longer logged: No space left on device" in warning
    assert len(logs_in(tmp_path)) == 1


def test_requests_are_dropped_rather_than_kept_in_memory(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unfreeze.server.request_log.MAX_WAITING_BYTES", 20)
    with serving(logged_config(half, tmp_path / "a"), port=None) as running:
        logs = running.engine.request_logs
        logs.waiting_bytes = 10  # as if a request waited
        predict(running, {"instances": [1.0, 2.0, 3.0]})
        assert metric(running, "RESOURCE_EXHAUSTED") == "1"
        logs.waiting_bytes = 0
    assert logs_in(tmp_path) == []


def test_file_ends_at_the_number_of_records_that_warm_up_reads(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unfreeze.server.request_log.MAX_RECORDS", 2)
    log = ModelLog(logged_config(half, tmp_path / "a").model_config_list.config[0])
    for _ in range(3):
        assert log.append(b"record")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".partial", ".tfrecord"]
    log.end()
    assert not log.append(b"of a request that was finished after the config was replaced")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".tfrecord", ".tfrecord"]


@pytest.mark.skipif(os.name == "nt", reason="needs locks of files")
def test_next_server_completes_the_file_of_one_that_was_killed(half: Path, tmp_path: Path, folder: Path) -> None:
    [complete] = folder.iterdir()
    killed = tmp_path / f"{complete.name}.partial"
    killed.write_bytes(complete.read_bytes()[:-1])
    other = tmp_path / "requests-other-1.tfrecord.partial"
    other.write_bytes(b"x")
    config = logged_config(half, tmp_path / "requests")
    ModelLog(config.model_config_list.config[0])
    assert {path.name for path in tmp_path.iterdir()} == {complete.name, other.name}
    assert len(logs_in(tmp_path)) == 3


def test_sampling_rate_is_the_part_that_is_logged(half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = logged_config(half, tmp_path / "a", rate=0.25)
    log = ModelLog(config.model_config_list.config[0])
    monkeypatch.setattr("random.random", iter([0.0, 0.24, 0.25, 0.99]).__next__)
    assert [log.sampled() for _ in range(4)] == [True, True, False, False]
