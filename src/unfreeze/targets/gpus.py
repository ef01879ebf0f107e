"""The GPUs of a server: the processor that the image must support, and TensorFlow's settings of GPU memory.

Source: the flag --per_process_gpu_memory_fraction in model_servers/main.cc of tensorflow/serving, and
TF_FORCE_GPU_ALLOW_GROWTH in tensorflow/core/common_runtime/gpu/gpu_bfc_allocator.cc.
"""

from __future__ import annotations

from dataclasses import dataclass

from unfreeze.errors import OutputError
from unfreeze.targets.instance_types import Hardware

ALLOW_GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"


@dataclass(frozen=True)
class Gpus:
    """How many GPUs each server gets, and which part of their memory it may use (None: all of it)."""

    count: int
    memory_fraction: float | None

    @property
    def hardware(self) -> Hardware:
        """The processor that the container image must support."""
        return Hardware.GPU if self.count else Hardware.CPU

    @property
    def flags(self) -> list[str]:
        """The flags of tensorflow_model_server."""
        fraction = self.memory_fraction
        return [] if fraction is None else [f"--per_process_gpu_memory_fraction={fraction:g}"]


def gpu_environment(hardware: Hardware) -> dict[str, str]:
    """Returns the variables of a server that runs TensorFlow: it allocates GPU memory when it needs it."""
    return {ALLOW_GROWTH: "true"} if hardware is Hardware.GPU else {}


def require_gpus(gpus: int, gpu_memory_fraction: float | None) -> Gpus:
    """Returns the settings of `--gpus` and `--gpu-memory-fraction`.

    Raises: OutputError if they are not valid.
    """
    if gpus < 0:
        raise OutputError(f"--gpus {gpus}: must be 0 or more")
    if gpu_memory_fraction is not None:
        if not 0 < gpu_memory_fraction <= 1:
            raise OutputError(f"--gpu-memory-fraction {gpu_memory_fraction:g}: must be above 0 and at most 1")
        if not gpus:
            raise OutputError(
                f"--gpu-memory-fraction {gpu_memory_fraction:g}: has no effect without --gpus. Add --gpus 1."
            )
    return Gpus(gpus, gpu_memory_fraction)
