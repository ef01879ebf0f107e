"""What SageMaker wants: a model.tar.gz, the documents of its interface, and a script that deploys them.

Source: scripts/docker/tensorflow/inference/sagemaker of aws/deep-learning-containers for the layout (`NAME/1/…`, and
`code/` at the root); the documents are the arguments of boto3's `create_model`, `create_endpoint_config` and so on.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unfreeze.errors import OutputError
from unfreeze.targets.server_versions import ServerVersion

ARCHIVE = "model.tar.gz"
NEEDED = ("detection_boxes", "detection_scores", "detection_classes")
NOT_SERVED = {"export.json", "published.json"}  # of a version, but with the time in it
SERVERLESS_MB = 4096
_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,49}", re.ASCII)


@dataclass(frozen=True)
class Options:
    """What a package for SageMaker is made with; role and bucket may come later, from whoever deploys it."""

    name: str
    version: int = 1
    min_score: float = 0.5
    region: str = "us-east-1"
    role: str = "${ROLE_ARN}"
    bucket: str = "${BUCKET}"
    instance_type: str = "ml.m5.xlarge"
    environment: Mapping[str, str] = field(default_factory=dict)


def name_of(name: str) -> str:
    """The same name, if SageMaker takes it.

    Raises: OutputError when it does not.
    """
    if not _NAME.fullmatch(name):
        raise OutputError(f"--name {name}: letters, digits and - between them, at most 50, for SageMaker")
    return name


def write_package(
    folder: Path, saved_model: Path, model: Mapping[str, Any], runtime: ServerVersion, options: Options
) -> list[str]:
    """Writes everything into `folder`; returns the names. `model` is what inference.py has to know."""
    archive = model_archive(saved_model, model, options)
    (folder / ARCHIVE).write_bytes(archive)
    for name, document in documents(hashlib.sha256(archive).hexdigest(), runtime, options).items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("sagemaker_deploy.py"), folder / "deploy.py")
    return sorted(path.name for path in folder.iterdir())


def model_archive(saved_model: Path, model: Mapping[str, Any], options: Options) -> bytes:
    """`NAME/VERSION/…` and `code/…`; the same model gives the same bytes, whenever and by whomever it is packed."""
    entries = {
        f"{options.name}/{options.version}/{path.relative_to(saved_model).as_posix()}": path.read_bytes()
        for path in saved_model.rglob("*")
        if path.is_file() and _served(path.relative_to(saved_model))
    }
    entries["code/inference.py"] = Path(__file__).with_name("sagemaker_inference.py").read_bytes()
    entries["code/model.json"] = json.dumps(model, indent=1, sort_keys=True, ensure_ascii=False).encode()
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(entries):
            entry = tarfile.TarInfo(name)  # owner 0, time 0
            entry.size, entry.mode = len(entries[name]), 0o644
            tar.addfile(entry, io.BytesIO(entries[name]))
    return packed.getvalue()


def documents(sha256: str, runtime: ServerVersion, options: Options) -> dict[str, Any]:
    """File name -> the arguments of a call. Names carry the archive's hash: another model is another name."""
    name = f"{options.name}-{sha256[:8]}"
    data = f"s3://{options.bucket}/{options.name}"
    instance = {"VariantName": "AllTraffic", "ModelName": name, "InitialVariantWeight": 1.0}
    machine = {"InitialInstanceCount": 1, "InstanceType": options.instance_type}
    variants: dict[str, dict[str, Any]] = {
        "real-time": {"ProductionVariants": [instance | machine]},
        "serverless": {
            "ProductionVariants": [
                instance | {"ServerlessConfig": {"MemorySizeInMB": SERVERLESS_MB, "MaxConcurrency": 5}}
            ]
        },
        "async": {
            "ProductionVariants": [instance | machine],
            "AsyncInferenceConfig": {
                "OutputConfig": {"S3OutputPath": f"{data}/async-output"},
                "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 2},
            },
        },
    }
    written: dict[str, Any] = {
        "create-model.json": {
            "ModelName": name,
            "ExecutionRoleArn": options.role,
            "PrimaryContainer": {
                "Image": runtime.image(options.region),
                "ModelDataUrl": f"{data}/{sha256[:8]}/{ARCHIVE}",
                "Environment": {"SAGEMAKER_TFS_DEFAULT_MODEL_NAME": options.name, **options.environment},
            },
        },
        "transform-job.json": _transform_job(name, data, options),
    }
    for mode, variant in variants.items():
        digest = hashlib.sha256(json.dumps(variant, sort_keys=True).encode()).hexdigest()[:6]
        config = f"{name}-{digest}"
        written[f"endpoint-config-{mode}.json"] = {"EndpointConfigName": config, **variant}
    real_time = written["endpoint-config-real-time.json"]["EndpointConfigName"]
    written["endpoint.json"] = {"EndpointName": options.name, "EndpointConfigName": real_time}
    return written


def _transform_job(name: str, data: str, options: Options) -> dict[str, Any]:
    """Batch transform: each picture below `batch-input` is one request."""
    return {
        "TransformJobName": name,
        "ModelName": name,
        "MaxConcurrentTransforms": 2,
        "MaxPayloadInMB": 6,
        "BatchStrategy": "SingleRecord",
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{data}/batch-input"}},
            "ContentType": "application/x-image",
            "CompressionType": "None",
            "SplitType": "None",
        },
        "TransformOutput": {
            "S3OutputPath": f"{data}/batch-output",
            "Accept": "application/json",
            "AssembleWith": "None",
        },
        "TransformResources": {"InstanceType": options.instance_type, "InstanceCount": 1},
    }


def _served(path: Path) -> bool:
    return path.as_posix() not in NOT_SERVED and not any(part.startswith(".") for part in path.parts)
