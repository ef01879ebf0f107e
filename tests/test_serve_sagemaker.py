"""`serve --sagemaker`: /ping and /invocations as in the container, and hostile archives."""

import base64
import http.client
import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from serving import write_half_plus

from unfreeze.errors import ArchiveError, SavedModelError
from unfreeze.server.sagemaker import SageMakerServer

ECHO = """
import json, helper
def handler(data, context):
    if context.request_content_type == "application/x-fail":
        raise ValueError("no such thing")
    body = data.read()
    message = {"length": len(body), "helped": helper.NAME, **context._asdict()}
    del message["channel"]
    return json.dumps(message), "application/json"
"""
PAIR = """
import json
def input_handler(data, context):
    return json.dumps({"instances": [float(data.read())]})
def output_handler(response, context):
    return response.content, context.accept_header
"""


@contextmanager
def sagemaker(archive: Path) -> Iterator[SageMakerServer]:
    running = SageMakerServer(archive, port=0, max_request_bytes=100_000)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    write_half_plus(folder / "half" / "123", 3.0)
    write_half_plus(folder / "half" / "124", 2.0)
    return folder


def packed(folder: Path, archive: Path, **code: str) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
        for name, text in code.items():
            entry = tarfile.TarInfo("code/requirements.txt" if name == "requirements" else f"code/{name}.py")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return archive


@pytest.fixture(scope="module")
def plain(half: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SageMakerServer]:
    with sagemaker(packed(half, tmp_path_factory.mktemp("tar") / "model.tar.gz")) as running:
        yield running


def send_request(
    running: SageMakerServer, body: bytes, content_type: str | None = "application/json", **headers: str
) -> tuple[int, bytes, str]:
    assert running.http is not None
    connection = http.client.HTTPConnection("127.0.0.1", running.http.port, timeout=60)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", "/invocations", body, sent | ({"Content-Type": content_type} if content_type else {}))
    response = connection.getresponse()
    result = response.status, response.read(), response.headers.get("Content-Type", "")
    connection.close()
    return result


def test_ping(plain: SageMakerServer) -> None:
    assert plain.http is not None
    connection = http.client.HTTPConnection("127.0.0.1", plain.http.port)
    connection.request("GET", "/ping")
    assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b'{"instances": [1.0, 2.0, 5.0]}', "application/json", {"predictions": [2.5, 3.0, 4.5]}),
        (b'{"inputs": [1.0]}', "application/json", {"outputs": [2.5]}),
        (b"1.0", "application/json", {"predictions": [2.5]}),
        (b"[[1.0, 2.0]]", "application/json", {"predictions": [[2.5, 3.0]]}),
        (b'{"x": 1.0}\n{"x": 2.0}\n', "application/jsonlines", {"predictions": [2.5, 3.0]}),
        (b"[1.0, 2.0]\n[1.0, 5.0]", "application/jsons", {"predictions": [[2.5, 3.0], [2.5, 4.5]]}),
        (b"1.0\n2.0\n5.0", "text/csv", {"predictions": [2.5, 3.0, 4.5]}),
        (b"1.0,2.0\n1.0,5.0\n", "text/csv", {"predictions": [[2.5, 3.0], [2.5, 4.5]]}),
    ],
)
def test_json_and_csv_without_a_script(plain: SageMakerServer, body: bytes, content_type: str, expected: Any) -> None:
    status, response, response_type = send_request(plain, body, content_type)
    assert (status, json.loads(response), response_type) == (200, expected, "application/json")


def test_other_content_types_are_rejected_without_a_script(plain: SageMakerServer) -> None:
    for content_type, name in (("application/x-image", "application/x-image"), (None, "Unknown")):
        status, body, _ = send_request(plain, b"x", content_type)
        assert (status, json.loads(body)) == (415, {"error": f"Unsupported Media Type: {name}"})
    assert send_request(plain, b"not json")[0] == 400
    assert send_request(plain, b"1" * 100_001)[0] == 413
    assert b"JSON Parse error" in send_request(plain, b"\xff\xfe")[1]


def test_custom_attributes(plain: SageMakerServer) -> None:
    def with_attributes(attributes: str, body: bytes = b'{"instances": [1.0]}') -> tuple[int, Any]:
        status, response, _ = send_request(plain, body, X_Amzn_SageMaker_Custom_Attributes=attributes)
        return status, json.loads(response)

    assert with_attributes("tfs-model-name=half,tfs-model-version=123") == (200, {"predictions": [3.5]})
    assert with_attributes("tfs-model-name=none") == (404, {"error": "Servable not found for request: Latest(none)"})
    assert with_attributes("tfs-model-name=../../etc")[0] == 400
    assert with_attributes("tfs-method=explode")[0] == 400
    regress = b'{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}]}'
    assert with_attributes("tfs-method=regress", regress) == (200, {"results": [2.5]})


