"""Tests `publish`, `labels`, `rollback` and `prune`: a version is complete, or it is not there."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from unfreeze.errors import OutputError, SavedModelError, UnsupportedError
from unfreeze.publishing.labels import labels
from unfreeze.publishing.prune import prune
from unfreeze.publishing.publish import publish
from unfreeze.publishing.rollback import rollback
from unfreeze.publishing.version_numbers import removable_versions
from unfreeze.targets import model_config
from unfreeze.targets.model_config import ModelConfig
from unfreeze.version_folders import version_of
from unfreeze.warmup_records import WARMUP_FILE


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns SavedModels that multiply by 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("models")
    for factor in (1, 2, 3):
        model = tf.Module()
        model.factor = tf.Variable(float(factor))
        call = tf.function(
            lambda x, model=model: {"y": x * model.factor}, input_signature=[tf.TensorSpec([None], name="x")]
        )
        tf.saved_model.save(model, str(folder / str(factor)), signatures={"serving_default": call})
    return [folder / str(factor) for factor in (1, 2, 3)]


def factor(version: Path) -> float:
    return float(tf.saved_model.load(str(version)).signatures["serving_default"](x=tf.constant([1.0]))["y"][0])


def visible(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir() if not path.name.startswith("."))


def test_next_number_is_above_all_versions_that_a_server_sees(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "007").mkdir()
    (tmp_path / "v9").mkdir()
    assert publish(models[0], tmp_path, verify=False).version == 8
    assert publish(models[1], tmp_path, version=5, verify=False).version == 5
    assert visible(tmp_path) == ["007", "5", "8", "v9"]
    assert factor(tmp_path / "8") == 1
    for taken in (5, 7):
        with pytest.raises(OutputError, match=f"version {taken} exists already"):
            publish(models[2], tmp_path, version=taken, verify=False)
    with pytest.raises(OutputError, match="a number from 1"):
        publish(models[2], tmp_path, version=0, verify=False)
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".unfreeze-stage")] == []


def test_frozen_model_is_rejected(models: list[Path], tmp_path: Path) -> None:
    frozen = tmp_path / "frozen"
    (frozen / "variables").mkdir(parents=True)
    (frozen / "saved_model.pb").write_bytes((models[0] / "saved_model.pb").read_bytes())
    with pytest.raises(SavedModelError, match="variables/ is empty"):
        publish(frozen, tmp_path / "base", verify=False)
    assert not (tmp_path / "base").exists()


def test_base_path_that_is_a_saved_model(models: list[Path]) -> None:
    with pytest.raises(SavedModelError, match=r"is a SavedModel\. Expected the folder that contains the versions"):
        publish(models[0], models[1], verify=False)


def test_model_with_a_broken_warmup_is_not_published(models: list[Path], tmp_path: Path) -> None:
    publish(models[0], tmp_path / "base", verify=False)
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", str(models[1]), str(broken)], check=True)
    (broken / WARMUP_FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(broken / WARMUP_FILE)) as writer:
        writer.write(b"\xff\xff")
    with pytest.raises(SavedModelError, match="record 1: is not a PredictionLog"):
        publish(broken, tmp_path / "base", verify=False)
    assert visible(tmp_path / "base") == ["1"]


def test_publishers_at_the_same_time_get_different_numbers(models: list[Path], tmp_path: Path) -> None:
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda: numbers.append(publish(models[0], tmp_path, verify=False).version))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]


PROGRAM = """
import os, signal, sys
from unfreeze.publishing.publish import publish
model, base, phase = sys.argv[1:]
def at(line):
    if line.startswith(phase):
        os.kill(os.getpid(), signal.SIGKILL)
