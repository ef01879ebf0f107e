"""Tests `package`: reproducible archives, files with the schemas of AWS and TensorFlow Serving, scripts that run."""

from __future__ import annotations

import ast
import base64
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf
from clouds import moto_server

from unfreeze.errors import OutputError, SavedModelError, UnsupportedError
from unfreeze.targets.kserve import package_kserve
from unfreeze.targets.packaged import Packaged
from unfreeze.targets.platform_limits import ModelNumbers
from unfreeze.targets.sagemaker import package_sagemaker
from unfreeze.targets.tensorflow_serving import package_tensorflow_serving

LABELS = 'item { id: 1 name: "zero" }\nitem { id: 2 name: "one" }\n'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a detector that finds two objects in any image."""
    folder = tmp_path_factory.mktemp("detector")
    module = tf.Module()
    module.scores = tf.Variable([0.9, 0.6, 0.1])

    def detect(images: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.shape(images)[0]
        return {
            "detection_boxes": tf.tile(tf.constant([[[0.1, 0.2, 0.3, 0.4]] * 3]), [rows, 1, 1]),
            "detection_classes": tf.tile([[1.0, 2.0, 1.0]], [rows, 1]),
            "detection_scores": tf.tile(module.scores[tf.newaxis], [rows, 1]),
            "num_detections": tf.fill([rows], 3.0),
        }

    pixels = tf.function(detect, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="inputs")])
    strings = tf.function(detect, input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    names = {"serving_default": pixels, "image_tensor": pixels, "encoded_image_string_tensor": strings}
    tf.saved_model.save(module, str(folder), signatures=names)
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "assets" / "label_map.pbtxt").write_text(LABELS)
    return folder


@pytest.fixture(scope="module")
def sagemaker(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    return package_sagemaker(model, tmp_path_factory.mktemp("sagemaker"), name="digits", overwrite=True)


def document(packaged: Packaged, name: str) -> Any:
    return json.loads((packaged.folder / name).read_text())


def test_archive_is_reproducible(model: Path, sagemaker: Packaged, tmp_path: Path) -> None:
    for path in model.rglob("*"):
        os.utime(path, (1, 1))
    (model / "export.json").write_text("{}")
    again = package_sagemaker(model, tmp_path / "again", name="digits")
    (model / "export.json").unlink()
    first = (sagemaker.folder / "model.tar.gz").read_bytes()
    assert first == (again.folder / "model.tar.gz").read_bytes()
    assert first[4:8] == bytes(4)  # the time in the header of gzip
    for name in sagemaker.files:
        assert (sagemaker.folder / name).read_bytes() == (again.folder / name).read_bytes(), name


def test_content_of_the_archive(sagemaker: Packaged) -> None:
    with tarfile.open(sagemaker.folder / "model.tar.gz") as tar:
        entries = tar.getmembers()
    names = [entry.name for entry in entries]
    assert names == sorted(names)
    assert {name.split("/")[0] for name in names} == {"digits", "code"}
    assert [name for name in names if name.endswith("saved_model.pb")] == ["digits/1/saved_model.pb"]
    assert {(entry.mtime, entry.uid, entry.gid, entry.mode, entry.uname) for entry in entries} == {(0, 0, 0, 0o644, "")}


def test_documents_are_valid_arguments_of_boto3(sagemaker: Packaged) -> None:
    botocore = pytest.importorskip("botocore.session")
    from botocore.validate import validate_parameters

    client = botocore.get_session().get_service_model("sagemaker")
    calls = {
        "create-model.json": "CreateModel",
        "endpoint-config-real-time.json": "CreateEndpointConfig",
        "endpoint-config-serverless.json": "CreateEndpointConfig",
        "endpoint-config-async.json": "CreateEndpointConfig",
        "endpoint.json": "CreateEndpoint",
        "transform-job.json": "CreateTransformJob",
    }
    for name, operation in calls.items():
        arguments = document(sagemaker, name)
        if "ExecutionRoleArn" in arguments:
            assert arguments["ExecutionRoleArn"] == "${ROLE_ARN}"  # deploy.py replaces it
            arguments["ExecutionRoleArn"] = "arn:aws:iam::123456789012:role/sagemaker"
        validate_parameters(arguments, client.operation_model(operation).input_shape)
    container = document(sagemaker, "create-model.json")["PrimaryContainer"]
    assert container["Image"] == "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-inference:2.19.0-cpu"
    assert container["Environment"]["SAGEMAKER_TFS_DEFAULT_MODEL_NAME"] == "digits"


@pytest.fixture(scope="module")
def script(sagemaker: Packaged, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """code/inference.py as the container imports it."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sagemaker.folder / "model.tar.gz") as tar:
        for entry in tar:
            if entry.name.startswith("code/"):
                (folder / Path(entry.name).name).write_bytes(tar.extractfile(entry).read())  # type: ignore[union-attr]
    spec = importlib.util.spec_from_file_location("inference", folder / "inference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_script_imports_only_what_the_container_has(script: ModuleType) -> None:
    """The container has neither TensorFlow nor Pillow, and installs no packages when it starts."""
    tree = ast.parse(Path(str(script.__file__)).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {
        name.split(".")[0]
        for node in imports
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported <= sys.stdlib_module_names | {"requests"}
    assert "requests" in imported


def context(content_type: str | None, **more: Any) -> Any:
    return SimpleNamespace(request_content_type=content_type, custom_attributes=None, **more)


def response(**outputs: Any) -> Any:
    row = {"detection_boxes": [[0, 0, 1, 1]] * 3, "detection_classes": [1.0, 2.0, 7.0], **outputs}
    row.setdefault("detection_scores", [0.9, 0.5, 0.2])
    return SimpleNamespace(status_code=200, json=lambda: {"predictions": [row]})


def test_image_is_sent_encoded(script: ModuleType) -> None:
    request = json.loads(script.input_handler(io.BytesIO(b"\xff\xd8image"), context("application/x-image")))
    text = base64.b64encode(b"\xff\xd8image").decode()
    assert request == {"signature_name": "encoded_image_string_tensor", "instances": [{"b64": text}]}


@pytest.mark.parametrize(
    "body",
    [
        {"b64": "aGk="},
        {"instances": [{"b64": "aGk="}]},
        {"instances": [{"inputs": {"b64": "aGk="}}]},
        {"inputs": [{"b64": "aGk="}]},
        {"inputs": {"b64": "aGk="}},
        {"inputs": {"inputs": [{"b64": "aGk="}]}},
    ],
)
def test_encoded_images_in_json(script: ModuleType, body: Any) -> None:
    request = json.loads(script.input_handler(io.BytesIO(json.dumps(body).encode()), context("application/json")))
    assert request["instances"] == [{"b64": "aGk="}]
    assert request["signature_name"] == "encoded_image_string_tensor"


def test_pixels_in_json_and_images_in_json_lines(script: ModuleType) -> None:
    pixels = [[[1, 2, 3]]]
    request = json.loads(script.input_handler(json.dumps({"instances": [pixels]}), context("application/json")))
    assert request == {"signature_name": "image_tensor", "instances": [pixels]}
    lines = '{"b64": "aGk="}\n\n{"b64": "aG8="}\n'
    request = json.loads(script.input_handler(lines, context("application/jsonlines")))
    assert request["instances"] == [{"b64": "aGk="}, {"b64": "aG8="}]


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"", "application/x-image", "400: the body is empty"),
        (b"x", "text/csv", "415: Unsupported Media Type: text/csv"),
        (b"{", "application/json", "400: the body is not JSON"),
        (
            b"\xff\xd8\xff",
            "application/json",
            "400: the body is not UTF-8 text; send an image file as",
        ),
        (b'{"b64": "###"}', "application/json", '400: "b64" is not base64'),
        (b'{"b64": 3}', "application/json", '400: "b64" is not base64'),
        (b"3", "application/json", "400: an image is"),
        (b'{"instances": []}', "application/json", "400: send at least one image"),
        (
            b'{"instances": [{"b64": "aGk="}, [[[1, 2, 3]]]]}',
            "application/json",
            "400: send at least one image; all",
        ),
        (b'{"b64": "aGk="}\nrubbish', "application/jsonlines", "400: line 2 is not JSON"),
    ],
)
def test_requests_that_the_script_rejects(script: ModuleType, body: bytes, content_type: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        script.input_handler(io.BytesIO(body), context(content_type))


def test_detections_above_the_threshold_have_names(script: ModuleType) -> None:
    body, content_type = script.output_handler(response(num_detections=3.0), context("application/x-image"))
    assert content_type == "application/json"
    box = [0, 0, 1, 1]
    assert json.loads(body) == {
        "detections": [
            {"box": box, "class_id": 1, "class_name": "zero", "score": 0.9},
            {"box": box, "class_id": 2, "class_name": "one", "score": 0.5},
        ]
    }
    lower = SimpleNamespace(request_content_type="application/json", custom_attributes="min_score=0.1")
    body, _ = script.output_handler(response(num_detections=3.0), lower)
    assert [detection["class_name"] for detection in json.loads(body)["predictions"][0]["detections"]] == [
        "zero",
        "one",
        "7",
    ]
    body, content_type = script.output_handler(response(num_detections=1.0), context("application/jsonlines"))
    assert (content_type, body.count("\n"), len(json.loads(body)["detections"])) == ("application/jsonlines", 1, 1)


def test_errors_of_tensorflow_serving_are_passed_on(script: ModuleType) -> None:
    rejected = SimpleNamespace(status_code=400, json=lambda: {"error": "no such signature"})
    with pytest.raises(ValueError, match="400: no such signature"):
        script.output_handler(rejected, context("application/x-image"))
    broken = SimpleNamespace(status_code=500, json=lambda: json.loads(r'{"error": "\'"}'), text="its text")
    with pytest.raises(ValueError, match="500: its text"):
        script.output_handler(broken, context("application/x-image"))


def test_model_without_encoded_images_is_rejected(tmp_path: Path) -> None:
    module = tf.Module()
    module.one = tf.Variable(1.0)
    call = tf.function(lambda x: {"y": x * module.one}, input_signature=[tf.TensorSpec([None], name="x")])
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": call})
    with pytest.raises(SavedModelError, match="no signature takes encoded images"):
        package_sagemaker(tmp_path / "m", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "-a", "a" * 60, "", "a b", "a\n"])
