"""The arguments of SageMaker's API: those of boto3's `create_model`, `create_endpoint_config` and so on.

Source: docs.aws.amazon.com/sagemaker/latest/dg/create-multi-model-endpoint.html for the model of a multi-model
endpoint, and model-deploy-feature-matrix.html there for the modes that it has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unfreeze.targets.sagemaker_archive import ARCHIVE

ROLE, BUCKET = "${ROLE_ARN}", "${BUCKET}"  # deploy.py replaces these
SERVERLESS_MEMORY_MB = (4096, 6144)  # the usual amount, and the most that there is
Document = dict[str, Any]

# Every file that a package may have; which ones it has depends on the model and on the kind of endpoint.
FILES = (
    "create-model.json",
    "endpoint-config-real-time.json",
    "endpoint-config-serverless.json",
    "endpoint-config-async.json",
    "endpoint.json",
    "transform-job.json",
    "invoke-endpoint.json",
)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """An archive, identified by its hash, and the container image, role, bucket and machine that serve it.

    `serverless_memory_mb` is None if the model cannot be served by a serverless endpoint. `multi_model_endpoint` is the
    name of the endpoint that serves the model beside others; None for an endpoint of its own.
    """

    name: str
    image: str
    archive_sha256: str
    environment: Mapping[str, str]
    role: str
    bucket: str
    instance_type: str
    serverless_memory_mb: int | None = SERVERLESS_MEMORY_MB[0]
    multi_model_endpoint: str | None = None

    @property
    def archive_name(self) -> str:
        """The name of the model with the archive's hash, so that another archive is another model."""
        return f"{self.name}-{self.archive_sha256[:8]}"

    @property
    def model_name(self) -> str:
        """The name of SageMaker's model: of the archive, or of the container that serves all archives of a prefix."""
        if self.multi_model_endpoint is None:
            return self.archive_name
        container = {**_container(self), "ModelDataUrl": None}  # the bucket may be passed to deploy.py later
        return f"{self.multi_model_endpoint}-{_digest(container)}"

    @property
    def endpoint_name(self) -> str:
        """The name of the endpoint."""
        return self.multi_model_endpoint or self.name

    @property
    def s3_prefix(self) -> str:
        """The place of the archive, and of the files that asynchronous inference and batch transform read and write."""
        return f"s3://{self.bucket}/{self.endpoint_name}"


def documents(deployment: Deployment) -> dict[str, Document]:
    """Returns the arguments of each API call by file name."""
    configs = {f"endpoint-config-{mode}.json": config for mode, config in _endpoint_configs(deployment).items()}
    real_time = configs["endpoint-config-real-time.json"]["EndpointConfigName"]
    shared = {
        "create-model.json": _model(deployment),
        **configs,
        "endpoint.json": {"EndpointName": deployment.endpoint_name, "EndpointConfigName": real_time},
    }
    if deployment.multi_model_endpoint is not None:
        return {**shared, "invoke-endpoint.json": _invocation(deployment)}
    return {**shared, "transform-job.json": _transform_job(deployment)}


def _model(deployment: Deployment) -> Document:
    return {
        "ModelName": deployment.model_name,
        "ExecutionRoleArn": deployment.role,
        "PrimaryContainer": _container(deployment),
    }


def _container(deployment: Deployment) -> Document:
    if deployment.multi_model_endpoint is not None:
        return {
            "Image": deployment.image,
            "Mode": "MultiModel",
            "ModelDataUrl": f"{deployment.s3_prefix}/models/",
            "Environment": dict(deployment.environment),
        }
    return {
        "Image": deployment.image,
        "ModelDataUrl": f"{deployment.s3_prefix}/{deployment.archive_sha256[:8]}/{ARCHIVE}",
        "Environment": {"SAGEMAKER_TFS_DEFAULT_MODEL_NAME": deployment.name, **deployment.environment},
    }


def _invocation(deployment: Deployment) -> Document:
    """Returns the arguments of invoke_endpoint by which a client of a multi-model endpoint chooses the model."""
    return {
        "EndpointName": deployment.endpoint_name,
        "TargetModel": f"{deployment.archive_name}.tar.gz",
        "ContentType": "application/x-image",
    }


def _endpoint_configs(deployment: Deployment) -> dict[str, Document]:
    """Returns the endpoint configuration of each mode that is possible; its name has the configuration's hash."""
    variant = {"VariantName": "AllTraffic", "ModelName": deployment.model_name, "InitialVariantWeight": 1.0}
    on_machines = {**variant, "InitialInstanceCount": 1, "InstanceType": deployment.instance_type}
    configs: dict[str, Document] = {"real-time": {"ProductionVariants": [on_machines]}}
    if deployment.multi_model_endpoint is None:
        configs["async"] = {
            "ProductionVariants": [on_machines],
            "AsyncInferenceConfig": {
                "OutputConfig": {"S3OutputPath": f"{deployment.s3_prefix}/async-output"},
                "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 2},
            },
        }
        if deployment.serverless_memory_mb is not None:
            serverless = {"MemorySizeInMB": deployment.serverless_memory_mb, "MaxConcurrency": 5}
            configs["serverless"] = {"ProductionVariants": [{**variant, "ServerlessConfig": serverless}]}
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
