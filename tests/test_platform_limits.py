"""The limits of platforms are compared with the numbers of a model: errors if it can never work, else warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from unfreeze.errors import OutputError
from unfreeze.export_record import CheckRecord, ExportRecord
from unfreeze.targets.kubernetes import memory_bytes
from unfreeze.targets.platform_limits import (
    ASYNCHRONOUS,
    LIMITS,
    REAL_TIME,
    SERVERLESS,
    Kind,
    ModelNumbers,
    exceeds,
    findings,
    memory_findings,
    model_numbers,
)

GIB = 1 << 30


def test_limits_of_the_api_are_those_of_botocore() -> None:
    session = pytest.importorskip("botocore.session").get_session()
    body = session.get_service_model("sagemaker-runtime").shape_for("BodyBlob").metadata["max"]
    assert {limit.most for limit in LIMITS if limit.platform == REAL_TIME and limit.kind is not Kind.START} == {body}
    config = session.get_service_model("sagemaker").shape_for("ProductionVariantServerlessConfig")
    [memory] = [limit.most for limit in LIMITS if limit.platform == SERVERLESS and limit.kind is Kind.MEMORY]
    assert config.members["MemorySizeInMB"].metadata["max"] << 20 == memory


def test_weights_are_compared_with_the_memory() -> None:
    with pytest.raises(OutputError, match=r"--memory 1Gi: the weights of the model \(2147\.5 MB\) do not fit"):
        list(memory_findings(ModelNumbers(weights_bytes=2 * GIB), GIB, "--memory 1Gi"))
    [warning] = memory_findings(ModelNumbers(weights_bytes=2 * GIB), 3 * GIB, "--memory 3Gi")
    assert warning.startswith("--memory 3Gi: the weights of the model (2147.5 MB) take more than half")
    assert list(memory_findings(ModelNumbers(weights_bytes=2 * GIB), 4 * GIB, "")) == []


@pytest.mark.parametrize(
    ("amount", "size"), [("4Gi", 4 * GIB), ("1.5Gi", 3 * GIB // 2), ("500M", 500_000_000), ("2K", 2000), ("7", 7)]
)
def test_amounts_of_memory_in_bytes(amount: str, size: int) -> None:
    assert memory_bytes(amount) == size


def test_request_of_pixels_is_compared_with_the_payload_limits() -> None:
    platforms = dict.fromkeys((REAL_TIME, SERVERLESS, ASYNCHRONOUS), "")
    [line] = findings(ModelNumbers(image_size=(512, 640)), platforms, pixels=True)
    assert line == (
        "an image of 512 x 640 pixels as JSON numbers has about 5.1 MB; the limit of a serverless endpoint of "
        "SageMaker is 4.2 MB. Send JPEG or PNG files instead."
    )
    assert len(list(findings(ModelNumbers(image_size=(1024, 1024)), platforms, pixels=True))) == 2
    assert list(findings(ModelNumbers(image_size=(1024, 1024)), platforms, pixels=False)) == []
    assert list(findings(ModelNumbers(image_size=None), platforms, pixels=True)) == []


def test_response_with_every_detection_is_compared_with_the_payload_limits() -> None:
    platforms = dict.fromkeys((REAL_TIME, SERVERLESS), "")
    [line] = findings(ModelNumbers(), platforms, pixels=True, response_bytes=5 << 20)
    assert line.startswith("a response with every detection of an image has about 5.2 MB; the limit of a serverless")
    assert list(findings(ModelNumbers(), platforms, pixels=True, response_bytes=1000)) == []


def test_measured_time_to_load_is_compared_with_the_time_to_start() -> None:
    platforms = {REAL_TIME: "Raise it.", SERVERLESS: "Use another."}
    [line] = findings(ModelNumbers(load_s=100), platforms, pixels=True)
    assert line == (
        "the model took 100 s to load when it was exported; the limit of a serverless endpoint of SageMaker is 180 s. "
        "Use another."
    )
    assert len(list(findings(ModelNumbers(load_s=300), platforms, pixels=True))) == 2


def test_model_that_never_fits_a_serverless_endpoint() -> None:
    assert exceeds(ModelNumbers(files_bytes=GIB, weights_bytes=GIB), SERVERLESS) is None
    disk = exceeds(ModelNumbers(files_bytes=5 * GIB, weights_bytes=GIB), SERVERLESS)
    assert (
        disk == "The files of the model need 5368.7 MB; the limit of a serverless endpoint of SageMaker is 5368.7 MB."
    )
    memory = exceeds(ModelNumbers(files_bytes=GIB, weights_bytes=7 * GIB), SERVERLESS)
    assert memory is not None
    assert memory.startswith("The weights in memory need 7516.2 MB")


def test_numbers_of_a_model(tmp_path: Path) -> None:
    """An empty MetaGraph is enough: tags {tag "serve"}, no signatures."""
    (tmp_path / "saved_model.pb").write_bytes(b"\x12\x09\x0a\x07\x22\x05serve")
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_bytes(bytes(1000))
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "labels").write_bytes(bytes(70))
    record = ExportRecord(
        checks=[
            CheckRecord("tf2_loader", "passed", numbers={"load_s": 9.0}),
            CheckRecord("cpp_loader", "passed", numbers={"load_s": 2.5}),
        ]
    )
    assert model_numbers(tmp_path, record) == ModelNumbers(1081, 1011, None, 2.5)
    assert model_numbers(tmp_path, None).load_s is None