publish(model, base, verify=False, labels=["stable"], on_progress=at)
"""


@pytest.mark.parametrize("phase", ["copying", "replaying", "adding a version", "version 2 is in place"])
def test_publisher_killed_in_any_phase(models: list[Path], tmp_path: Path, phase: str) -> None:
    publish(models[0], tmp_path, labels=["stable"], verify=False)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(models[1]), str(tmp_path), phase], env={**os.environ, "PYTHONPATH": "src"}
    )
    assert done.returncode == -signal.SIGKILL
    served = [version for version in map(version_of, os.listdir(tmp_path)) if version is not None]
    assert served == ([1, 2] if phase.startswith("version") else [1]) or sorted(served) == [1, 2]
    assert [factor(tmp_path / str(version)) for version in sorted(served)] == [1.0, 2.0][: len(served)]
    assert labels(tmp_path) == {"stable": max(served)}
    following = publish(models[2], tmp_path, verify=False).version
    assert following == max(served) + 1
    assert labels(tmp_path) == {"stable": max(served)}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".unfreeze-stage")] == []


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("command", ["publish", "rollback"])
def test_next_command_finishes_what_a_killed_one_left(
    models: list[Path], tmp_path: Path, placed: bool, command: str
) -> None:
    for model in models[:2]:
        publish(model, tmp_path, verify=False, labels=["stable"])
    killed = "os.rename" if not placed else "unfreeze.publishing.labels.write_labels"
    program = (
        "import os, signal, sys, unfreeze.publishing.labels\n"
        "from unfreeze.publishing.publish import publish\n"
        "from unfreeze.publishing.rollback import rollback\n"
        "model, base, command = sys.argv[1:]\n"
        "def kill(*arguments, **options): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{killed} = kill\n"
        "publish(model, base, verify=False, labels=['stable']) if command == 'publish' else rollback(base)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(models[2]), str(tmp_path), command],
        env={**os.environ, "PYTHONPATH": "src"},
    )
    assert done.returncode == -signal.SIGKILL
    warnings: list[str] = []
    assert labels(tmp_path, {"other": 1}, on_warning=warnings.append) == {"stable": 3 if placed else 2, "other": 1}
    [warning] = warnings
    assert warning == (
        f"{tmp_path}: a process that published version 3 ended before models.config was written; it is written now"
        if placed
        else f"{tmp_path}: a process ended before version 3 was published; the version is not there"
    )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".unfreeze-placing")] == []
    labels(tmp_path, {"other": 2}, on_warning=warnings.append)
    assert len(warnings) == 1, "it is reported once"


def test_error_before_a_version_is_in_place_leaves_nothing_to_finish(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    publish(models[0], tmp_path, verify=False, labels=["stable"])
    with monkeypatch.context() as patch:
        patch.setattr("os.rename", full)
        with pytest.raises(OutputError, match="No space left on device"):
            publish(models[1], tmp_path, verify=False, labels=["stable"])
    warnings: list[str] = []
    assert labels(tmp_path, {"other": 1}, on_warning=warnings.append) == {"stable": 1, "other": 1}
    assert warnings == []


def test_next_command_writes_the_labels_after_an_error(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OutputError("models.config cannot be written")

    publish(models[0], tmp_path, verify=False, labels=["stable"])
    with monkeypatch.context() as patch:
        patch.setattr("unfreeze.publishing.labels.write_labels", fail)
        with pytest.raises(OutputError):
            publish(models[1], tmp_path, verify=False, labels=["stable"])
        with pytest.raises(OutputError):  # it fails while it finishes: what is left stays
            labels(tmp_path, {"other": 1})
    assert labels(tmp_path, {"other": 1}) == {"stable": 2, "other": 1}


def test_labels_are_written_to_models_config(models: list[Path], tmp_path: Path) -> None:
    base = tmp_path / "digits"
    publish(models[0], base, verify=False)
    assert visible(base) == ["1"]  # no label, no file
    publish(models[1], base, labels=["canary", "stable"], verify=False)
    publish(models[2], base, labels=["canary"], verify=False)
    assert labels(base) == {"canary": 3, "stable": 2}
    config = model_config.parse_model_config((base / "models.config").read_text(), "")
    assert config == ModelConfig("digits", str(base), {"canary": 3, "stable": 2}, (2, 3))
    assert labels(base, {"stable": 1}, remove=["canary"]) == {"stable": 1}
    assert model_config.parse_model_config((base / "models.config").read_text(), "").versions == (1, 3)
    with pytest.raises(SavedModelError, match=r"no version 9 \(existing versions: 1, 2, 3\)"):
        labels(base, {"stable": 9})
    with pytest.raises(SavedModelError, match=r"no label canary \(existing labels: stable\)"):
        labels(base, remove=["canary"])
    with pytest.raises(OutputError, match="only letters, digits and _ are allowed"):
        publish(models[0], base, labels=["a-b"], verify=False)


def test_models_config_has_the_official_schema() -> None:
    stubs = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    from google.protobuf import text_format

    text = model_config.format_model_config(ModelConfig("digits", "/models/digits", {"stable": 2}, [3, 2]))
    config = text_format.Parse(text, stubs.ModelServerConfig()).model_config_list.config[0]
    assert (config.name, config.base_path, config.model_platform) == ("digits", "/models/digits", "tensorflow")
    assert dict(config.version_labels) == {"stable": 2}
    assert list(config.model_version_policy.specific.versions) == [2, 3]


def test_broken_models_config_is_reported(models: list[Path], tmp_path: Path) -> None:
    publish(models[0], tmp_path, labels=["stable"], verify=False)
    (tmp_path / "models.config").write_text("model_config_list { config { nam: 1 } }")
    with pytest.raises(SavedModelError, match=r"models\.config: is not a model config of TensorFlow Serving"):
        labels(tmp_path)


def test_rollback_publishes_the_previous_content(models: list[Path], tmp_path: Path) -> None:
    for model in models:
        publish(model, tmp_path, verify=False, labels=["stable"])
    done = rollback(tmp_path)
    assert (done.version, done.copy_of, done.withdrawn) == (4, 2, 3)
    assert factor(tmp_path / "4") == 2
    assert labels(tmp_path) == {"stable": 4}
    again = rollback(tmp_path)  # before 2 came 1, not 3
    assert (again.version, again.copy_of) == (5, 1)
    assert factor(tmp_path / "5") == 1
    with pytest.raises(SavedModelError, match="no version to go back to before version 5"):
        rollback(tmp_path)
    assert rollback(tmp_path, to=3).version == 6
    assert factor(tmp_path / "6") == 3
    with pytest.raises(OutputError, match="is the newest version already"):
        rollback(tmp_path, to=6)
    assert visible(tmp_path) == ["1", "2", "3", "4", "5", "6", "models.config"]


def test_prune_keeps_the_newest_and_labeled_versions(models: list[Path], tmp_path: Path) -> None:
    for model in (*models, models[0]):
        publish(model, tmp_path, verify=False)
    labels(tmp_path, {"stable": 2})
    assert prune(tmp_path, keep=1) == [1, 3]
    assert visible(tmp_path) == ["2", "4", "models.config"]
    assert prune(tmp_path, keep=1) == []
    assert removable_versions([1, 2, 3], 5, {}) == []
    with pytest.raises(OutputError, match="--keep 0: must be at least 1"):
        prune(tmp_path, keep=0)


def test_base_path_without_versions_is_reported_and_not_created(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for base in (tmp_path / "missing", tmp_path / "empty"):
        calls: list[tuple[Callable[..., object], tuple[object, ...], dict[str, Any]]] = [
            (prune, (), {"keep": 1}),
            (rollback, (), {}),
            (labels, (), {}),
            (labels, ({"stable": 1},), {}),
            (labels, (), {"remove": ["stable"]}),
        ]
        for function, arguments, options in calls:
            with pytest.raises(SavedModelError, match=re.escape(f"{base}: no versions here")):
                function(base, *arguments, **options)
    assert visible(tmp_path) == ["empty"]
    assert list((tmp_path / "empty").iterdir()) == []


def test_unknown_server_versions_are_rejected(models: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"--for tensorflow-serving:1\.2\. The known versions .* are 1\.15"):
        publish(models[0], tmp_path, runtimes=["tensorflow-serving:1.2"], verify=False)
    with pytest.raises(UnsupportedError, match="Use tensorflow-serving, kserve, triton, sagemaker"):
        publish(models[0], tmp_path, runtimes=["torchserve"], verify=False)


def test_publish_to_an_object_store(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    url = "memory://bucket/models/digits"
    written: list[str] = []
    memory = fsspec.filesystem("memory")
    put = type(memory).put_file

    def put_file(self: Any, source: str, key: str, **options: Any) -> None:
        written.append(key)
        put(self, source, key, **options)

    monkeypatch.setattr(type(memory), "put_file", put_file)
    assert publish(models[0], url, labels=["stable"], verify=False).version == 1
    assert written[-1].endswith("/1/saved_model.pb")
    assert publish(models[1], url, verify=False).version == 2
    assert labels(url) == {"stable": 1}
    assert json.loads(memory.cat_file("/bucket/models/digits/1/published.json"))["published_at"]
    assert rollback(url).copy_of == 1
    assert memory.cat_file("/bucket/models/digits/3/saved_model.pb") == (models[0] / "saved_model.pb").read_bytes()
    assert prune(url, keep=1) == [2]
    with pytest.raises(OutputError, match="version 3 exists already"):
        publish(models[0], url, version=3, verify=False)


def test_object_store_is_cleaned_up_after_a_crash(models: list[Path]) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    import socket

    top = "/bucket/models/crashed"
    memory.pipe_file(f"{top}/1/saved_model.pb", b"")
    memory.pipe_file(f"{top}/2/variables/variables.index", b"")
    claim = {"host": socket.gethostname(), "process": ended.pid}
    memory.pipe_file(f"{top}/.unfreeze-claim-2-abc", json.dumps(claim).encode())
    memory.pipe_file(f"{top}/.unfreeze-claim-3-def", json.dumps({"host": "elsewhere", "process": 1}).encode())
    assert publish(models[0], f"memory:/{top}", verify=False).version == 4  # 3 is being published elsewhere
    names = [name.rsplit("/", 1)[-1] for name in memory.ls(top, detail=False)]
    assert sorted(names) == [".unfreeze-claim-3-def", "1", "4"]
