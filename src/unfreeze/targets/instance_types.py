"""SageMaker's instance types: which processor each has, and so which container image runs on it.

Source: the enum ProductionVariantInstanceType of SageMaker's API (botocore 1.43.117, data/sagemaker) for families and
sizes; aws.amazon.com/ec2/instance-types for processors and memory; TransformInstanceType of the same API for batch
transform.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from unfreeze.errors import UnsupportedError


class Hardware(Enum):
    """The processor that runs a model; the value is its name in messages."""

    CPU = "x86 CPU"
    GPU = "NVIDIA GPU"
    ARM = "Graviton CPU (arm64)"
    NEURON = "AWS Inferentia or Trainium"
    GAUDI = "Intel Gaudi"


@dataclass(frozen=True)
class Family:
    """Instance types that differ in size only, such as `ml.m5.large` and `ml.m5.xlarge`.

    `xlarge_gib` is the memory of a size `xlarge`; None if memory does not grow with the size, or is far above any
    model's.
    """

    hardware: Hardware
    sizes: str
    xlarge_gib: float | None = None
    batch_transform: bool = False


@dataclass(frozen=True)
class InstanceType:
    """An instance type of SageMaker, its processor, and its memory (None: not known)."""

    name: str
    hardware: Hardware
    memory_bytes: int | None
    batch_transform: bool

    def __str__(self) -> str:
        return self.name


_INTEL_5 = "large xlarge 2xlarge 4xlarge 12xlarge 24xlarge"
_INTEL_6 = "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 32xlarge"
_INTEL_7 = "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge"
_GRAVITON_2 = "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge"
_GRAVITON_4 = "medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge"
_GPU = "xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge"
_GPU_7 = "2xlarge 4xlarge 8xlarge 12xlarge 24xlarge 48xlarge"

FAMILIES = {
    "t2": Family(Hardware.CPU, "medium large xlarge 2xlarge", 16),
    "m4": Family(Hardware.CPU, "xlarge 2xlarge 4xlarge 10xlarge 16xlarge", 16, batch_transform=True),
    "m5": Family(Hardware.CPU, _INTEL_5, 16, batch_transform=True),
    "m5d": Family(Hardware.CPU, _INTEL_5, 16),
    "m6i": Family(Hardware.CPU, _INTEL_6, 16, batch_transform=True),
    "m7i": Family(Hardware.CPU, _INTEL_7, 16, batch_transform=True),
    "c4": Family(Hardware.CPU, "large xlarge 2xlarge 4xlarge 8xlarge", 7.5, batch_transform=True),
    "c5": Family(Hardware.CPU, "large xlarge 2xlarge 4xlarge 9xlarge 18xlarge", 8, batch_transform=True),
    "c5d": Family(Hardware.CPU, "large xlarge 2xlarge 4xlarge 9xlarge 18xlarge", 8),
    "c6i": Family(Hardware.CPU, _INTEL_6, 8, batch_transform=True),
    "c6in": Family(Hardware.CPU, _INTEL_6, 8),
    "c7i": Family(Hardware.CPU, _INTEL_7, 8, batch_transform=True),
    "r5": Family(Hardware.CPU, _INTEL_5, 32),
    "r5d": Family(Hardware.CPU, _INTEL_5, 32),
    "r6i": Family(Hardware.CPU, _INTEL_6, 32, batch_transform=True),
    "r7i": Family(Hardware.CPU, _INTEL_7, 32, batch_transform=True),
    "g4dn": Family(Hardware.GPU, "xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge", 16, batch_transform=True),
    "g5": Family(Hardware.GPU, _GPU, 16, batch_transform=True),
    "g6": Family(Hardware.GPU, _GPU, 16, batch_transform=True),
    "g6e": Family(Hardware.GPU, _GPU, 32, batch_transform=True),
    "g7": Family(Hardware.GPU, _GPU_7),
    "g7e": Family(Hardware.GPU, _GPU_7),
    "p2": Family(Hardware.GPU, "xlarge 8xlarge 16xlarge", batch_transform=True),
    "p3": Family(Hardware.GPU, "2xlarge 8xlarge 16xlarge", batch_transform=True),
    "p4d": Family(Hardware.GPU, "24xlarge"),
    "p4de": Family(Hardware.GPU, "24xlarge"),
    "p5": Family(Hardware.GPU, "4xlarge 48xlarge"),
    "p5e": Family(Hardware.GPU, "48xlarge"),
    "p5en": Family(Hardware.GPU, "48xlarge"),
    "p6-b200": Family(Hardware.GPU, "48xlarge"),
    "p6-b300": Family(Hardware.GPU, "48xlarge"),
    "m6g": Family(Hardware.ARM, _GRAVITON_2, 16),
    "m6gd": Family(Hardware.ARM, _GRAVITON_2, 16),
    "m8g": Family(Hardware.ARM, _GRAVITON_4, 16),
    "c6g": Family(Hardware.ARM, _GRAVITON_2, 8),
    "c6gd": Family(Hardware.ARM, _GRAVITON_2, 8),
    "c6gn": Family(Hardware.ARM, _GRAVITON_2, 8),
    "c7g": Family(Hardware.ARM, _GRAVITON_2, 8),
    "c8g": Family(Hardware.ARM, _GRAVITON_4, 8),
    "r6g": Family(Hardware.ARM, _GRAVITON_2, 32),
    "r6gd": Family(Hardware.ARM, _GRAVITON_2, 32),
    "r7gd": Family(Hardware.ARM, f"medium {_GRAVITON_2}", 32),
    "r8g": Family(Hardware.ARM, _GRAVITON_4, 32),
    "inf1": Family(Hardware.NEURON, "xlarge 2xlarge 6xlarge 24xlarge"),
    "inf2": Family(Hardware.NEURON, "xlarge 8xlarge 24xlarge 48xlarge", batch_transform=True),
    "trn1": Family(Hardware.NEURON, "2xlarge 32xlarge", batch_transform=True),
    "trn1n": Family(Hardware.NEURON, "32xlarge"),
    "trn2": Family(Hardware.NEURON, "48xlarge"),
    "dl1": Family(Hardware.GAUDI, "24xlarge"),
}
# An NVIDIA GPU beside an arm64 processor: SageMaker has no TensorFlow image for this pair.
ARM_WITH_GPU = {"p6e-gb200": "36xlarge"}
# A size of batch transform's API, where it has fewer than endpoints.
NOT_IN_BATCH_TRANSFORM = {"ml.c4.large", "ml.c5.large"}


def find_instance_type(name: str) -> InstanceType:
    """Returns an instance type that SageMaker's TensorFlow containers can run on.

    Raises: UnsupportedError if the name is not known, or its processor is one that the containers do not support.
    """
    family_name, _, size = name.removeprefix("ml.").rpartition(".")
    if size in ARM_WITH_GPU.get(family_name, "").split() and name.startswith("ml."):
        raise UnsupportedError(
            f"not supported: --instance-type {name} has NVIDIA GPUs beside an arm64 CPU, and SageMaker has no "
            "TensorFlow container for it. Choose another type, such as ml.g5.xlarge."
        )
    family = FAMILIES.get(family_name)
    if family is None or size not in family.sizes.split() or not name.startswith("ml."):
        raise UnsupportedError(f"not supported: --instance-type {name} is not a known instance type. {_advice(name)}")
    if family.hardware in (Hardware.NEURON, Hardware.GAUDI):
        raise UnsupportedError(
            f"not supported: --instance-type {name} has {family.hardware.value} chips, which need a model compiled for "
            "them. Choose a CPU or a GPU, such as ml.c6i.xlarge or ml.g5.xlarge."
        )
    memory = None if family.xlarge_gib is None else int(family.xlarge_gib * _xlarges(size) * 2**30)
    batch_transform = family.batch_transform and name not in NOT_IN_BATCH_TRANSFORM
    return InstanceType(name, family.hardware, memory, batch_transform)


def instance_type_names() -> Iterator[str]:
    """Yields the name of every known instance type, including those that are not supported."""
    for family, sizes in [*((name, family.sizes) for name, family in FAMILIES.items()), *ARM_WITH_GPU.items()]:
        yield from (f"ml.{family}.{size}" for size in sizes.split())


def _xlarges(size: str) -> float:
    """Returns the number of xlarge units in a size: 0.5 for `large`, 4 for `4xlarge`."""
    return {"medium": 0.25, "large": 0.5, "xlarge": 1}.get(size) or int(size.removesuffix("xlarge"))


def _advice(name: str) -> str:
    """Returns which types a name may stand for, or the known families."""
    if f"ml.{name}" in instance_type_names():
        return f"Did you mean ml.{name}?"
    family = name.removeprefix("ml.").rpartition(".")[0]
    if family in FAMILIES and name.startswith("ml."):
        return f"The sizes of ml.{family} are {', '.join(FAMILIES[family].sizes.split())}."
    similar = difflib.get_close_matches(name, list(instance_type_names()), 3)
    if similar:
        return f"Similar names: {', '.join(similar)}."
    return f"The known families are {', '.join(FAMILIES)}; a type is ml.FAMILY.SIZE, such as ml.m5.xlarge."
