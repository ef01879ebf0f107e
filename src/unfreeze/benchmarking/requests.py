"""What a process that runs a model is requested to do, and what it replies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unfreeze.runtimes import ModelFile


@dataclass(frozen=True)
class Failure:
    """Why a request failed, in one line."""

    message: str


@dataclass(frozen=True)
class Cost:
    """The time of one call; `cpu_s` is that of all threads of the process."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class LoadRequest:
    """Loads the model; the reply is its Cost, including the import of the runtime."""

    file: ModelFile
    threads: int | None


@dataclass(frozen=True)
class TimeRequest:
    """Runs the model on images `[N, H, W, 3]`, or on those of the request before; the reply is the Cost."""

    images: np.ndarray | None = None


@dataclass(frozen=True)
class RunRequest:
    """Runs the model on images; the reply is the outputs that describe detections, by name."""

    images: np.ndarray


@dataclass(frozen=True)
class MemoryRequest:
    """The reply is the peak memory of the process so far, in bytes."""


@dataclass(frozen=True)
class EvaluateRequest:
    """Evaluates the model; the reply is COCO's mAP of boxes, NaN if it is undefined."""

    file: ModelFile
    annotations: str
    images: str | None
    label_map: str | None


Request = LoadRequest | TimeRequest | RunRequest | MemoryRequest | EvaluateRequest
