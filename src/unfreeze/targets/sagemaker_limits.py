"""Compares a model and an instance type with the limits of SageMaker, and chooses the container's settings by them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from unfreeze.onednn import ASSUME_FROZEN_WEIGHTS
from unfreeze.targets.instance_types import Hardware, InstanceType
from unfreeze.targets.packaged import ServedModel
from unfreeze.targets.platform_limits import (
    ASYNCHRONOUS,
    MULTI_MODEL,
    REAL_TIME,
    SAFE_PART_OF_MEMORY,
    SERVERLESS,
    ModelNumbers,
    exceeds,
    findings,
    memory_findings,
)
from unfreeze.targets.sagemaker_documents import SERVERLESS_MEMORY_MB
from unfreeze.targets.serving_responses import expected_bytes
from unfreeze.verification.meta_graph import TensorInfo

# The outputs that code/inference.py returns.
RETURNED_OUTPUTS = (
    "detection_boxes", "detection_scores", "detection_classes", "detection_masks", "detection_keypoints",
    "detection_keypoint_scores",
)  # fmt: skip


@dataclass(frozen=True)
class ImageSignatures:
    """The signature that takes encoded images, with its outputs, and the one that takes pixels, if there is one."""

    encoded: str
    pixels: str | None
    outputs: Mapping[str, TensorInfo]

    @property
    def response_bytes(self) -> int | None:
        """The size of a response with every detection of an image; None if a shape is not known."""
        returned = {name: info for name, info in self.outputs.items() if name in RETURNED_OUTPUTS}
        size = expected_bytes({name: (info.dtype, info.shape) for name, info in returned.items()})
        return size.json if size else None


def sagemaker_findings(
    model: ServedModel, machine: InstanceType, signatures: ImageSignatures, *, multi_model: bool
) -> Iterator[str]:
    """Yields a warning for each limit of SageMaker that a model may exceed on an instance type.

    Raises: OutputError if the weights need more memory than the instance type has.
    """
    numbers = model.numbers
    yield from memory_findings(numbers, machine.memory_bytes or sys.maxsize, f"--instance-type {machine}")
    longer = "Raise ContainerStartupHealthCheckTimeoutInSeconds in the endpoint config."
    platforms = {REAL_TIME: longer}
    if multi_model:
        platforms[MULTI_MODEL] = "Clients repeat a request that fails with ModelNotReadyException."
    else:
        platforms[ASYNCHRONOUS] = longer
    if not multi_model and machine.hardware is Hardware.CPU:
        problem = exceeds(numbers, SERVERLESS)
        if problem:
            yield f"endpoint-config-serverless.json is not written. {problem}"
        else:
            platforms[SERVERLESS] = "Use a real-time endpoint."
    pixels = signatures.pixels is not None
    yield from findings(numbers, platforms, pixels=pixels, response_bytes=signatures.response_bytes)
    if not multi_model and not machine.batch_transform:
        yield f"batch transform does not have {machine}. Choose another InstanceType in transform-job.json to use it."


def serverless_memory_mb(numbers: ModelNumbers, machine: InstanceType) -> int | None:
    """Returns the memory of a serverless endpoint; None if the model or the image of the machine cannot run on one."""
    if machine.hardware is not Hardware.CPU or exceeds(numbers, SERVERLESS):
        return None
    usual, most = SERVERLESS_MEMORY_MB
    return usual if numbers.weights_bytes <= SAFE_PART_OF_MEMORY * usual * 2**20 else most


def in_shared_container(model: ServedModel) -> ServedModel:
    """Returns a model with the variables of a container of several models: it must not keep weights of one of them."""
    environment = {name: value for name, value in model.environment.items() if name != ASSUME_FROZEN_WEIGHTS}
    note = model.note or f"{ASSUME_FROZEN_WEIGHTS} is not set, since all models of the endpoint share the variables."
    return replace(model, environment=environment, note=note)