def test_accept_header_selects_the_content_type(plain: SageMakerServer) -> None:
    assert send_request(plain, b"1.0", Accept="application/jsonlines, text/csv")[2] == "application/jsonlines"


def test_handler_receives_the_context_of_the_container(half: Path, tmp_path: Path) -> None:
    archive = packed(half, tmp_path / "model.tar.gz", inference=ECHO, helper="NAME = 'helper'")
    with sagemaker(archive) as running:
        status, body, _ = send_request(
            running, b"12345", "application/x-image", Accept="text/plain",
            X_Amzn_SageMaker_Custom_Attributes="tfs-model-version=123",
        )  # fmt: skip
        message = json.loads(body)
        assert status == 200
        assert (
            message.pop("rest_uri")
            == f"http://localhost:{running.server.rest_port}/v1/models/half/versions/123:predict"
        )
        assert message.pop("grpc_port") == str(running.server.grpc_port)
        assert message.pop("timeout") > 0
        assert message == {
            "length": 5, "helped": "helper", "model_name": None, "model_version": "123", "method": None,
            "custom_attributes": "tfs-model-version=123", "request_content_type": "application/x-image",
            "accept_header": "text/plain", "content_length": 5,
        }  # fmt: skip
        status, body, _ = send_request(running, b"1", "application/x-fail")
        assert (status, json.loads(body)) == (500, {"error": "no such thing"})


def test_pair_of_handlers_around_a_request(half: Path, tmp_path: Path) -> None:
    with sagemaker(packed(half, tmp_path / "model.tar.gz", inference=PAIR)) as running:
        status, body, content_type = send_request(running, b"5.0", "text/anything", Accept="application/json")
        assert (status, json.loads(body), content_type) == (200, {"predictions": [4.5]}, "application/json")
        status, body, _ = send_request(running, b"nan or not")
        assert status == 500
        assert "could not convert string to float" in json.loads(body)["error"]
        status, body, _ = send_request(running, b"5", X_Amzn_SageMaker_Custom_Attributes="tfs-model-name=none")
        assert (status, "404" in json.loads(body)["error"]) == (500, True)


def test_script_without_handlers_is_rejected(half: Path, tmp_path: Path) -> None:
    for text, message in (("x = 1", "Handlers are not implemented"), ("import nothing_at_all", "nothing_at_all")):
        with pytest.raises(ArchiveError, match=message):
            sagemaker(packed(half, tmp_path / "model.tar.gz", inference=text)).__enter__()


def test_requirements_are_reported_and_not_installed(half: Path, tmp_path: Path) -> None:
    from unfreeze.server.serve import start_sagemaker

    warnings: list[str] = []
    code = {"helper": "NAME = 'helper'", "requirements": "# of the script\nnumpy>=1.20\n\nnothing-at-all==1\n"}
    archive = packed(half, tmp_path / "model.tar.gz", inference=ECHO, **code)
    running = start_sagemaker(archive, port=0, on_warning=warnings.append)
    running.stop()
    warning = (
        "code/requirements.txt is not installed here, unlike in the container. "
        "Install numpy>=1.20, nothing-at-all==1 beside unfreeze."
    )
    assert warnings == [warning]
    missing = packed(half, tmp_path / "missing.tar.gz", inference="import nothing_at_all", **code)
    with pytest.raises(ArchiveError, match=f"No module named 'nothing_at_all'. {re.escape(warning)}"):
        start_sagemaker(missing, port=0)
    unused = packed(half, tmp_path / "unused.tar.gz", requirements=code["requirements"])
    with sagemaker(unused) as plain:
        assert plain.missing_requirements == ""


def test_version_folder_at_the_root_is_named_model(half: Path, tmp_path: Path) -> None:
    with sagemaker(packed(half / "half", tmp_path / "model.tar.gz")) as running:
        assert running.default_model == "model"
        assert json.loads(send_request(running, b"1.0")[1]) == {"predictions": [2.5]}


