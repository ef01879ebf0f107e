"""Logs requests with their responses, as the `logging_config` of a model says.

A log is a set of TFRecord files of PredictionLog messages. TensorFlow Serving defines the messages and the config, and
leaves the writing of the files to its users. Source: core/request_logger.cc, core/server_request_logger.cc.
"""

import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tensorflow_serving.apis import model_pb2, prediction_log_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from unfreeze.formatting import amount
from unfreeze.server.inference import fill_tensor
from unfreeze.server.loaded import Arrays
from unfreeze.server.metrics import Metric, Metrics
from unfreeze.server.status import StatusCode
from unfreeze.server.tfrecord_files import PARTIAL_SUFFIX, SUFFIX, RecordFile, recover
from unfreeze.warmup_records import MAX_WARMUP_RECORDS

LOG = logging.getLogger("unfreeze.server")
MAX_RECORDS = MAX_WARMUP_RECORDS  # a file: each one can serve as the warm-up requests of a model
MAX_WAITING_BYTES = 64 * 2**20  # of requests and responses; the log drops further ones rather than slow the server
PAUSE_S = 0.1  # how long requests wait to be written together
SERVE_TAG = "serve"

Fill = Callable[[prediction_log_pb2.PredictionLog], None]


class LogField(Enum):
    """The field of a PredictionLog for each method."""

    PREDICT = "predict_log"
    CLASSIFY = "classify_log"
    REGRESS = "regress_log"


class ModelLog:
    """The log of one model."""

    def __init__(self, config: ModelConfig) -> None:
        """Recovers the files of an earlier process with this prefix that was killed."""
        self.model: str = config.name
        self.config = config.logging_config
        self.rate: float = self.config.sampling_config.sampling_rate
        prefix = Path(self.config.log_collector_config.filename_prefix)
        self.folder = prefix.parent
        self.stem = f"{prefix.name}-{quote(self.model, safe='')}"
        self.file: RecordFile | None = None
        self.ended = False  # by the first error, or by another config: nothing more is written
        self.recover()

    @property
    def pattern(self) -> str:
        """Returns the pattern of the names of the files."""
        return f"{self.folder / self.stem}-*{SUFFIX}"

    def sampled(self) -> bool:
        """Decides whether to log a request."""
        return random.random() < self.rate

    def append(self, record: bytes) -> bool:
        """Appends a PredictionLog to the current file, and returns whether that was possible."""
        if self.ended:
            return False
        try:
            if self.file and self.file.records >= MAX_RECORDS:
                self.close()
            if self.file is None:
                self.file = RecordFile(self.folder / self.next_name())
            self.file.append(record)
        except OSError as error:
            with suppress(OSError):
                self.end()
            LOG.warning(
                "requests of model %s are no longer logged: %s in %s. Free space, or change filename_prefix in its "
                "logging_config, and restart the server.",
                *(self.model, error.strerror or error, self.folder),
            )
            return False
        return True

    def next_name(self) -> str:
        """Returns a file name that no other process and no earlier file has."""
        now = time.time_ns()
        started = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 10**9))
        return f"{self.stem}-{started}.{now % 10**9:09}Z-{os.getpid()}{SUFFIX}"

    def recover(self) -> None:
        """Gives the files of a process that was killed their final names, without an incomplete record at the end."""
        for path in sorted(self.folder.glob(f"*{PARTIAL_SUFFIX}")):
            if not path.name.startswith(f"{self.stem}-"):
                continue
            try:
                records = recover(path)
            except OSError as error:
                LOG.warning("%s: cannot be recovered: %s", path, error.strerror or error)
                continue
            if records is not None:
                LOG.info("%s: recovered %s", path, amount(records, "record"))

    def end(self) -> None:
        """Gives the current file its final name, and ignores what is appended later. Raises: OSError."""
        self.ended = True
        self.close()

    def close(self) -> None:
        """Gives the current file its final name. Raises: OSError."""
        file, self.file = self.file, None
        if file:
            file.close()


