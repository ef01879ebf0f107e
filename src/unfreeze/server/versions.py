"""Which versions of which models answer: found in folders, loaded before the older one goes, looked up by requests."""

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

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.server.failures import Code, Failure, invalid, not_found
from unfreeze.server.loaded import LoadedModel
from unfreeze.version_folders import version_folders

LOG = logging.getLogger("unfreeze.server")
SAVED_MODEL = "saved_model.pb"


class State(Enum):
    """Of a version. Source: apis/get_model_status.proto."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass
class Version:
    """One numbered folder, and what became of it."""

    number: int
    folder: Path
    state: State = State.START
    failure: Failure | None = None
    model: LoadedModel | None = None
    attempts: int = 0
    next_attempt: float = 0.0  # of time.monotonic()
    stamp: tuple[int, ...] = ()  # changes when the folder is written again


@dataclass
class ServedModel:
    """One model of the config with the versions that were ever seen of it."""

    name: str
    base_path: Path
    policy: Any  # FileSystemStoragePathSourceConfig.ServableVersionPolicy
    labels: dict[str, int] = field(default_factory=dict)
    versions: dict[int, Version] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)

    def available(self) -> list[Version]:
        """The versions that answer, oldest first."""
        return sorted(
            (version for version in list(self.versions.values()) if version.state is State.AVAILABLE),
            key=lambda version: version.number,
        )


class Models:
    """The models that are served. One thread changes them (`poll`, `apply`), any number look them up."""

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
        """Serve what a ModelServerConfig lists, and nothing else; a model's loaded versions stay if its path does.

        Raises: Failure FAILED_PRECONDITION when a label is meant for a version that does not answer.
        """
        with self.changing:
            before = self.served
            self.served = {
                model.name: self._served(model, before.get(model.name)) for model in config.model_config_list.config
            }
            self.poll()
            for model in config.model_config_list.config:
                self._set_labels(self.served[model.name], dict(model.version_labels))
            if set(before) - set(self.served):
                gc.collect()

    def poll(self) -> None:
        """Look at the folders once: load what is wanted, then let go what is not."""
        with self.changing:
            for model in list(self.served.values()):
                wanted = self._wanted(model)
                for number in sorted(wanted, reverse=True):
                    self._load(model, number, wanted[number])
                if any(version.number in wanted for version in model.available()):
                    self._unload(model, keep=set(wanted))

    def find(self, name: str, number: int | None = None, label: str | None = None) -> Version:
        """The version that a request asks for, by number, by label, or the newest.

        Raises: Failure. Source of the texts: core/aspired_versions_manager.cc, model_servers/server_core.cc.
        """
        model, number = self._asked(name, number, label)
        found = model.available() if model else []
        if number is not None:
            found = [version for version in found if version.number == number]
        if not found:
            asked = f"Latest({name})" if number is None else f"Specific({name}, {number})"
            raise not_found(f"Servable not found for request: {asked}")
        return found[-1]

    def states(self, name: str, number: int | None = None, label: str | None = None) -> list[Version]:
        """All versions ever seen of a model, newest first, or the one asked for. Source: get_model_status_impl.cc."""
        model, number = self._asked(name, number, label)
        versions = dict(model.versions) if model else {}
        if number is not None:
            if number not in versions:
                raise not_found(f"Could not find version {number} of model {name}")
            return [versions[number]]
        if not versions:
            raise not_found(f"Could not find any versions of model {name}")
        return [versions[key] for key in sorted(versions, reverse=True)]

    def ready(self, name: str) -> bool:
        model = self.served.get(name)
        return bool(model and model.available())

    def _asked(self, name: str, number: int | None, label: str | None) -> tuple[ServedModel | None, int | None]:
        """The model, and the number of the version that is meant; None for the newest."""
        model = self.served.get(name)
        if label is not None:
            if model is None or label not in model.labels:
                raise invalid(f"Unrecognized servable version label: {label}")
            return model, model.labels[label]
        if number == 0 and model and 0 not in model.versions:  # what clients of OpenVINO's server send for the newest
            return model, None
        return model, number

    def _served(self, config: Any, before: ServedModel | None) -> ServedModel:
        base_path = Path(config.base_path)
        if before is None or before.base_path != base_path:
            return ServedModel(config.name, base_path, config.model_version_policy)
        before.policy = config.model_version_policy
        return before

    def _set_labels(self, model: ServedModel, labels: Mapping[str, int]) -> None:
        available = {version.number for version in model.available()}
        for label, number in labels.items():
            if number not in available and not self.labels_for_unavailable:
                raise Failure(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label {label} to version {number} of model {model.name}, which is not "
                    "currently available for inference",
                )
        model.labels = dict(labels)

    def _wanted(self, model: ServedModel) -> dict[int, Path]:
        """The versions that the policy wants of those which are there."""
        there = folders_of_versions(model.base_path, lambda warning: warn_once(model, warning))
        wanted = chosen(model.policy, there)
        if there and not wanted:
            listed = ", ".join(map(str, sorted(there)))
            warn_once(model, f"No versions of servable {model.name} are those of its policy; there are {listed}")
        if not there:
            warn_once(
                model,
                f"No versions of servable {model.name} found under base path {model.base_path}. "
                "Did you forget to name your leaf directory as a number (eg. '/1/')?",
            )
        return {number: there[number] for number in wanted}

    def _load(self, model: ServedModel, number: int, folder: Path) -> None:
        version = model.versions.get(number)
        if version is None or (version.state is State.END and version.failure is None):
            version = model.versions[number] = Version(number, folder)
        stamp = stamp_of(folder)
        if version.failure and version.stamp != stamp:  # written again: a new chance
            version.attempts, version.next_attempt = 0, 0.0
        given_up = version.attempts > self.max_num_load_retries
        if version.state is State.AVAILABLE or given_up or time.monotonic() < version.next_attempt:
            return
        version.state, version.stamp = State.LOADING, stamp
        version.attempts += 1
        started = time.monotonic()
        try:
            version.model = self.load(folder)
        except Failure as failure:
            version.failure = failure
            version.next_attempt = time.monotonic() + self.load_retry_interval_s
            if version.attempts > self.max_num_load_retries:
                version.state = State.END
            LOG.error("%s version %d failed to load: %s", model.name, number, failure.message)
            return
        version.failure, version.state = None, State.AVAILABLE
        LOG.info("%s version %d is available (loaded in %.1f s)", model.name, number, time.monotonic() - started)

    def _unload(self, model: ServedModel, keep: set[int]) -> None:
        gone = [version for number, version in model.versions.items() if number not in keep]
        dropped = [version for version in gone if version.model is not None]
        for version in gone:
            if version.model is not None:
                LOG.info("%s version %d goes", model.name, version.number)
            version.state, version.model = State.END, None  # requests in flight hold the model until they are answered
            version.failure, version.attempts, version.next_attempt = None, 0, 0.0
        if dropped:
            gc.collect()  # a loaded SavedModel is full of cycles: its variables would stay for long


def folders_of_versions(base_path: Path, on_duplicate: OnMessage = ignore) -> dict[int, Path]:
    """Returns the folder of each version below a model's base path, as TensorFlow Serving finds them.

    A SavedModel without versions, or an export's folder with one, counts as its version 1.
    """
    try:
        names = os.listdir(base_path)
    except OSError:
        return {}
    folders = {version: base_path / name for version, name in version_folders(names, on_duplicate).items()}
    if not folders:
        for folder in (base_path, base_path / "saved_model"):
            if (folder / SAVED_MODEL).is_file():
                return {1: folder}
    return folders


def chosen(policy: Any, there: Iterable[int]) -> list[int]:
    """The versions that a policy (latest, all, specific) picks of those there."""
    numbers = sorted(there)
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return numbers
    if kind == "specific":
        return [number for number in numbers if number in set(policy.specific.versions)]
    count = policy.latest.num_versions if kind == "latest" else 1
    return numbers[-(count or 1) :]


def stamp_of(folder: Path) -> tuple[int, ...]:
    """Changes when a folder or its graph is written again."""
    stamps = []
    for path in (folder, folder / SAVED_MODEL):
        try:
            stamps.append(path.stat().st_mtime_ns)
        except OSError:
            stamps.append(0)
    return tuple(stamps)


def warn_once(model: ServedModel, warning: str) -> None:
    if warning not in model.warned:
        model.warned.add(warning)
        LOG.warning("%s", warning)
