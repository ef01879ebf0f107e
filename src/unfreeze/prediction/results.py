"""Writes the result files of a run from its parts: JSON lines, Parquet, COCO results."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

from unfreeze.errors import ConfigError, MissingExtraError
from unfreeze.prediction.shards import Record, Shard, read_records
from unfreeze.prediction.store import Store

ResultFormat = Literal["jsonl", "parquet", "coco", "drawn", "all"]
FORMATS: tuple[str, ...] = tuple(name for name in get_args(ResultFormat) if name != "all")
PARQUET_ROWS = 1024  # rows in memory before they are written
MAX_SHOWN = 5  # failures that are reported one by one

ImageIds = Mapping[str, int]  # file_name -> id of COCO's annotations
WriteRecord = Callable[[Record, bytes], None]  # receives a record and its line of JSON


@dataclass(frozen=True)
class RunResults:
    """The counts in the parts of a run, and the files that were written from them."""

    images: int
    detections: int
    failures: int
    first_failures: tuple[Record, ...]
    files: tuple[str, ...]


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Returns the formats, each once, with `all` replaced by every one. Raises: ConfigError, MissingExtraError."""
    names = dict.fromkeys(FORMATS if "all" in formats else formats)
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"{name!r} is not a result format. Choose from {', '.join(FORMATS)} or all.")
    if "parquet" in names:
        import_pyarrow()
    return tuple(names)


def write_results(
    store: Store, shards: Sequence[Shard], formats: Sequence[str], image_ids: ImageIds | None
) -> RunResults:
    """Writes the result files from the parts."""
    images = detections = failures = 0
    first_failures: list[Record] = []
    with ExitStack() as files:
        writers = record_writers(store, files, formats, image_ids)
        failures_file = files.enter_context(store.writing("failures.jsonl"))
        for record, line in read_records(store, shards):
            if "error" in record:
                failures += 1
                failures_file.write(line)
                first_failures += [record] if len(first_failures) < MAX_SHOWN else []
                continue
            images += 1
            detections += len(record["detections"])
            for write in writers:
                write(record, line)
    if not failures:
        store.remove("failures.jsonl")
    written = [name for result_format in formats for name in file_names(result_format, image_ids)]
    names = (*written, *(["failures.jsonl"] if failures else []))
    return RunResults(images, detections, failures, tuple(first_failures), names)


def record_writers(
    store: Store, files: ExitStack, formats: Sequence[str], image_ids: ImageIds | None
) -> list[WriteRecord]:
    """Returns a function for each format that writes one record; images are drawn while shards run."""
    writers: dict[str, Callable[[], WriteRecord]] = {
        "jsonl": lambda: json_lines_writer(store, files),
        "parquet": lambda: parquet_writer(store, files),
        "coco": lambda: coco_writer(store, files, image_ids),
    }
    return [writers[name]() for name in formats if name in writers]


def file_names(result_format: str, image_ids: ImageIds | None) -> list[str]:
    """Returns the files of a format."""
    return {
        "jsonl": ["predictions.jsonl"],
        "parquet": ["predictions.parquet"],
        "coco": ["coco_results.json", *([] if image_ids is not None else ["coco_images.json"])],
        "drawn": ["drawn/"],
    }[result_format]


def json_lines_writer(store: Store, files: ExitStack) -> WriteRecord:
    """Returns a function that writes records to predictions.jsonl."""
    file = files.enter_context(store.writing("predictions.jsonl"))

    def write(record: Record, line: bytes) -> None:
        file.write(line)

    return write