class RequestLogs:
    """The logs of all models, and the thread that writes them."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.logs: dict[str, ModelLog] = {}
        self.tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()  # None ends the thread
        self.waiting_bytes = 0
        self.seconds = 0.0  # of CPU time in the thread
        self.lock = threading.Lock()
        self.writer: threading.Thread | None = None
        self.stopping = threading.Event()

    def apply(self, config: ModelServerConfig) -> None:
        """Logs the models of a config; a model whose logging_config is the same continues its file."""
        before = self.logs
        self.logs = {
            model.name: unchanged_log(before, model) or ModelLog(model)
            for model in config.model_config_list.config
            if model.HasField("logging_config")
        }
        for name, log in before.items():
            if self.logs.get(name) is not log:
                self.tasks.put(log.end)
        if self.logs and self.writer is None:
            self.writer = threading.Thread(target=self._work, name="request-log", daemon=True)
            self.writer.start()

    def log_messages(self, field: LogField, request: Any, response: Any) -> None:
        """Logs a request and its response, whose model_spec is filled in, if the config of the model says so."""
        log = self._sampled(response.model_spec.name)
        if log:
            size_bytes = request.ByteSize() + response.ByteSize()
            self._add(log, response.model_spec, partial(copy_messages, field, request, response), size_bytes)

    def log_arrays(self, spec: model_pb2.ModelSpec, version: int, inputs: Arrays, outputs: Arrays) -> None:
        """Logs the inputs and the outputs of a predict request, if the config of the model says so.

        Args:
            spec: the model, the signature and the version or label that the request named.
            version: the version that responded.
            inputs: the inputs of the signature.
            outputs: its outputs.
        """
        log = self._sampled(spec.name)
        if log:
            responding = model_pb2.ModelSpec(name=spec.name, signature_name=spec.signature_name)
            responding.version.value = version
            size_bytes = array_bytes(inputs) + array_bytes(outputs)
            self._add(log, responding, partial(copy_arrays, spec, responding, inputs, outputs), size_bytes)

    def _sampled(self, model: str) -> ModelLog | None:
        """Returns the log to which a request to a model goes; None if this request is not logged."""
        log = self.logs.get(model)
        if log is None or not log.sampled():
            return None
        if log.ended:
            self._count(log, StatusCode.UNAVAILABLE)
            return None
        return log

    def _add(self, log: ModelLog, responding: model_pb2.ModelSpec, fill: Fill, size_bytes: int) -> None:
        """Hands a request and its response to the thread that writes; drops them if too many bytes wait for it.

        `fill` writes the two into a PredictionLog; it is called in that thread.
        """
        with self.lock:
            full = self.waiting_bytes > 0 and self.waiting_bytes + size_bytes > MAX_WAITING_BYTES
            if not full:
                self.waiting_bytes += size_bytes
        if full:
            self._count(log, StatusCode.RESOURCE_EXHAUSTED)
        else:
            self.tasks.put(partial(self._write, log, responding, fill, size_bytes, int(time.time())))

    def stop(self) -> None:
        """Writes what waits, and closes the files."""
        if self.writer is None:
            return
        for log in self.logs.values():
            self.tasks.put(log.end)
        self.tasks.put(None)
        self.stopping.set()
        self.writer.join()
        self.writer = None

    def _work(self) -> None:
        """Runs the tasks, all that wait at a time: a thread that wakes for each request would slow the requests."""
        while (task := self.tasks.get()) is not None:
            started = time.thread_time()
            try:
                task()
            except Exception as error:  # a bug here or an error of the disk: requests and the other records go on
                LOG.error("request log: %s: %s", type(error).__name__, error)
            self.seconds += time.thread_time() - started
            if self.tasks.empty():
                self.stopping.wait(PAUSE_S)

    def _write(
        self, log: ModelLog, responding: model_pb2.ModelSpec, fill: Fill, size_bytes: int, timestamp_s: int
    ) -> None:
        code = StatusCode.INTERNAL
        try:
            record = prediction_log(log, responding, fill, timestamp_s)
            code = StatusCode.OK if log.append(record) else StatusCode.UNAVAILABLE
        finally:
            with self.lock:
                self.waiting_bytes -= size_bytes
            self._count(log, code)

    def _count(self, log: ModelLog, code: StatusCode) -> None:
        self.metrics.count(Metric.REQUEST_LOG_COUNT, model_name=log.model, status_code=code.name)


def unchanged_log(logs: Mapping[str, ModelLog], model: ModelConfig) -> ModelLog | None:
    """Returns the log of a model if it has one with the same logging_config."""
    log = logs.get(model.name)
    return log if log is not None and log.config == model.logging_config else None


def prediction_log(log: ModelLog, responding: model_pb2.ModelSpec, fill: Fill, timestamp_s: int) -> bytes:
    """Returns a serialized PredictionLog."""
    message = prediction_log_pb2.PredictionLog()
    metadata = message.log_metadata
    metadata.model_spec.CopyFrom(responding)
    metadata.sampling_config.CopyFrom(log.config.sampling_config)
    metadata.saved_model_tags.append(SERVE_TAG)
    if "timestamp_secs" in metadata.DESCRIPTOR.fields_by_name:  # older releases of tensorflow-serving-api lack it
        metadata.timestamp_secs = timestamp_s
    fill(message)
    serialized: bytes = message.SerializeToString()
    return serialized


def copy_messages(field: LogField, request: Any, response: Any, message: prediction_log_pb2.PredictionLog) -> None:
    """Writes a request and a response into a PredictionLog."""
    log = getattr(message, field.value)
    log.request.CopyFrom(request)
    log.response.CopyFrom(response)


def copy_arrays(
    spec: model_pb2.ModelSpec,
    responding: model_pb2.ModelSpec,
    inputs: Arrays,
    outputs: Arrays,
    message: prediction_log_pb2.PredictionLog,
) -> None:
    """Writes the inputs and outputs of a predict request into a PredictionLog."""
    log = message.predict_log
    log.request.model_spec.CopyFrom(spec)
    log.response.model_spec.CopyFrom(responding)
    for name, value in inputs.items():
        fill_tensor(log.request.inputs[name], value)
    for name, value in outputs.items():
        fill_tensor(log.response.outputs[name], value)


def array_bytes(arrays: Arrays) -> int:
    """Returns the size of arrays, with that of their strings."""
    return sum(sum(map(len, array.ravel())) if array.dtype == object else array.nbytes for array in arrays.values())
