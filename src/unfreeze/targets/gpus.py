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
    """How many GPUs each server gets, and which part of their memory it may use (None: all of it).

    `tensorflow` is false for a server that runs the model by another library.
    """

    count: int = 0
    memory_fraction: float | None = None
    tensorflow: bool = True

    @property
    def hardware(self) -> Hardware:
        """The processor that the container image must support."""
        return Hardware.GPU if self.count else Hardware.CPU

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the server: memory is allocated when it is needed, not all of it at the start."""
        return {ALLOW_GROWTH: "true"} if self.count and self.tensorflow else {}

    @property
    def flags(self) -> list[str]:
        """The flags of tensorflow_model_server."""
        fraction = self.memory_fraction
        return [] if fraction is None else [f"--per_process_gpu_memory_fraction={fraction:g}"]


def require_gpus(gpus: int, gpu_memory_fraction: float | None, *, tensorflow: bool = True) -> Gpus:
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
    return Gpus(gpus, gpu_memory_fraction, tensorflow)
