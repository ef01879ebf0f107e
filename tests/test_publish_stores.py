"""Tests `publish` and `watch` with S3 and Google Cloud Storage, emulated by servers on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf
from clouds import Bucket, gs_bucket, s3_bucket
from serving import in_parallel, write_half_plus
from test_watch import Exports, write_checkpoint

from unfreeze.cli import dispatch
from unfreeze.errors import OutputError, SavedModelError
from unfreeze.exporting import from_checkpoint as exporting
from unfreeze.publishing.labels import labels
from unfreeze.publishing.object_store_base_path import ObjectStoreBasePath
from unfreeze.publishing.prune import prune
from unfreeze.publishing.publish import publish
from unfreeze.publishing.rollback import rollback
from unfreeze.publishing.watch import watch

FILES = ["published.json", "saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index"]


@pytest.fixture(scope="module", params=[s3_bucket, gs_bucket], ids=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    with request.param("models") as bucket:
        yield bucket


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    for plus in (1, 2, 3):
        write_half_plus(folder / str(plus), float(plus))
    return [folder / str(plus) for plus in (1, 2, 3)]


def names(bucket: Bucket, base: str) -> list[str]:
    return sorted(key.removeprefix(f"{base}/") for key in bucket.listed() if key.startswith(f"{base}/"))


def plus_of(url: str, version: int) -> float:
    """Returns what a version adds, by loading a copy of its objects."""
    with ObjectStoreBasePath(url).local_copy(version) as folder:
        return float(tf.saved_model.load(str(folder)).signatures["serving_default"](x=tf.constant(0.0))["y"])


def test_publish_labels_rollback_and_prune(bucket: Bucket, models: list[Path]) -> None:
    url = f"{bucket.url}/digits"
    assert publish(models[0], url, labels=["stable"], verify=False).version == 1
    assert names(bucket, "digits") == sorted([*(f"1/{name}" for name in FILES), "models.config"])
    assert publish(models[1], f"{url}/", labels=["canary"], verify=False).version == 2
    assert publish(models[2], url, verify=False).version == 3
    assert [plus_of(url, version) for version in (1, 2, 3)] == [1.0, 2.0, 3.0]
    assert labels(url) == {"stable": 1, "canary": 2}
    with pytest.raises(OutputError, match="version 3 exists already"):
        publish(models[0], url, version=3, verify=False)
    done = rollback(url)
    assert (done.version, done.copy_of, done.withdrawn) == (4, 2, 3)
    assert plus_of(url, 4) == 2.0
    assert prune(url, keep=1) == [3]
    assert sorted(ObjectStoreBasePath(url).versions()) == [1, 2, 4]
    assert labels(url, remove=["canary"]) == {"stable": 1}
    assert prune(url, keep=1) == [2]
    assert not [name for name in names(bucket, "digits") if name.startswith((".", "2/", "3/"))]


def test_the_command_line(bucket: Bucket, models: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{bucket.url}/by-hand"
    assert not dispatch(["publish", str(models[0]), url, "--no-verify", "--label", "stable", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["model_base_path"], printed["version"], printed["labels"]) == (url, 1, {"stable": 1})
    assert not dispatch(["labels", url])
    assert capsys.readouterr().out == "stable=1\n"


def test_saved_model_pb_is_uploaded_last(bucket: Bucket, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{bucket.url}/ordered"
    files = ObjectStoreBasePath(url).files  # one instance per thread and store
    put, seen = files.put_file, []

    def put_file(source: str, key: str) -> None:
        if key.endswith("/saved_model.pb"):
            seen.append(names(bucket, "ordered"))
        put(source, key)

    monkeypatch.setattr(files, "put_file", put_file)
    publish(models[0], url, verify=False)
    [before] = seen
    assert [name for name in before if not name.startswith(".")] == sorted(
        f"1/{name}" for name in FILES if name != "saved_model.pb"
    )
    assert names(bucket, "ordered") == sorted(f"1/{name}" for name in FILES)


def test_publishers_at_the_same_time_get_different_numbers(bucket: Bucket, models: list[Path]) -> None:
    url = f"{bucket.url}/race"
    numbers = in_parallel(3, lambda index: publish(models[index], url, verify=False).version)
    assert len(set(numbers)) == 3
    assert {plus_of(url, number) for number in numbers} == {1.0, 2.0, 3.0}


PROGRAM = """
import os, signal, sys
from unfreeze.publishing.object_store_base_path import ObjectStoreBasePath
from unfreeze.publishing.publish import publish
model, url = sys.argv[1:]
files = ObjectStoreBasePath(url).files
put = files.put_file
def put_file(source, key):
    if key.endswith("saved_model.pb"):
        os.kill(os.getpid(), signal.SIGKILL)
    put(source, key)
files.put_file = put_file
publish(model, url, verify=False)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_publisher_killed_during_the_upload(bucket: Bucket, models: list[Path]) -> None:
    url = f"{bucket.url}/killed"
    publish(models[0], url, verify=False)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(models[1]), url], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert "2/variables/variables.index" in names(bucket, "killed")
    assert list(ObjectStoreBasePath(url).versions()) == [1]  # what a server can load
    assert plus_of(url, 1) == 1.0
    assert publish(models[2], url, verify=False).version == 2
    assert names(bucket, "killed") == sorted(f"{version}/{name}" for version in (1, 2) for name in FILES)


def test_failed_upload_leaves_nothing(bucket: Bucket, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{bucket.url}/failing"
    publish(models[0], url, verify=False)

    def put_file(source: str, key: str) -> None:
        raise PermissionError("Access Denied\nat some length")

    monkeypatch.setattr(ObjectStoreBasePath(url).files, "put_file", put_file)
    with pytest.raises(OutputError, match=rf"{url}: PermissionError: Access Denied$"):
        publish(models[1], url, verify=False)
    assert names(bucket, "failing") == sorted(f"1/{name}" for name in FILES)


def test_watch_publishes_to_a_store(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "export_checkpoint", Exports())
    url, run = f"{bucket.url}/watched", tmp_path / "run"
    for step in (100, 200, 300):
        write_checkpoint(run, step)
    assert [published.version for published in watch(run, url, once=True, keep=2, labels=["newest"])] == [1, 2]
    assert watch(run, url, once=True, keep=2) == []  # a restart publishes nothing twice
    write_checkpoint(run, 400)
    assert [published.version for published in watch(run, url, once=True, keep=2, labels=["newest"])] == [3]
    assert list(ObjectStoreBasePath(url).versions()) == [2, 3]
    assert labels(url) == {"newest": 3}


def test_missing_bucket(bucket: Bucket, models: list[Path]) -> None:
    url = bucket.url.replace("models", "absent") + "/digits"
    with pytest.raises(SavedModelError, match=f"^{url}: no versions here"):
        rollback(url)
    with pytest.raises(OutputError, match=rf"^{url}: .*Does the bucket exist\?"):
        publish(models[0], url, verify=False)
