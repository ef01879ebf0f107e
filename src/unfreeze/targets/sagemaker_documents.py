"""The arguments of SageMaker's API: those of boto3's `create_model`, `create_endpoint_config` and so on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unfreeze.targets.sagemaker_archive import ARCHIVE

ROLE, BUCKET = "${ROLE_ARN}", "${BUCKET}"  # deploy.py replaces these
SERVERLESS_MEMORY_MB = 4096
Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """An archive, identified by its hash, and the container image, role, bucket and machine that serve it."""

    name: str
    image: str
    archive_sha256: str
    environment: Mapping[str, str]
    role: str
    bucket: str
    instance_type: str

    @property
    def model_name(self) -> str:
        """The name of the model, with the archive's hash, so that another archive is another model."""
        return f"{self.name}-{self.archive_sha256[:8]}"

    @property
    def s3_prefix(self) -> str:
        """The place of the archive, and of the files that asynchronous inference and batch transform read and write."""
        return f"s3://{self.bucket}/{self.name}"


def documents(deployment: Deployment) -> dict[str, Document]:
    """Returns the arguments of each API call by file name."""
    configs = {f"endpoint-config-{mode}.json": config for mode, config in _endpoint_configs(deployment).items()}
    real_time = configs["endpoint-config-real-time.json"]["EndpointConfigName"]
    return {
        "create-model.json": _model(deployment),
        "transform-job.json": _transform_job(deployment),
        **configs,
        "endpoint.json": {"EndpointName": deployment.name, "EndpointConfigName": real_time},
    }


def _model(deployment: Deployment) -> Document:
    return {
        "ModelName": deployment.model_name,
        "ExecutionRoleArn": deployment.role,
        "PrimaryContainer": {
            "Image": deployment.image,
            "ModelDataUrl": f"{deployment.s3_prefix}/{deployment.archive_sha256[:8]}/{ARCHIVE}",
            "Environment": {"SAGEMAKER_TFS_DEFAULT_MODEL_NAME": deployment.name, **deployment.environment},
        },
    }


def _endpoint_configs(deployment: Deployment) -> dict[str, Document]:
    """Returns the endpoint configuration of each mode; its name has the configuration's hash."""
    variant = {"VariantName": "AllTraffic", "ModelName": deployment.model_name, "InitialVariantWeight": 1.0}
    on_machines = {**variant, "InitialInstanceCount": 1, "InstanceType": deployment.instance_type}
    serverless = {**variant, "ServerlessConfig": {"MemorySizeInMB": SERVERLESS_MEMORY_MB, "MaxConcurrency": 5}}
    configs: dict[str, Document] = {
        "real-time": {"ProductionVariants": [on_machines]},
        "serverless": {"ProductionVariants": [serverless]},
        "async": {
            "ProductionVariants": [on_machines],
            "AsyncInferenceConfig": {
                "OutputConfig": {"S3OutputPath": f"{deployment.s3_prefix}/async-output"},
                "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 2},
            },
        },
    }
    return {
        mode: {"EndpointConfigName": f"{deployment.model_name}-{_digest(config)}", **config}
        for mode, config in configs.items()
    }


def _transform_job(deployment: Deployment) -> Document:
    """Returns a batch transform job, in which each image below `batch-input` is one request."""
    return {
        "TransformJobName": deployment.model_name,
        "ModelName": deployment.model_name,
        "MaxConcurrentTransforms": 2,
        "MaxPayloadInMB": 6,
        "BatchStrategy": "SingleRecord",
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{deployment.s3_prefix}/batch-input"}},
            "ContentType": "application/x-image",
            "CompressionType": "None",
            "SplitType": "None",
        },
        "TransformOutput": {
            "S3OutputPath": f"{deployment.s3_prefix}/batch-output",
            "Accept": "application/json",
            "AssembleWith": "None",
        },
        "TransformResources": {"InstanceType": deployment.instance_type, "InstanceCount": 1},
    }


def _digest(document: Document) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:6]
