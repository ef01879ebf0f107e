"""The middle of the server: requests of both protocols come in, pass the gate, and are run by the model they name."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.server import metrics as metric_names
from unfreeze.server.admission import Gate
from unfreeze.server.batching import Batcher
from unfreeze.server.failures import Code, Failure
from unfreeze.server.image_headers import check_pictures
from unfreeze.server.loaded import Arrays, LoadedModel, load
from unfreeze.server.metrics import Metrics
from unfreeze.server.settings import Settings, read_models, with_labels
from unfreeze.server.versions import Models
from unfreeze.server.warmup import warm_up

LOG = logging.getLogger("unfreeze.server")
IN_FLIGHT = 8  # times the largest request: what may wait at once, however few requests that are


class Engine:
    """The models, and everything that stands between them and the requests."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.gate = Gate(settings.max_queued_requests, IN_FLIGHT * settings.max_request_bytes)
        self.models = Models(
            self._load,
            max_num_load_retries=settings.max_num_load_retries,
            load_retry_interval_s=settings.load_retry_interval_micros / 1e6,
            labels_for_unavailable=settings.allow_version_labels_for_unavailable_models or settings.follow_labels,
        )
        self.batcher = Batcher(settings.batching, self._count_batch) if settings.batching else None
        self.run_places = threading.BoundedSemaphore(settings.num_run_threads)
        self.config = settings.models
        self.stopping = threading.Event()
        self.watcher = threading.Thread(target=self._watch, name="versions", daemon=True)
        self.metrics.watch(metric_names.WAITING, "gauge", "Accepted and not yet answered.", lambda: self.gate.requests)
        self.metrics.watch(metric_names.REFUSED, "counter", "Turned away: too many waited.", lambda: self.gate.refused)

    def start(self) -> None:
        """Load what the config lists, then go on looking for new versions."""
        self.models.apply(self._followed())
        self.watcher.start()

    def stop(self) -> None:
        self.stopping.set()
        if self.watcher.is_alive():
            self.watcher.join()
        if self.batcher:
            self.batcher.close()

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
        """Answer checked inputs, together with others where batching is on.

        Raises: Failure; DEADLINE_EXCEEDED when `deadline` (of time.monotonic()) passes first.
        """
        check_pictures(inputs, self.settings.max_image_pixels)

        def timed(inputs: Mapping[str, np.ndarray]) -> Arrays:
            started = time.perf_counter()
            try:
                return model.run(signature, inputs, outputs)
            finally:
                micros = (time.perf_counter() - started) * 1e6
                self.metrics.observe(
                    metric_names.RUNTIME_LATENCY, micros, model_name=name, API="Predict", runtime="TF2"
                )

        if self.batcher:
            return self.batcher.call((id(model), signature, tuple(outputs)), timed, inputs, deadline)
        if not self.run_places.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Failure(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
        try:
            return timed(inputs)
        finally:
            self.run_places.release()

    @contextmanager
    def counted(self, name: str, api: str, entrypoint: str) -> Iterator[None]:
        """Count a request and its time; names that no model has are counted as one, or anyone could fill the memory."""
        label = name if name in self.models.served else "(unknown)"
        started = time.perf_counter()
        status = Code.INTERNAL.name
        try:
            yield
            status = Code.OK.name
        except Failure as failure:
            status = failure.code.name
            raise
        finally:
            self.metrics.count_request(label, status)
            micros = (time.perf_counter() - started) * 1e6
            self.metrics.observe(metric_names.REQUEST_LATENCY, micros, model_name=label, API=api, entrypoint=entrypoint)

    def _load(self, folder: Path) -> LoadedModel:
        model = load(folder)
        if self.settings.enable_model_warmup:
            replayed = warm_up(model)
            LOG.info("%s: %d warm-up requests replayed", folder, replayed)
        return model

    def _count_batch(self, rows: int) -> None:
        self.metrics.observe(metric_names.BATCH_SIZE, rows)

    def _followed(self) -> Any:
        """The config as given, with the labels that are kept beside the versions."""
        settings = self.settings
        self.config = with_labels(settings.models) if settings.follow_labels else settings.models
        return self.config

    def _watch(self) -> None:
        """Poll the folders, and the config file where that is asked for."""
        wait_s = self.settings.file_system_poll_wait_seconds
        config_wait_s = self.settings.model_config_file_poll_wait_seconds if self.settings.model_config_file else 0
        waits = [wait for wait in (wait_s, config_wait_s) if wait > 0]
        next_config = time.monotonic() + config_wait_s
        while waits and not self.stopping.wait(min(waits)):
            try:
                if config_wait_s > 0 and time.monotonic() >= next_config:
                    next_config = time.monotonic() + config_wait_s
                    self.models.apply(read_models(self.settings.model_config_file or ""))
                elif wait_s > 0:
                    before = self.config
                    if self.settings.follow_labels and self._followed() != before:
                        self.models.apply(self.config)
                    else:
                        self.models.poll()
            except Exception as error:  # what is loaded goes on answering, whatever somebody wrote into a file
                LOG.error("%s", getattr(error, "message", error))
