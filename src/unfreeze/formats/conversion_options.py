"""What a converter needs besides the frozen detector: a record that travels to its process as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from unfreeze.formats.precision import Precision


@dataclass(frozen=True)
class ConversionOptions:
    """The options of one conversion.

    `opset` is for ONNX. `calibration` is a folder of `formats/calibration.py`, for INT8; without it, the graph has the
    ranges of a quantization-aware training. `integer_input`: the file takes the network's input as uint8.
    """

    opset: int | None = None
    precision: Precision = Precision.FLOAT
    calibration: Path | None = None
    integer_input: bool = False

    def to_json(self) -> str:
        """Returns the options as text for `from_json`."""
        return json.dumps(
            {
                "opset": self.opset,
                "precision": self.precision.value,
                "calibration": None if self.calibration is None else str(self.calibration),
                "integer_input": self.integer_input,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> ConversionOptions:
        """Returns the options in a text of `to_json`."""
        fields = json.loads(text)
        calibration = fields["calibration"]
        return cls(
            fields["opset"],
            Precision(fields["precision"]),
            None if calibration is None else Path(calibration),
            fields["integer_input"],
        )
