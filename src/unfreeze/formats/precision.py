"""The precisions that the file of a format can have. Each row of FORMATS lists those of a format."""

from __future__ import annotations

from enum import Enum


class Precision(Enum):
    """How a file stores weights, and how it computes the network; post-processing always computes in float32."""

    FLOAT = "float32"
    HALF = "float16"
    INT8 = "int8"
    INT8_WEIGHTS = "int8 weights"  # float activations; LiteRT calls it dynamic range quantization

    @property
    def option(self) -> str:
        """Returns the option of `unfreeze export` that chooses it."""
        return {"float32": "", "float16": "--half", "int8": "--int8", "int8 weights": "--int8-weights"}[self.value]
