"""The metadata of a .tflite: how pixels are normalized, what each output is, and the names of the classes.

The format is a flatbuffer in a buffer of the model, and a ZIP archive with the labels behind the model. Only the tables
that an object detector needs are written; the numbers of their fields are those of the schema.
Source: mediapipe/tasks/metadata/metadata_schema.fbs, and metadata_writers/object_detector.py beside it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from unfreeze import flatbuffer

LABELS = "labels.txt"
UNKNOWN = "???"  # as in the files of labels that come with models
METADATA = b"TFLITE_METADATA"
IDENTIFIER = b"M001"
MODEL_IDENTIFIER = b"TFL3"
MIN_PARSER_VERSION = "1.2.0"  # the first version with groups of tensors

# Enumerations and members of unions.
RGB, GRAYSCALE = 1, 2
BOUNDARIES, RATIO = 1, 0
VALUE_LABELS = 3
FEATURE_PROPERTIES, IMAGE_PROPERTIES, BOUNDING_BOX_PROPERTIES = 1, 2, 3
NORMALIZATION_OPTIONS = 1


@dataclass(frozen=True)
class Byte:
    """A number of one byte: an enumeration, or the type of a union."""

    value: int


Value: TypeAlias = "str | int | Byte | Table | Sequence[str] | Sequence[int] | Sequence[float] | Sequence[Table]"


@dataclass(frozen=True)
class Table:
    """A table of the schema: the values of its fields by their number."""

    fields: Mapping[int, Value]


@dataclass(frozen=True)
class Output:
    """An output of a detector: its name in the metadata, and what it is."""

    name: str
    description: str
    is_boxes: bool = False
    is_classes: bool = False
    is_per_detection: bool = True


# Those of TFLite_Detection_PostProcess; MediaPipe knows them by these names.
POSTPROCESS_OUTPUTS = (
    Output("location", "The locations of the detected boxes.", is_boxes=True),
    Output("category", "The categories of the detected boxes.", is_classes=True),
    Output("score", "The scores of the detected boxes."),
    Output("number of detections", "The number of the detected boxes.", is_per_detection=False),
)


def output_of_signature(name: str) -> Output:
    """Returns the description of an output that has a name of the Object Detection API."""
    return Output(
        name,
        f"{name} of the Object Detection API.",
        is_boxes=name == "detection_boxes",
        is_classes=name == "detection_classes",
        is_per_detection=name.startswith("detection_"),
    )


def detection_metadata(
    shape: Sequence[int],
    means: Sequence[float],
    deviations: Sequence[float],
    outputs: Sequence[Output],
    *,
    has_labels: bool,
) -> bytes:
    """Returns the metadata of a detector.

    Args:
        shape: height, width and channels of the input.
        means, deviations: a pixel 0..255 becomes `(pixel - mean) / deviation`; one number, or one for each channel.
        outputs: in the order of the model.
        has_labels: whether the model comes with the names of its classes, in LABELS.
    """
    height, width, channels = shape
    image = Table({0: Byte(RGB if channels == 3 else GRAYSCALE), 1: Table({0: width, 1: height})})
    normalization = Table({0: Byte(NORMALIZATION_OPTIONS), 1: Table({0: list(means), 1: list(deviations)})})
    limits = [
        [(pixel - mean) / deviation for mean, deviation in zip(means, deviations, strict=True)]
        for pixel in (255.0, 0.0)
    ]
    input_tensor = Table(
        {
            0: "image",
            1: "Input image to be detected.",
            3: Table({0: Byte(IMAGE_PROPERTIES), 1: image}),
            4: [normalization],
            5: Table({0: limits[0], 1: limits[1]}),
        }
    )
    subgraph: dict[int, Value] = {2: [input_tensor], 3: [_output(output, has_labels=has_labels) for output in outputs]}
    group = [output.name for output in outputs if output.is_per_detection]
    if group:
        subgraph[8] = [Table({0: "detection_result", 1: group})]
    model = Table(
        {
            0: "ObjectDetector",
            1: "Identify which of a known set of objects might be present and provide information about their "
            "positions within the given image.",
            3: [Table(subgraph)],
            7: MIN_PARSER_VERSION,
        }
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(_written(builder, model), IDENTIFIER)
    return bytes(builder.Output())


def with_signature_metadata(model: bytes, shape: Sequence[int], names: Mapping[int, str]) -> bytes:
    """Returns a .tflite that takes pixels 0..255, with metadata by the names of its signature.

    Args:
        shape: height, width and channels of the input.
        names: the names of the classes by id (from 1), as `detection_classes` has them.
    """
    tables = flatbuffer.root(model)
    by_tensor = {output.number(1, "I"): output.text(0) for output in tables.tables(7)[0].tables(1)}
    outputs = [output_of_signature(by_tensor[tensor]) for tensor in tables.tables(2)[0].numbers(2)]
    metadata = detection_metadata(shape, [0.0], [1.0], outputs, has_labels=bool(names))
    return with_metadata(model, metadata, label_lines(names, first=0, last=max(names, default=0)) if names else ())


def label_lines(names: Mapping[int, str], *, first: int, last: int) -> list[str]:
    """Returns the names of the ids from `first` to `last`, for a file of labels; `???` where there is none."""
    return [names.get(number, UNKNOWN) for number in range(first, last + 1)]


def with_metadata(model: bytes, metadata: bytes, labels: Sequence[str] = ()) -> bytes:
    """Returns a .tflite with metadata, and with the labels, one a line, as the associated file LABELS."""
    contents = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(metadata, np.uint8)
    contents.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA, len(contents.buffers) - 1
    contents.metadata = [*(contents.metadata or []), entry]
    builder = flatbuffers.Builder(len(model) + len(metadata))
    builder.Finish(contents.Pack(builder), MODEL_IDENTIFIER)
    content = bytes(builder.Output())
    if not labels:
        return content
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:  # stored, so that runtimes can map it
        # A fixed date: the same model has the same bytes.
        archive.writestr(zipfile.ZipInfo(LABELS, (1980, 1, 1, 0, 0, 0)), "".join(f"{label}\n" for label in labels))
    return file.getvalue()


def _output(output: Output, *, has_labels: bool) -> Table:
    """Returns the description of an output; the second axis of one of each detection is that of the detections."""
    content: dict[int, Value] = {0: Byte(FEATURE_PROPERTIES), 1: Table({})}
    if output.is_boxes:  # numbers 0 to 3 are left, top, right, bottom
        box = Table({0: [1, 0, 3, 2], 1: Byte(BOUNDARIES), 2: Byte(RATIO)})
        content = {0: Byte(BOUNDING_BOX_PROPERTIES), 1: box}
    if output.is_per_detection:
        content[2] = Table({0: 2, 1: 2})
    fields: dict[int, Value] = {0: output.name, 1: output.description, 3: Table(content)}
    if output.is_classes and has_labels:
        description = "Labels for categories that the model can recognize."
        fields[6] = [Table({0: LABELS, 1: description, 2: Byte(VALUE_LABELS)})]
    return Table(fields)


def _written(builder: flatbuffers.Builder, table: Table) -> int:
    """Writes a table, what it refers to first, and returns its offset."""
    offsets = {
        number: _offset(builder, value) for number, value in table.fields.items() if not isinstance(value, (int, Byte))
    }
    builder.StartObject(max(table.fields, default=-1) + 1)
    for number, value in table.fields.items():
        if isinstance(value, Byte):
            builder.PrependUint8Slot(number, value.value, 0)
        elif isinstance(value, int):
            builder.PrependUint32Slot(number, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(number, offsets[number], 0)
    return int(builder.EndObject())


def _offset(builder: flatbuffers.Builder, value: Value) -> int:
    """Writes a string, a table or a vector, and returns its offset."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, Table):
        return _written(builder, value)
    assert isinstance(value, Sequence)
    if isinstance(value[0], (str, Table)):
        offsets = [_offset(builder, item) for item in value if isinstance(item, (str, Table))]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())
    dtype = np.float32 if isinstance(value[0], float) else np.uint32
    return int(builder.CreateNumpyVector(np.array(value, dtype)))
