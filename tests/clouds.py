"""Object stores on this machine: moto's S3 and an emulator of Google Cloud Storage, found through the environment."""

import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Bucket:
    """A bucket of an object store; `listed` lists its keys without the client that is tested."""

    url: str
    listed: Callable[[], list[str]]


@contextmanager
def moto_server() -> Iterator[dict[str, str]]:
    """Yields the environment in which boto3 uses an empty S3 and SageMaker on this machine, by moto."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    end = time.monotonic() + 60
    while not getattr(server, "_server", None) and time.monotonic() < end:
        time.sleep(0.05)
    _, port = server.get_host_and_port()
    address = f"http://127.0.0.1:{port}"
    try:
        # All servers of a process share their state, so that of an earlier server must be deleted.
        urllib.request.urlopen(f"{address}/moto-api/reset", data=b"", timeout=60).close()
        yield {"AWS_ENDPOINT_URL": address, **KEYS}
    finally:
        server.stop()


@contextmanager
def s3_bucket(name: str) -> Iterator[Bucket]:
    boto3, s3fs = pytest.importorskip("boto3"), pytest.importorskip("s3fs")
    with moto_server() as environment, mock.patch.dict(os.environ, environment):
        client = boto3.client("s3")
        client.create_bucket(Bucket=name)
        s3fs.S3FileSystem.clear_instance_cache()  # an earlier one uses another port
        yield Bucket(
            f"s3://{name}", lambda: [item["Key"] for item in client.list_objects_v2(Bucket=name).get("Contents", [])]
        )
        s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def gs_bucket(name: str) -> Iterator[Bucket]:
    with mock.patch.dict(os.environ, {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}):  # unknown to emulators
        gcsfs = pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket=name)
    server.start()
    address = f"http://127.0.0.1:{server._api._httpd.server_address[1]}"

    def keys() -> list[str]:
        with urllib.request.urlopen(f"{address}/storage/v1/b/{name}/o", timeout=60) as response:
            return [item["name"] for item in json.loads(response.read()).get("items", [])]

    try:
        with mock.patch.dict(os.environ, {"STORAGE_EMULATOR_HOST": address}):
            gcsfs.GCSFileSystem.clear_instance_cache()
            yield Bucket(f"gs://{name}", keys)
            gcsfs.GCSFileSystem.clear_instance_cache()
    finally:
        server.stop()
