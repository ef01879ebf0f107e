"""Writes a detector as a file of another runtime.

To add a format, write a module with a `convert` function, add a row to FORMATS, and a runtime (`runtimes/`) that runs
its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from unfreeze.errors import MissingExtraError, UnsupportedError
from unfreeze.formats.precision import Precision

SAVED_MODEL = "saved_model"  # the default, which `savedmodel/` writes
TFJS = "tfjs"

# What a model does with raw boxes and scores: the detections of the Object Detection API; nothing; the operation
# TFLite_Detection_PostProcess of TensorFlow Lite; or the plugin EfficientNMS_TRT of TensorRT.
FULL, NONE, TFLITE_OP, TENSORRT = "full", "none", "tflite_op", "tensorrt"
POSTPROCESSING = (FULL, NONE, TFLITE_OP, TENSORRT)
ONLY_FORMAT = {TFLITE_OP: "tflite", TENSORRT: "onnx"}  # of a postprocessing that one format alone has


@dataclass(frozen=True)
class Format:
    """A format, what it leaves in the output directory, and what it needs.

    `file` is what its runtime loads, relative to the output directory. With `needs_fixed_size`, the size of the images
    is fixed when the file is written; with `needs_one_image`, it takes images one at a time. `portable`: whether the
    graph is built for converters (`detectors.PORTABLE`). `has_metadata`: whether the names of the classes go into the
    file. `has_labels`: whether they go into labels.json beside it. `lacks`: operations of some models that it does not
    have, and that its converter reports late. `precisions`: those besides FLOAT.
    """

    name: str
    file: str
    module: str
    extra: str = ""
    packages: Sequence[str] = ()
    needs_fixed_size: bool = False
    needs_one_image: bool = False
    portable: bool = True
    has_metadata: bool = False
    has_labels: bool = False
    lacks: Sequence[str] = ()
    precisions: Sequence[Precision] = ()

    @property
    def entry(self) -> str:
        """The file or folder in the output directory."""
        return self.file.partition("/")[0]


FORMATS = {
    row.name: row
    for row in (
        Format("frozen_graph", "frozen_inference_graph.pb", "unfreeze.formats.frozen_graph", portable=False),
        Format(
            "onnx",
            "model.onnx",
            "unfreeze.formats.onnx",
            "onnx",
            ("tf2onnx", "onnxruntime"),
            precisions=(Precision.HALF, Precision.INT8),
        ),
        Format(
            "openvino",
            "openvino/model.xml",
            "unfreeze.formats.openvino",
            "openvino",
            ("openvino",),
            precisions=(Precision.HALF, Precision.INT8),
        ),
        Format(
            "tflite",
            "model.tflite",
            "unfreeze.formats.tflite",
            "tflite",
            ("ai_edge_litert",),
            needs_fixed_size=True,
            has_metadata=True,
            lacks=("CropAndResize",),
            precisions=(Precision.HALF, Precision.INT8, Precision.INT8_WEIGHTS),
        ),
        # The WebAssembly backend of TensorFlow.js 4.22 gathers rows of other images in a batch (GatherV2 with
        # batch_dims).
        Format(TFJS, "tfjs/model.json", "unfreeze.formats.tfjs", needs_one_image=True, has_labels=True),
    )
}
FORMAT_NAMES = (SAVED_MODEL, *FORMATS)


def other_formats(names: Sequence[str]) -> list[Format]:
    """Returns the formats of these names, without `saved_model`.

    Raises:
        UnsupportedError: there is no format of this name. MissingExtraError: a package that it needs is not installed.
    """
    unknown = [name for name in names if name not in FORMAT_NAMES]
    if unknown:
        raise UnsupportedError(f"--format {unknown[0]}: there is no such format; choose from {', '.join(FORMAT_NAMES)}")
    formats = [FORMATS[name] for name in dict.fromkeys(names) if name != SAVED_MODEL]
    for chosen in formats:
        _require_packages(f"--format {chosen.name}", chosen.packages, chosen.extra)
    return formats


def require_precision(names: Sequence[str], precision: Precision) -> None:
    """Checks that every format of these names can have a precision.

    Raises:
        UnsupportedError: one of them cannot. MissingExtraError: a package that it needs is not installed.
    """
    if precision is Precision.FLOAT:
        return
    for name in names:
        if name not in FORMATS or precision not in FORMATS[name].precisions:
            able = ", ".join(row.name for row in FORMATS.values() if precision in row.precisions)
            raise UnsupportedError(
                f"{precision.option} is not supported with --format {name} (formats that support it: {able}); remove "
                "one of the two"
            )
        if (name, precision) == ("openvino", Precision.INT8):
            _require_packages(f"{precision.option} --format {name}", ("nncf",), "int8")


def _require_packages(option: str, packages: Sequence[str], extra: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingExtraError(f"{option} needs {' and '.join(missing)}; run pip install 'unfreeze[{extra}]'")
