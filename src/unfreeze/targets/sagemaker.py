"""Packages a model for SageMaker: model.tar.gz, the arguments of SageMaker's API as JSON, and deploy.py.

Source: scripts/docker/tensorflow/inference/sagemaker of aws/deep-learning-containers for the layout of the archive
(`NAME/1/…`, or `1/…` for a multi-model endpoint, and `code/` at its root).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import OutputError, SavedModelError, UnsupportedError
from unfreeze.prediction.class_names import class_names
from unfreeze.staging import staged
from unfreeze.targets.instance_types import Hardware, InstanceType, find_instance_type
from unfreeze.targets.packaged import Packaged, read_served_model, require_version_number
from unfreeze.targets.sagemaker_archive import ARCHIVE, InferenceSettings, model_archive
from unfreeze.targets.sagemaker_documents import BUCKET, FILES, ROLE, Deployment, documents
from unfreeze.targets.sagemaker_limits import (
    ImageSignatures,
    in_shared_container,
    sagemaker_findings,
    serverless_memory_mb,
)
from unfreeze.verification.meta_graph import Signature, read_meta_graph

TARGET = "sagemaker"
ENTRIES = (ARCHIVE, *FILES, "deploy.py")
ENCODED_IMAGES = ("encoded_image_string_tensor",)  # signatures that take encoded images, and those that take pixels
PIXELS = ("image_tensor", "float_image_tensor")
REQUIRED_OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes")
_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,49}", re.ASCII)
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d", re.ASCII)


def package_sagemaker(
    saved_model: str | Path,
    output_directory: str | Path = TARGET,
    *,
    name: str = "detector",
    server: str = TARGET,
    version: int = 1,
    label_map: str | Path | None = None,
    min_score: float = 0.5,
    region: str = "us-east-1",
    role: str | None = None,
    bucket: str | None = None,
    instance_type: str = "ml.m5.xlarge",
    multi_model_endpoint: str | None = None,
    overwrite: bool = False,
    on_warning: OnMessage = ignore,
) -> Packaged:
    """Writes a model.tar.gz with code/inference.py, the arguments of SageMaker's API as JSON files, and deploy.py.

    Args:
        saved_model: the folder with saved_model.pb, or the folder of the export above it.
        output_directory: the folder to write.
        name: the name of the model and of the endpoint.
        server: the version of SageMaker's TensorFlow container, such as `sagemaker:2.19`.
        version: the version number of the model.
        label_map: class names (.pbtxt); by default the label map in the SavedModel's assets/.
        min_score: the endpoint returns detections with at least this score.
        region: the AWS region, whose container image is used.
        role: ARN of the role that SageMaker assumes; by default an argument of deploy.py.
        bucket: S3 bucket for the archive; by default an argument of deploy.py.
        instance_type: the machine of an endpoint; its processor decides which container image is used.
        multi_model_endpoint: the name of a multi-model endpoint that serves this model beside others; by default the
            model has an endpoint of its own, by its name.
        overwrite: whether to replace existing files.

    Raises:
        UnsupportedError, SavedModelError: the version of the server or the instance type is not known, or it cannot
            serve the model.
        OutputError: an argument is not valid, or the output exists or cannot be written.
    """
    require_sagemaker_name(name)
    require_region(region)
    require_version_number(version)
    machine = find_instance_type(instance_type)
    if multi_model_endpoint is not None:
        require_multi_model(multi_model_endpoint, machine)
    model = read_served_model(saved_model, server, target=TARGET, hardware=machine.hardware)
    if multi_model_endpoint is not None:
        model = in_shared_container(model)
    signatures = image_signatures(model.folder)
    names = class_names(None if label_map is None else Path(label_map), model.folder)
    labels = {str(class_id): name for class_id, name in names.items()}
    settings = InferenceSettings(signatures.encoded, signatures.pixels, labels, min_score)
    folder_in_archive = str(version) if multi_model_endpoint is not None else f"{name}/{version}"
    archive = model_archive(model.folder, folder_in_archive, settings)
    image = model.server.image(region, machine.hardware)
    for warning in sagemaker_findings(model, machine, signatures, multi_model=multi_model_endpoint is not None):
        on_warning(warning)
    deployment = Deployment(
        name=name,
        image=image,
        archive_sha256=hashlib.sha256(archive).hexdigest(),
        environment=model.environment,
        role=role or ROLE,
        bucket=bucket or BUCKET,
        instance_type=instance_type,
        serverless_memory_mb=serverless_memory_mb(model.numbers, machine),
        multi_model_endpoint=multi_model_endpoint,
    )
    files = documents(deployment)
    with staged(Path(output_directory), ENTRIES, overwrite=overwrite) as folder:
        (folder / ARCHIVE).write_bytes(archive)
        for file_name, document in files.items():
            (folder / file_name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name("sagemaker_deploy.py"), folder / "deploy.py")
    return Packaged(Path(output_directory), tuple(sorted({ARCHIVE, "deploy.py", *files})), image, model)


def require_multi_model(endpoint: str, machine: InstanceType) -> None:
    """Raises OutputError if SageMaker does not accept the name, UnsupportedError if the machine has a GPU.

    Source: docs.aws.amazon.com/sagemaker/latest/dg/multi-model-support.html for GPUs.
    """
    require_sagemaker_name(endpoint, "--multi-model-endpoint")
    if machine.hardware is Hardware.GPU:
        raise UnsupportedError(
            f"not supported: --multi-model-endpoint with --instance-type {machine}. SageMaker serves multi-model "
            "endpoints on GPUs by its Triton container only. Choose a CPU, such as ml.c6i.xlarge."
        )


def require_sagemaker_name(name: str, option: str = "--name") -> str:
    """Returns the name if SageMaker accepts it.

    Raises: OutputError if it does not.
    """
    if not _NAME.fullmatch(name):
        raise OutputError(
            f"{option} {name}: SageMaker accepts letters, digits and - between them, at most 50 characters"
        )
    return name


def require_region(region: str) -> str:
    """Returns the name of an AWS region.

    Raises: OutputError if it is not one.
    """
    if not _REGION.fullmatch(region):
        raise OutputError(f"--region {region}: must be an AWS region, such as eu-west-1")
    return region


def image_signatures(saved_model: Path) -> ImageSignatures:
    """Returns the signatures of a SavedModel that take images.

    Raises: SavedModelError if no signature takes encoded images, or its outputs are not detections.
    """
    signatures = read_meta_graph(saved_model).signatures
    encoded = _find_signature(signatures, ENCODED_IMAGES, "string")
    if encoded is None:
        raise SavedModelError(
            f"{saved_model}: no signature takes encoded images, as requests with application/x-image need it. "
            "Export with --input-type encoded_image_string_tensor."
        )
    missing = [name for name in REQUIRED_OUTPUTS if name not in signatures[encoded].outputs]
    if missing:
        raise SavedModelError(
            f"{saved_model}: signature {encoded} has no output {', '.join(missing)}. Export with these outputs."
        )
    return ImageSignatures(encoded, _find_signature(signatures, PIXELS, "uint8"), signatures[encoded].outputs)


def _find_signature(signatures: Mapping[str, Signature], names: tuple[str, ...], dtype: str) -> str | None:
    """Returns the first of the names that is a signature, else serving_default if its only input has this dtype."""
    for name in names:
        if name in signatures:
            return name
    if "serving_default" not in signatures or "tf_example" in signatures:
        return None
    dtypes = [tensor.dtype for tensor in signatures["serving_default"].inputs.values()]
    return "serving_default" if dtypes == [dtype] else None
