"""The part that REST and gRPC share: the models, admission control, batching, metrics, and the watch for versions."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import numpy as np
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from unfreeze.server.admission import AdmissionControl
from unfreeze.server.batching import Batcher
from unfreeze.server.image_headers import check_image_sizes
from unfreeze.server.loaded import Arrays, LoadedModel
from unfreeze.server.loading import load
from unfreeze.server.metrics import Metric, Metrics
from unfreeze.server.request_log import RequestLogs
from unfreeze.server.settings import Settings, read_models, with_labels
from unfreeze.server.status import StatusCode, StatusError, deadline_exceeded
from unfreeze.server.versions import Models
from unfreeze.server.warmup import warm_up

LOG = logging.getLogger("unfreeze.server")
IN_FLIGHT_REQUESTS = 8  # the bytes in flight are bounded by so many requests of the largest size
UNKNOWN_MODEL = "(unknown)"


class Entrypoint(str, Enum):
    """The protocol of a request, as a label of the metrics."""

    REST = "REST"
    GRPC = "GRPC"


class Engine:
    """Runs the requests of all protocols on the models of the settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.admission = AdmissionControl(settings.max_queued_requests, IN_FLIGHT_REQUESTS * settings.max_request_bytes)
        self.models = Models(
            self._load,
            max_num_load_retries=settings.max_num_load_retries,
            load_retry_interval_s=settings.load_retry_interval_micros / 1e6,
            labels_for_unavailable=settings.allow_version_labels_for_unavailable_models or settings.follow_labels,
        )
        self.request_logs = RequestLogs(self.metrics)
        self.batcher = Batcher(settings.batching, self._count_batch) if settings.batching else None
        self.run_slots = threading.BoundedSemaphore(settings.num_run_threads)
        self.config = settings.models
        self.stopping = threading.Event()
        self.watcher = threading.Thread(target=self._watch, name="versions", daemon=True)
        self.metrics.add_gauge(
            Metric.WAITING, "gauge", "Requests that are accepted and not yet finished.", lambda: self.admission.requests
        )
        self.metrics.add_gauge(
            Metric.REJECTED, "counter", "Requests rejected by admission control.", lambda: self.admission.rejected
        )
        self.metrics.add_gauge(
            Metric.REQUEST_LOG_SECONDS, "counter", "CPU time of writing request logs.",
            lambda: self.request_logs.seconds,
        )  # fmt: skip

    def start(self) -> None:
        """Loads the models of the config, then watches for new versions in a thread."""
        self.apply(self._current_config())
        self.watcher.start()

    def apply(self, config: ModelServerConfig) -> None:
        """Serves exactly the models of a config, and logs their requests as it says.

        Raises: StatusError FAILED_PRECONDITION if a label names a version that is not available.
        """
        with self.models.changing:
            self.request_logs.apply(config)
            self.models.apply(config)

    def stop(self) -> None:
        """Ends the watch and the batches that wait, and closes the request logs."""
        self.stopping.set()
        if self.watcher.is_alive():
            self.watcher.join()
        if self.batcher:
            self.batcher.close()
        self.request_logs.stop()

    def run(
        self,
        model: LoadedModel,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        *,
        name: str,
        deadline: float,
    ) -> Arrays:
        """Returns the outputs for inputs that were checked, batched with other requests if batching is on
        and the model takes any number of rows.

        Raises: StatusError; DEADLINE_EXCEEDED if `deadline` (of time.monotonic()) passes first.
        """
        check_image_sizes(inputs, self.settings.max_image_pixels)

        def run_model(inputs: Mapping[str, np.ndarray]) -> Arrays:
            with self._timed(Metric.RUNTIME_LATENCY, model_name=name, API="Predict", runtime=model.runtime):
                return model.run(signature, inputs, outputs)

        if self.batcher and not model.has_fixed_batch_size(signature):
            return self.batcher.call((id(model), signature, tuple(outputs)), run_model, inputs, deadline)
        if not self.run_slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise deadline_exceeded()
        try:
            return run_model(inputs)
        finally:
            self.run_slots.release()

    @contextmanager
    def counted(self, name: str, api: str, entrypoint: Entrypoint) -> Iterator[None]:
        """Counts the request of a block and its time in the metrics.

        All names without a model share one label, so that requests with random names do not fill the memory.
        """
        label = name if name in self.models.served else UNKNOWN_MODEL
        status = StatusCode.INTERNAL
        try:
            with self._timed(Metric.REQUEST_LATENCY, model_name=label, API=api, entrypoint=entrypoint.value):
                yield
            status = StatusCode.OK
        except StatusError as error:
            status = error.code
            raise
        finally:
            self.metrics.count(Metric.REQUEST_COUNT, model_name=label, status=status.name)

    @contextmanager
    def _timed(self, metric: Metric, **labels: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.metrics.observe(metric, (time.perf_counter() - started) * 1e6, **labels)

    def _load(self, path: Path) -> LoadedModel:
        model = load(path)
        if self.settings.enable_model_warmup:
            LOG.info("%s: replayed %d warm-up requests", path, warm_up(model))
        return model

    def _count_batch(self, rows: int) -> None:
        self.metrics.observe(Metric.BATCH_SIZE, rows)

    def _current_config(self) -> ModelServerConfig:
        """Returns the config of the settings, with the labels of the files beside the versions."""
        settings = self.settings
        self.config = with_labels(settings.models) if settings.follow_labels else settings.models
        return self.config

    def _watch(self) -> None:
        """Polls the folders for versions, and the config file if the settings say so, until the server stops."""
        poll_s = self.settings.file_system_poll_wait_seconds
        config_poll_s = self.settings.model_config_file_poll_wait_seconds if self.settings.model_config_file else 0
        intervals = [interval for interval in (poll_s, config_poll_s) if interval > 0]
        next_config = time.monotonic() + config_poll_s
        while intervals and not self.stopping.wait(min(intervals)):
            try:
                if config_poll_s > 0 and time.monotonic() >= next_config:
                    next_config = time.monotonic() + config_poll_s
                    self.apply(read_models(self.settings.model_config_file or ""))
                elif poll_s > 0:
                    self._poll()
            except Exception as error:  # a file that is broken does not stop the models that are loaded
                LOG.error("%s", getattr(error, "message", error))

    def _poll(self) -> None:
        before = self.config
        if self.settings.follow_labels and self._current_config() != before:
            self.apply(self.config)
        else:
            self.models.poll()