def import_pyarrow() -> tuple[Any, Any]:
    """Returns the modules `pyarrow` and `pyarrow.parquet`. Raises: MissingExtraError."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingExtraError("Parquet needs pyarrow: pip install 'unfreeze[parquet]'") from None
    return pyarrow, pyarrow.parquet


def parquet_writer(store: Store, files: ExitStack) -> WriteRecord:
    """Returns a function that writes records to predictions.parquet: a row for each image, detections as structs."""
    arrow, arrow_parquet = import_pyarrow()
    schema = parquet_schema(arrow)
    file = files.enter_context(store.writing("predictions.parquet"))
    writer = files.enter_context(arrow_parquet.ParquetWriter(file, schema))
    rows: list[Record] = []

    def flush() -> None:
        if rows:
            writer.write_table(arrow.Table.from_pylist(rows, schema))
            rows.clear()

    def write(record: Record, line: bytes) -> None:
        rows.append(record)
        if len(rows) >= PARQUET_ROWS:
            flush()

    # After the last record, but not after an error, which discards the file.
    files.push(lambda kind, error, traceback: flush() if kind is None else None)
    return write


def parquet_schema(arrow: Any) -> Any:
    """Returns the schema of predictions.parquet."""
    point = arrow.struct([(name, arrow.float32()) for name in ("y", "x", "y_px", "x_px", "score")])
    mask = arrow.struct([("size", arrow.list_(arrow.int32())), ("counts", arrow.list_(arrow.int32()))])
    detection = arrow.struct(
        [
            ("class_id", arrow.int32()),
            ("name", arrow.string()),
            ("score", arrow.float32()),
            ("box", arrow.list_(arrow.float32())),
            ("box_px", arrow.list_(arrow.float32())),
            ("keypoints", arrow.list_(point)),
            ("mask", mask),
        ]
    )
    return arrow.schema(
        [
            ("image", arrow.string()),
            ("frame", arrow.int64()),
            ("time_s", arrow.float64()),
            ("width", arrow.int32()),
            ("height", arrow.int32()),
            ("detections", arrow.list_(detection)),
        ]
    )


def read_image_ids(annotations: str | Path) -> ImageIds:
    """Returns the id of each file_name of COCO's annotations. Raises: ConfigError."""
    try:
        images = json.loads(Path(annotations).read_text(encoding="utf-8"))["images"]
        return {image["file_name"]: image["id"] for image in images}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{annotations} cannot be read as COCO annotations, whose images have file_name and id: {error}"
        ) from None


def coco_writer(store: Store, files: ExitStack, image_ids: ImageIds | None) -> WriteRecord:
    """Returns a function that writes records to coco_results.json.

    Without `image_ids`, images are numbered from 1, and coco_images.json lists their numbers.
    """
    write_result = json_array_writer(files, files.enter_context(store.writing("coco_results.json")))
    write_image = None
    if image_ids is None:
        write_image = json_array_writer(files, files.enter_context(store.writing("coco_images.json")))
    number = 0

    def write(record: Record, line: bytes) -> None:
        nonlocal number
        number += 1
        if write_image is not None:
            copied = ("frame", "time_s", "width", "height")
            fields = {name: record[name] for name in copied if name in record}
            write_image({"id": number, "file_name": record["image"], **fields})
        image_id = number if image_ids is None else image_id_of(record["image"], image_ids)
        for result in coco_results(record):
            write_result({"image_id": image_id, **result})

    return write


def image_id_of(name: str, image_ids: ImageIds) -> int:
    """Returns the id of an image by its name or the end of it: annotations may have a.jpg or val/a.jpg."""
    parts = name.split("/")
    for start in range(len(parts)):
        if (end := "/".join(parts[start:])) in image_ids:
            return image_ids[end]
    raise ConfigError(f"{name} is not among the images of --annotations. Remove the image, or add it there.")


def json_array_writer(files: ExitStack, file: IO[bytes]) -> Callable[[Record], None]:
    """Returns a function that appends values to a JSON array, which `files` closes."""
    file.write(b"[")
    files.callback(file.write, b"\n]\n")
    separator = b"\n"

    def write(value: Record) -> None:
        nonlocal separator
        file.write(separator + json.dumps(value, ensure_ascii=False).encode())
        separator = b",\n"

    return write


def coco_results(record: Record) -> Iterator[Record]:
    """Yields the detections of an image in COCO's results format, without `image_id`."""
    width, height = record["width"], record["height"]
    for detection in record["detections"]:
        ymin, xmin, ymax, xmax = detection["box"]
        box = (xmin * width, ymin * height, (xmax - xmin) * width, (ymax - ymin) * height)
        result: Record = {
            "category_id": detection["class_id"],
            "bbox": [round(edge, 3) for edge in box],
            "score": detection["score"],
        }
        if "mask" in detection:
            mask = detection["mask"]
            result["segmentation"] = {"size": mask["size"], "counts": compress_run_lengths(mask["counts"])}
        if "keypoints" in detection:
            result["keypoints"] = [
                number for point in detection["keypoints"] for number in (point["x_px"], point["y_px"], point["score"])
            ]
        yield result


def compress_run_lengths(counts: Sequence[int]) -> str:
    """Returns run lengths as COCO's string: differences to the count two before, six bits a letter, lowest first.

    Source: rleToString of cocoapi's maskApi.c.
    """
    text = io.StringIO()
    for index, count in enumerate(counts):
        rest = count - counts[index - 2] if index > 2 else count
        while True:
            bits = rest & 31
            rest >>= 5
            more = rest != (-1 if bits & 16 else 0)
            text.write(chr(48 + bits + (32 if more else 0)))
            if not more:
                break
    return text.getvalue()
