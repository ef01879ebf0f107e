"""Writes the result files of a run from its parts: JSON lines, Parquet, COCO results."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

from unfreeze.errors import ConfigError, MissingExtraError
from unfreeze.prediction.class_names import Names
from unfreeze.prediction.shards import Record, Shard, read_records
from unfreeze.prediction.store import Store

ResultFormat = Literal["jsonl", "csv", "parquet", "coco", "drawn", "crops", "all"]
FORMATS: tuple[str, ...] = tuple(name for name in get_args(ResultFormat) if name != "all")
PARQUET_ROWS = 1024  # rows in memory before they are written
MAX_SHOWN = 5  # failures that are reported one by one

COLUMNS = (
    *("image", "frame", "time_s", "width", "height"),
    *("class_id", "name", "score", "xmin", "ymin", "xmax", "ymax"),
)  # of predictions.csv; the box is in pixels

WriteRecord = Callable[[Record, bytes], None]  # receives a record and its line of JSON


@dataclass(frozen=True)
class CocoIds:
    """The ids of COCO's annotations.

    `categories` maps the classes of the model to categories by name; None if no name is shared, and ids are the same.
    """

    images: Mapping[str, int]  # file_name -> id
    categories: Mapping[int, int] | None = None
    unknown_classes: tuple[str, ...] = ()


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
    store: Store, shards: Sequence[Shard], formats: Sequence[str], names: Names, ids: CocoIds | None
) -> RunResults:
    """Writes the result files from the parts."""
    images = detections = failures = 0
    first_failures: list[Record] = []
    with ExitStack() as files:
        writers = record_writers(store, files, formats, names, ids)
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
    written = [name for result_format in formats for name in file_names(result_format, ids)]
    file_list = (*written, *(["failures.jsonl"] if failures else []))
    return RunResults(images, detections, failures, tuple(first_failures), file_list)


def record_writers(
    store: Store, files: ExitStack, formats: Sequence[str], names: Names, ids: CocoIds | None
) -> list[WriteRecord]:
    """Returns a function for each format that writes one record; images are drawn and cropped while shards run."""
    writers: dict[str, Callable[[], WriteRecord]] = {
        "jsonl": lambda: json_lines_writer(store, files),
        "csv": lambda: csv_writer(store, files),
        "parquet": lambda: parquet_writer(store, files),
        "coco": lambda: coco_writer(store, files, names, ids),
    }
    return [writers[name]() for name in formats if name in writers]


def file_names(result_format: str, ids: CocoIds | None) -> list[str]:
    """Returns the files of a format."""
    return {
        "jsonl": ["predictions.jsonl"],
        "csv": ["predictions.csv"],
        "parquet": ["predictions.parquet"],
        "coco": ["coco_results.json", *([] if ids is not None else ["coco_images.json"])],
        "drawn": ["drawn/"],
        "crops": ["crops/"],
    }[result_format]


def json_lines_writer(store: Store, files: ExitStack) -> WriteRecord:
    """Returns a function that writes records to predictions.jsonl."""
    file = files.enter_context(store.writing("predictions.jsonl"))

    def write(record: Record, line: bytes) -> None:
        file.write(line)

    return write


def csv_writer(store: Store, files: ExitStack) -> WriteRecord:
    """Returns a function that writes records to predictions.csv: a row for each detection."""
    file = files.enter_context(store.writing("predictions.csv"))

    def write_row(row: Sequence[object]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))

    def write(record: Record, line: bytes) -> None:
        image = [record.get(name, "") for name in COLUMNS[:5]]
        for detection in record["detections"]:
            ymin, xmin, ymax, xmax = detection["box_px"]
            own = [detection["class_id"], detection["name"], detection["score"]]
            write_row([*image, *own, xmin, ymin, xmax, ymax])

    write_row(COLUMNS)
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


def read_coco_ids(annotations: str | Path, names: Names) -> CocoIds:
    """Returns the ids of the images and categories of COCO's annotations. Raises: ConfigError."""
    try:
        document = json.loads(Path(annotations).read_text(encoding="utf-8"))
        images = {image["file_name"]: image["id"] for image in document["images"]}
        categories = {category["name"]: category["id"] for category in document.get("categories", ())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{annotations} cannot be read as COCO annotations, whose images have file_name and id: {error}"
        ) from None
    by_name = {class_id: categories[name] for class_id, name in names.items() if name in categories}
    if not by_name:
        return CocoIds(images)
    unknown = tuple(name for class_id, name in names.items() if class_id not in by_name)
    return CocoIds(images, by_name, unknown)


def coco_writer(store: Store, files: ExitStack, names: Names, ids: CocoIds | None) -> WriteRecord:
    """Returns a function that writes records to coco_results.json.

    Without `ids`, images are numbered from 1, and coco_images.json lists their numbers and the categories, as a dataset
    that pycocotools reads.
    """
    write_result = json_array_writer(files, files.enter_context(store.writing("coco_results.json")))
    write_image = coco_images_writer(store, files, names) if ids is None else None
    categories = ids.categories if ids is not None else None
    number = 0

    def write(record: Record, line: bytes) -> None:
        nonlocal number
        number += 1
        if write_image is not None:
            write_image(number, record)
        image_id = number if ids is None else image_id_of(record["image"], ids.images)
        for result in coco_results(record):
            category = result["category_id"] if categories is None else categories.get(result["category_id"])
            if category is not None:
                write_result({"image_id": image_id, **result, "category_id": category})

    return write


def coco_images_writer(store: Store, files: ExitStack, names: Names) -> Callable[[int, Record], None]:
    """Returns a function that writes images, with their numbers, to coco_images.json."""
    file = files.enter_context(store.writing("coco_images.json"))
    categories = dict(names)

    def finish(kind: object, error: object, traceback: object) -> None:
        entries = [{"id": class_id, "name": name} for class_id, name in sorted(categories.items())]
        file.write(b',\n"categories": ' + json.dumps(entries, ensure_ascii=False).encode() + b"}\n")

    file.write(b'{"info": {}, "annotations": [],\n"images": ')
    files.push(finish)  # after the array of images has ended
    write_entry = json_array_writer(files, file)

    def write(number: int, record: Record) -> None:
        fields: Record = {name: record[name] for name in ("frame", "time_s", "width", "height") if name in record}
        write_entry({"id": number, "file_name": record["image"], **fields})
        categories.update({detection["class_id"]: detection["name"] for detection in record["detections"]})

    return write


def image_id_of(name: str, image_ids: Mapping[str, int]) -> int:
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
