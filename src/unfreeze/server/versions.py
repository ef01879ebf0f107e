"""The served models and their versions: finds them in folders, loads and unloads them, and looks them up."""

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from tensorflow_serving.apis import get_model_metadata_pb2

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.model_paths import saved_model_in
from unfreeze.runtimes import find_model_file
from unfreeze.server.loaded import LoadedModel
from unfreeze.server.loading import other_model_file, version_folder
from unfreeze.server.model_files import ServedFile
from unfreeze.server.saved_models import SAVED_MODEL
from unfreeze.server.status import StatusCode, StatusError, invalid, not_found
from unfreeze.version_folders import version_folders

LOG = logging.getLogger("unfreeze.server")


class State(Enum):
    """The state of a version. Source: apis/get_model_status.proto."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass
class Version:
    """One version of a model: its folder or file, its state, and the model or the error of loading it."""

    number: int
    path: Path
    state: State = State.START
    error: StatusError | None = None
    model: LoadedModel | None = None
    attempts: int = 0
    next_attempt: float = 0.0  # by time.monotonic()
    modified: tuple[int, ...] = ()  # changes when the folder is written again

    @property
    def folder(self) -> Path:
        """Returns the folder of the version, or that of its file."""
        return version_folder(self.path)

    def __str__(self) -> str:
        """Returns the number, and the runtime of a model that is not a SavedModel."""
        model = self.model
        return f"{self.number} ({model.runtime})" if isinstance(model, ServedFile) else str(self.number)

    def loaded_model(self) -> LoadedModel:
        """Returns the model. Raises: StatusError if the version was unloaded since it was looked up."""
        model = self.model
        if model is None:
            raise StatusError(StatusCode.UNAVAILABLE, f"Version {self.number} was unloaded meanwhile. Try again.")
        return model

    def signature_def_map(self) -> get_model_metadata_pb2.SignatureDefMap:
        """Returns the SignatureDefs of the model as the message that metadata requests receive."""
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in self.loaded_model().signature_defs.items():
            signatures.signature_def[name].CopyFrom(definition)
        return signatures


@dataclass
class ServedModel:
    """One model of the config, with every version that the server has seen."""

    name: str
    base_path: Path
    policy: Any  # FileSystemStoragePathSourceConfig.ServableVersionPolicy
    labels: dict[str, int] = field(default_factory=dict)
    versions: dict[int, Version] = field(default_factory=dict)
    logged_warnings: set[str] = field(default_factory=set)

    def available(self) -> list[Version]:
        """Returns the versions that accept requests, oldest first."""
        return sorted(
            (version for version in list(self.versions.values()) if version.state is State.AVAILABLE),
            key=lambda version: version.number,
        )

    def warn_once(self, warning: str) -> None:
        """Logs a warning the first time that it occurs for this model."""
        if warning not in self.logged_warnings:
            self.logged_warnings.add(warning)
            LOG.warning("%s", warning)


class Models:
    """The models that are served. One thread changes them (`poll`, `apply`); any number of threads look them up."""

    def __init__(
        self,
        load: Callable[[Path], LoadedModel],
        *,
        max_num_load_retries: int = 5,
        load_retry_interval_s: float = 60.0,
        labels_for_unavailable: bool = False,
    ) -> None:
        self.load = load
        self.max_num_load_retries = max_num_load_retries
        self.load_retry_interval_s = load_retry_interval_s
        self.labels_for_unavailable = labels_for_unavailable
        self.served: dict[str, ServedModel] = {}
        self.changing = threading.RLock()

    def apply(self, config: Any) -> None:
        """Serves exactly the models of a ModelServerConfig; a model with the same path keeps its loaded versions.

        Raises: StatusError FAILED_PRECONDITION if a label names a version that is not available.
        """
        with self.changing:
            before = self.served
            self.served = {
                model.name: self._served_model(model, before.get(model.name))
                for model in config.model_config_list.config
            }
            self.poll()
            for model in config.model_config_list.config:
                self._set_labels(self.served[model.name], dict(model.version_labels))
            if set(before) - set(self.served):
                gc.collect()

    def poll(self) -> None:
        """Reads the folders once: loads the versions that the policy selects, then unloads the others."""
        with self.changing:
            for model in list(self.served.values()):
                selected = self._selected(model)
                for number in sorted(selected, reverse=True):
                    self._load(model, number, selected[number])
                if any(version.number in selected for version in model.available()):
                    self._unload(model, keep=set(selected))

    def find(self, name: str, number: int | None = None, label: str | None = None) -> Version:
        """Returns the version that a request names by number or by label, or the newest one.

        Raises: StatusError. Source of the texts: core/aspired_versions_manager.cc, model_servers/server_core.cc.
        """
        model, number = self._resolve(name, number, label)
        versions = model.available() if model else []
        if number is not None:
            versions = [version for version in versions if version.number == number]
        if not versions:
            servable = f"Latest({name})" if number is None else f"Specific({name}, {number})"
            raise not_found(f"Servable not found for request: {servable}")
        return versions[-1]

    def known_versions(self, name: str, number: int | None = None, label: str | None = None) -> list[Version]:
        """Returns all versions of a model that the server has seen, newest first, or the one that a request names.

        Raises: StatusError. Source: get_model_status_impl.cc.
        """
        model, number = self._resolve(name, number, label)
        versions = dict(model.versions) if model else {}
        if number is not None:
            if number not in versions:
                raise not_found(f"Could not find version {number} of model {name}")
            return [versions[number]]
        if not versions:
            raise not_found(f"Could not find any versions of model {name}")
        return [versions[key] for key in sorted(versions, reverse=True)]

    def ready(self, name: str) -> bool:
        """Returns whether a model has a version that accepts requests."""
        model = self.served.get(name)
        return bool(model and model.available())

    def _resolve(self, name: str, number: int | None, label: str | None) -> tuple[ServedModel | None, int | None]:
        """Returns the model, and the number of the version that is meant; None for the newest one."""
        model = self.served.get(name)
        if label is not None:
            if model is None or label not in model.labels:
                raise invalid(f"Unrecognized servable version label: {label}")
            return model, model.labels[label]
        if number == 0 and model and 0 not in model.versions:  # clients of OpenVINO's server send 0 for the newest one
            return model, None
        return model, number

    def _served_model(self, config: Any, before: ServedModel | None) -> ServedModel:
        base_path = Path(config.base_path)
        if before is None or before.base_path != base_path:
            return ServedModel(config.name, base_path, config.model_version_policy)
        before.policy = config.model_version_policy
        return before

    def _set_labels(self, model: ServedModel, labels: Mapping[str, int]) -> None:
        available = {version.number for version in model.available()}
        for label, number in labels.items():
            if number not in available and not self.labels_for_unavailable:
                raise StatusError(
                    StatusCode.FAILED_PRECONDITION,
                    f"Request to assign label {label} to version {number} of model {model.name}, which is not "
                    "currently available for inference",
                )
        model.labels = dict(labels)

    def _selected(self, model: ServedModel) -> dict[int, Path]:
        """Returns the folders or files of the versions that the policy selects."""
        folders = find_version_folders(model.base_path, model.warn_once)
        selected = select_versions(model.policy, folders)
        if folders and not selected:
            existing = ", ".join(map(str, sorted(folders)))
            model.warn_once(
                f"The version policy of servable {model.name} selects none of the existing versions ({existing})"
            )
        if not folders:
            model.warn_once(
                f"No versions of servable {model.name} found under base path {model.base_path}. "
                "Did you forget to name your leaf directory as a number (eg. '/1/')?"
            )
        return {number: folders[number] for number in selected}

    def _load(self, model: ServedModel, number: int, path: Path) -> None:
        """Loads a version, unless it is loaded, was given up, or waits for its next attempt."""
        version = model.versions.get(number)
        if version is None or (version.state is State.END and version.error is None):
            version = model.versions[number] = Version(number, path)
        modified = modification_times(path)
        if version.error and version.modified != modified:  # it was written again: start over
            version.attempts, version.next_attempt = 0, 0.0
        given_up = version.attempts > self.max_num_load_retries
        if version.state is State.AVAILABLE or given_up or time.monotonic() < version.next_attempt:
            return
        version.state, version.modified = State.LOADING, modified
        version.attempts += 1
        started = time.monotonic()
        try:
            version.model = self.load(path)
        except StatusError as error:
            version.error = error
            version.next_attempt = time.monotonic() + self.load_retry_interval_s
            if version.attempts > self.max_num_load_retries:
                version.state = State.END
            LOG.error("%s version %d failed to load: %s", model.name, number, error.message)
            return
        version.error, version.state = None, State.AVAILABLE
        LOG.info("%s version %d is available (loaded in %.1f s)", model.name, number, time.monotonic() - started)

    def _unload(self, model: ServedModel, keep: set[int]) -> None:
        """Unloads all versions except those in `keep`; requests in flight keep a model alive until they end."""
        others = [version for number, version in model.versions.items() if number not in keep]
        loaded = [version for version in others if version.model is not None]
        for version in loaded:
            LOG.info("%s version %d is unloaded", model.name, version.number)
        for version in others:
            version.state, version.model = State.END, None
            version.error, version.attempts, version.next_attempt = None, 0, 0.0
        if loaded:
            gc.collect()  # a loaded SavedModel is full of reference cycles: its variables would stay for long


def find_version_folders(base_path: Path, on_duplicate: OnMessage = ignore) -> dict[int, Path]:
    """Returns the folder of each version below a model's base path, as TensorFlow Serving finds them.

    A model without versions counts as its version 1: a SavedModel, the folder of an export, or a file.
    """
    try:
        names = os.listdir(base_path)
    except OSError:
        return {1: base_path} if find_model_file(base_path) else {}
    folders = {version: base_path / name for version, name in version_folders(names, on_duplicate).items()}
    if not folders:
        saved_model = saved_model_in(base_path)
        if saved_model is not None:
            return {1: saved_model}
        if find_model_file(base_path):
            return {1: base_path}
    return folders


def select_versions(policy: Any, existing: Iterable[int]) -> list[int]:
    """Returns the existing versions that a policy (latest, all or specific) selects, oldest first."""
    numbers = sorted(existing)
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return numbers
    if kind == "specific":
        return [number for number in numbers if number in set(policy.specific.versions)]
    count = policy.latest.num_versions if kind == "latest" else 1
    return numbers[-(count or 1) :]


def modification_times(path: Path) -> tuple[int, ...]:
    """Returns the modification times of a version's folder and of its model's files, 0 for what does not exist."""
    model = other_model_file(path)
    files = [model.path, model.path.with_suffix(".bin")] if model else [path / SAVED_MODEL]
    times = []
    for file in (path, *files):
        try:
            times.append(file.stat().st_mtime_ns)
        except OSError:
            times.append(0)
    return tuple(times)