def entry(name: str, content: bytes = b"x", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


BAD_ENTRIES = [
    ([entry("../outside")], "outside of the model's folder"),
    ([entry("half/1/../../../outside")], "outside of the model's folder"),
    ([entry("/tmp/outside")], "outside of the model's folder"),
    ([entry("..\\outside")], "outside of the model's folder"),
    ([entry("C:outside")], "outside of the model's folder"),
    ([entry("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "is a link or a device"),
    ([entry("link", b"", type=tarfile.LNKTYPE, linkname="../../etc/passwd")], "is a link or a device"),
    ([entry("device", b"", type=tarfile.CHRTYPE)], "is a link or a device"),
    ([entry("pipe", b"", type=tarfile.FIFOTYPE)], "is a link or a device"),
    ([entry("half/1/a"), entry("half/1/a")], "occurs twice"),
    ([entry("a", b"x" * 5000)], "unpacks to more than 4000 bytes"),
]


@pytest.mark.parametrize(("entries", "message"), BAD_ENTRIES, ids=[str(index) for index in range(len(BAD_ENTRIES))])
def test_unsafe_archive_entries_are_rejected(tmp_path: Path, entries: Any, message: str) -> None:
    from unfreeze.server.archives import unpack

    archive = tmp_path / "in" / "model.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ArchiveError, match=message):
        unpack(archive, tmp_path / "in" / "out", max_bytes=4000)
    assert not (tmp_path / "outside").exists()
    assert not Path("/tmp/outside").exists()


def test_archive_that_unpacks_to_too_much_is_rejected_before_it_is_written(tmp_path: Path) -> None:
    from unfreeze.server.archives import unpack

    class Zeros(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    with tarfile.open(tmp_path / "model.tar.gz", "w:gz", compresslevel=1) as tar:
        info = tarfile.TarInfo("half/1/saved_model.pb")
        info.size = 2**28 + 1
        tar.addfile(info, Zeros())
    with pytest.raises(ArchiveError, match="is a decompression bomb"):
        unpack(tmp_path / "model.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_archives_are_rejected(tmp_path: Path, half: Path) -> None:
    complete = packed(half, tmp_path / "complete.tar.gz").read_bytes()
    (tmp_path / "incomplete.tar.gz").write_bytes(complete[: len(complete) // 2])
    (tmp_path / "text.tar.gz").write_text("not a tar")
    for name in ("incomplete.tar.gz", "text.tar.gz"):
        with pytest.raises(ArchiveError, match=r"is not a complete \.tar\.gz"):
            SageMakerServer(tmp_path / name, port=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SavedModelError, match="no SavedModel bundles found!"):
        SageMakerServer(tmp_path / "empty", port=0)


ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_archive_of_unfreeze_package_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3 = pytest.importorskip("boto3")
    from unfreeze import export, predict
    from unfreeze.targets.sagemaker import package_sagemaker

    digits = ROOT / "examples" / "digits"
    export(digits / "run", output_directory=tmp_path / "digits", label_map=digits / "label_map.pbtxt", verify=False)
    package_sagemaker(tmp_path / "digits", tmp_path / "package", name="digits")
    scene = digits / "scenes" / "scene_00.png"
    with sagemaker(tmp_path / "package" / "model.tar.gz") as running:
        assert running.http is not None
        image = io.BytesIO()
        Image.open(scene).convert("RGB").save(image, "JPEG", quality=95)
        status, body, content_type = send_request(running, image.getvalue(), "application/x-image")
        assert (status, content_type) == (200, "application/json")
        assert json.loads(body)["detections"]
        rows = [{"b64": base64.b64encode(image.getvalue()).decode()}]
        status, body_of_row, _ = send_request(running, json.dumps({"instances": rows}).encode())
        assert (status, json.loads(body_of_row)["predictions"]) == (200, [json.loads(body)])
        for garbage, kind in ((b"garbage", "application/x-image"), (b"garbage", "application/json"), (b"", "text/csv")):
            status, message, _ = send_request(running, garbage, kind)
            assert status == 500
            assert set(json.loads(message)) == {"error"}

        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{running.http.port}")
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(variable, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        assert boto3.client("sagemaker-runtime")
        options: dict[str, Any] = {"draw": False, "min_score": 0.3}
        [remote] = predict("sagemaker://digits", scene, **options)
        [local] = predict(tmp_path / "digits", scene, **options)
        assert remote.detections
        for expected, actual in zip(local.detections, remote.detections, strict=True):
            assert (expected.class_id, expected.name) == (actual.class_id, actual.name)
            assert expected.score == pytest.approx(actual.score, abs=1e-4)
            assert expected.box == pytest.approx(actual.box, abs=1e-4)