def test_names_that_are_not_allowed(model: Path, tmp_path: Path, name: str) -> None:
    for package in (package_sagemaker, package_tensorflow_serving, package_kserve):
        with pytest.raises(OutputError, match="--name"):
            package(model, tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


def test_existing_files_are_not_replaced(model: Path, sagemaker: Packaged) -> None:
    with pytest.raises(OutputError, match="--overwrite"):
        package_sagemaker(model, sagemaker.folder)


def test_tensorflow_serving(model: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    packaged = package_tensorflow_serving(model, tmp_path / "out", name="digits", server="2.18", cpus=4)
    folder = packaged.folder
    assert (folder / "models" / "digits" / "1" / "saved_model.pb").is_file()
    compose = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["serving"]
    assert compose["image"] == packaged.image == "tensorflow/serving:2.18.1"
    assert "--enable_batching=true" not in compose["command"]  # images of different sizes do not fit into one batch
    objects = {item["kind"]: item for item in yaml.safe_load_all((folder / "kubernetes.yaml").read_text())}
    assert set(objects) == {
        *("ConfigMap", "PersistentVolumeClaim", "Deployment", "Service", "HorizontalPodAutoscaler"),
    }
    assert objects["ConfigMap"]["data"]["models.config"] == (folder / "models.config").read_text()
    assert (
        objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
        == objects["Deployment"]["metadata"]["name"]
    )
    container = objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["readinessProbe"]["httpGet"] == {"path": "/v1/models/digits/metadata", "port": "rest"}
    batched = package_tensorflow_serving(model, tmp_path / "batched", batching=True)
    assert "--enable_batching=true" in (batched.folder / "compose.yaml").read_text()


def test_configs_have_the_official_schema(model: Path, tmp_path: Path) -> None:
    stubs = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    from google.protobuf import text_format

    folder = package_tensorflow_serving(model, tmp_path / "out", name="digits").folder
    parsed = text_format.Parse((folder / "models.config").read_text(), stubs.ModelServerConfig())
    assert parsed.model_config_list.config[0].base_path == "/models/digits"
    monitoring = pytest.importorskip("tensorflow_serving.config.monitoring_config_pb2")
    parsed = text_format.Parse((folder / "monitoring.config").read_text(), monitoring.MonitoringConfig())
    assert parsed.prometheus_config.enable


def test_kserve(model: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    packaged = package_kserve(model, tmp_path, name="digits", server="2.19", storage_uri="s3://bucket/models/digits")
    service = yaml.safe_load((tmp_path / "inference-service.yaml").read_text())
    assert (service["kind"], service["metadata"]["name"]) == ("InferenceService", "digits")
    spec = service["spec"]["predictor"]["model"]
    assert (spec["storageUri"], spec["runtimeVersion"]) == ("s3://bucket/models/digits", "2.19.1")
    assert packaged.model.server.tensorflow == "2.19"
    with pytest.raises(OutputError, match="--storage-uri"):
        package_kserve(model, tmp_path / "x", server="2.19", storage_uri="s3://a\n  evil: true")
    with pytest.raises(UnsupportedError, match=r"versions of kserve are 1\.15, .*2\.6, .*2\.19"):
        package_kserve(model, tmp_path / "x", server="kserve:9.9")


def test_gpus_of_tensorflow_serving(model: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    packaged = package_tensorflow_serving(model, tmp_path, gpus=2, gpu_memory_fraction=0.4)
    assert packaged.image == "tensorflow/serving:2.19.1-gpu"
    assert packaged.to_dict()["environment"]["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    compose = yaml.safe_load((tmp_path / "compose.yaml").read_text())["services"]["serving"]
    assert compose["image"] == packaged.image
    assert compose["command"][-1] == "--per_process_gpu_memory_fraction=0.4"
    assert compose["environment"]["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    [device] = compose["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 2, "capabilities": ["gpu"]}
    objects = {item["kind"]: item for item in yaml.safe_load_all((tmp_path / "kubernetes.yaml").read_text())}
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["image"] == packaged.image
    assert container["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": "2"}
    assert {"name": "TF_FORCE_GPU_ALLOW_GROWTH", "value": "true"} in container["env"]
    assert "--per_process_gpu_memory_fraction=0.4" in container["args"]
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["nvidia.com/gpu"]


def test_gpus_of_kserve(model: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    package_kserve(model, tmp_path, server="2.19", gpus=1, gpu_memory_fraction=0.5)
    predictor = yaml.safe_load((tmp_path / "inference-service.yaml").read_text())["spec"]["predictor"]
    spec = predictor["model"]
    assert spec["runtimeVersion"] == "2.19.1-gpu"
    assert spec["args"] == ["--per_process_gpu_memory_fraction=0.5"]
    assert spec["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "TF_FORCE_GPU_ALLOW_GROWTH", "value": "true"} in spec["env"]
    assert predictor["tolerations"][0]["key"] == "nvidia.com/gpu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": -1}, "--gpus -1: must be 0 or more"),
        ({"gpus": 1, "gpu_memory_fraction": 1.5}, r"--gpu-memory-fraction 1\.5: must be above 0 and at most 1"),
        ({"gpu_memory_fraction": 0.5}, r"--gpu-memory-fraction 0\.5: has no effect without --gpus"),
        ({"memory": "1"}, r"--memory 1: the weights of the model .* do not fit into this memory"),
    ],
)
def test_gpus_and_memory_that_are_not_valid(model: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    for package in (package_tensorflow_serving, package_kserve):
        with pytest.raises(OutputError, match=message):
            package(model, tmp_path / "out", server="2.19", **options)
    assert not (tmp_path / "out").exists()


def test_instance_type_decides_the_image(model: Path, tmp_path: Path) -> None:
    warnings: list[str] = []
    packaged = package_sagemaker(model, tmp_path, instance_type="ml.g4dn.xlarge", on_warning=warnings.append)
    container = document(packaged, "create-model.json")["PrimaryContainer"]
    assert container["Image"].endswith("tensorflow-inference:2.19.0-gpu")
    assert container["Environment"]["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert "endpoint-config-serverless.json" not in packaged.files
    assert not (tmp_path / "endpoint-config-serverless.json").exists()
    assert warnings == []
    missing = run(packaged, {}, "--role", "arn:aws:iam::1:role/r", "--bucket", "b", "--mode", "serverless")
    assert missing.returncode == 1
    assert "--mode serverless: this package has no endpoint-config-serverless.json" in missing.stderr

    graviton = package_sagemaker(
        model, tmp_path, instance_type="ml.c7g.large", overwrite=True, on_warning=warnings.append
    )
    assert "tensorflow-inference-graviton:2.16.1-cpu" in graviton.image
    assert warnings == [
        "batch transform does not have ml.c7g.large. Choose another InstanceType in transform-job.json to use it."
    ]
    for name, message in (("ml.inf1.xlarge", "Inferentia"), ("ml.m5", "not a known instance type")):
        with pytest.raises(UnsupportedError, match=message):
            package_sagemaker(model, tmp_path / "x", instance_type=name)


def test_limits_of_sagemaker_are_compared_with_the_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = ModelNumbers(files_bytes=7 << 30, weights_bytes=7 << 30, image_size=(1024, 1024), load_s=50)
    monkeypatch.setattr("unfreeze.targets.packaged.model_numbers", lambda folder, record: numbers)
    warnings: list[str] = []
    packaged = package_sagemaker(model, tmp_path / "out", instance_type="ml.c5.xlarge", on_warning=warnings.append)
    assert "endpoint-config-serverless.json" not in packaged.files
    beginnings = (
        "--instance-type ml.c5.xlarge: the weights of the model (7516.2 MB) take more than half of this memory",
        "endpoint-config-serverless.json is not written. The files of the model need 7516.2 MB",
        "an image of 1024 x 1024 pixels as JSON numbers has about 16.5 MB; the limit of a real-time endpoint",
    )
    assert len(warnings) == len(beginnings)
    for warning, beginning in zip(warnings, beginnings, strict=True):
        assert warning.startswith(beginning)
    with pytest.raises(OutputError, match=r"--instance-type ml\.t2\.medium: the weights of the model .* do not fit"):
        package_sagemaker(model, tmp_path / "none", instance_type="ml.t2.medium")
    assert not (tmp_path / "none").exists()

    shared: list[str] = []
    package_sagemaker(model, tmp_path / "shared", multi_model_endpoint="all", on_warning=shared.append)
    assert [
        line for line in shared if "first request to a model of a multi-model endpoint is 60 s. Clients repeat" in line
    ]


@pytest.fixture(scope="module")
def multi_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    folder = tmp_path_factory.mktemp("multi-model")
    return package_sagemaker(model, folder, name="digits", multi_model_endpoint="detectors", overwrite=True)


def test_archive_for_a_multi_model_endpoint(multi_model: Packaged) -> None:
    with tarfile.open(multi_model.folder / "model.tar.gz") as tar:
        names = tar.getnames()
    assert {name.split("/")[0] for name in names} == {"1", "code"}
    assert "1/saved_model.pb" in names


def test_documents_for_a_multi_model_endpoint(model: Path, multi_model: Packaged, tmp_path: Path) -> None:
    botocore = pytest.importorskip("botocore.session")
    from botocore.validate import validate_parameters

    assert set(multi_model.files) == {
        *("model.tar.gz", "deploy.py", "create-model.json", "endpoint-config-real-time.json", "endpoint.json"),
        "invoke-endpoint.json",
    }
    created = document(multi_model, "create-model.json")
    container = created["PrimaryContainer"]
    assert (container["Mode"], container["ModelDataUrl"]) == ("MultiModel", "s3://${BUCKET}/detectors/models/")
    assert container["Environment"] == {"TF_ENABLE_ONEDNN_OPTS": "1"}  # the other variable depends on the model
    assert multi_model.to_dict()["environment"] == container["Environment"]
    assert "since all models of the endpoint share" in multi_model.to_dict()["note"]
    assert document(multi_model, "endpoint.json")["EndpointName"] == "detectors"
    invocation = document(multi_model, "invoke-endpoint.json")
    target = invocation["TargetModel"]
    session = botocore.get_session()
    runtime = session.get_service_model("sagemaker-runtime").operation_model("InvokeEndpoint")
    validate_parameters({**invocation, "Body": b""}, runtime.input_shape)
    client = session.get_service_model("sagemaker")
    config = document(multi_model, "endpoint-config-real-time.json")
    validate_parameters(config, client.operation_model("CreateEndpointConfig").input_shape)

    # Another model of the same endpoint has another archive, and everything else is the same.
    other = package_sagemaker(model, tmp_path, name="letters", min_score=0.1, multi_model_endpoint="detectors")
    assert document(other, "create-model.json") == created
    assert document(other, "endpoint-config-real-time.json") == config
    assert document(other, "invoke-endpoint.json")["TargetModel"] != target
    assert target.startswith("digits-")
    assert target.endswith(".tar.gz")


def test_multi_model_endpoint_that_is_not_possible(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"with --instance-type ml\.g5\.xlarge.* by its Triton container only"):
        package_sagemaker(model, tmp_path / "out", multi_model_endpoint="all", instance_type="ml.g5.xlarge")
    with pytest.raises(OutputError, match="--multi-model-endpoint a b: SageMaker accepts"):
        package_sagemaker(model, tmp_path / "out", multi_model_endpoint="a b")
    assert not (tmp_path / "out").exists()


def test_deploy_adds_a_model_to_a_multi_model_endpoint(multi_model: Packaged, aws: dict[str, str]) -> None:
    boto3 = pytest.importorskip("boto3")
    access = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=aws["AWS_ENDPOINT_URL"], **access)
    s3.create_bucket(Bucket="shared")
    done = run(multi_model, aws, "--role", "arn:aws:iam::123456789012:role/r", "--bucket", "shared", "--yes")
    assert done.returncode == 0, done.stderr
    target = document(multi_model, "invoke-endpoint.json")["TargetModel"]
    assert done.stdout.splitlines()[-2:] == [
        "endpoint detectors",
        f"model {target} (the TargetModel of requests)",
    ]
    body = s3.get_object(Bucket="shared", Key=f"detectors/models/{target}")["Body"].read()
    assert body == (multi_model.folder / "model.tar.gz").read_bytes()
    serverless = run(multi_model, aws, "--role", "r", "--bucket", "shared", "--mode", "serverless")
    assert "this package has no endpoint-config-serverless.json" in serverless.stderr


@pytest.fixture(scope="module")
def aws() -> Iterator[dict[str, str]]:
    with moto_server() as environment:
        yield environment


def run(packaged: Packaged, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-I", str(packaged.folder / "deploy.py"), *arguments]
    return subprocess.run(program, env={**os.environ, **environment}, capture_output=True, text=True)


def test_deploy_prints_the_calls_by_default(sagemaker: Packaged) -> None:
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    done = run(sagemaker, nowhere, "--role", "arn:aws:iam::1:role/r", "--bucket", "b", "--mode", "async")
    assert done.returncode == 0, done.stderr
    assert "nothing was done: run with --yes" in done.stdout
    assert [line.split("(")[0] for line in done.stdout.splitlines() if line.startswith(("s3.", "sagemaker."))] == [
        *("s3.upload_file", "sagemaker.create_model", "sagemaker.create_endpoint_config", "sagemaker.create_endpoint"),
    ]
    missing = run(sagemaker, nowhere, "--bucket", "b")
    assert (missing.returncode, missing.stderr.strip()) == (
        1,
        "error: create-model.json: --role is missing. Run deploy.py with --role.",
    )


def test_deploy_to_s3_and_sagemaker(sagemaker: Packaged, aws: dict[str, str]) -> None:
    boto3 = pytest.importorskip("boto3")
    session = {
        "region_name": "us-east-1",
        "endpoint_url": aws["AWS_ENDPOINT_URL"],
        "aws_access_key_id": "testing",
        "aws_secret_access_key": "testing",
    }
    s3, client = boto3.client("s3", **session), boto3.client("sagemaker", **session)
    s3.create_bucket(Bucket="models")
    arguments = ("--role", "arn:aws:iam::123456789012:role/sagemaker", "--bucket", "models", "--yes")
    done = run(sagemaker, aws, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "endpoint digits"
    assert client.describe_endpoint(EndpointName="digits")["EndpointStatus"] == "InService"
    name = document(sagemaker, "create-model.json")["ModelName"]
    url = client.describe_model(ModelName=name)["PrimaryContainer"]["ModelDataUrl"]
    body = s3.get_object(Bucket="models", Key=url.removeprefix("s3://models/"))["Body"].read()
    assert body == (sagemaker.folder / "model.tar.gz").read_bytes()
    again = run(sagemaker, aws, *arguments, "--no-wait")
    assert again.returncode == 0, again.stderr
    assert f"exists already: {name}" in again.stdout
    serverless = run(sagemaker, aws, *arguments, "--mode", "serverless", "--no-wait")
    assert serverless.returncode == 0, serverless.stderr
    config = client.describe_endpoint(EndpointName="digits-serverless")["EndpointConfigName"]
    assert config == document(sagemaker, "endpoint-config-serverless.json")["EndpointConfigName"]
    batch = run(sagemaker, aws, *arguments, "--mode", "batch")
    assert batch.returncode == 0, batch.stderr
    assert client.describe_transform_job(TransformJobName=name)["ModelName"] == name
    failed = run(sagemaker, aws, "--role", "arn:aws:iam::123456789012:role/r", "--bucket", "absent", "--yes")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
