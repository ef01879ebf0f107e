"""The parts of a run as the files that people ask for: JSON lines, Parquet, COCO results."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from unfreeze.errors import ConfigError, MissingExtraError
from unfreeze.prediction.shards import Shard, records
from unfreeze.prediction.store import Store

FORMATS = ("jsonl", "parquet", "coco", "drawn")
ROWS_AT_ONCE = 1024
SHOWN = 5  # failures told by name

Record = dict[str, Any]
Write = Callable[[Record, bytes], None]


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Those asked for, each once; `all` is every one. Raises: ConfigError, MissingExtraError."""
    asked = dict.fromkeys(FORMATS if "all" in formats else formats)
    for name in asked:
        if name not in FORMATS:
            raise ConfigError(f"{name!r} is not a format: give {', '.join(FORMATS)} or all")
    if "parquet" in asked:
        parquet_modules()
    return tuple(asked)


def finish(
    store: Store, shards: Sequence[Shard], formats: Sequence[str], image_ids: dict[str, int] | None
) -> tuple[dict[str, int], list[str], list[Record]]:
    """Write the files from the parts. -> what was counted, what was written, the first failures."""
    counts = {"pictures": 0, "detections": 0, "failures": 0}
    shown: list[Record] = []
    writers = {"jsonl": json_lines, "parquet": parquet, "coco": lambda store, files: coco(store, files, image_ids)}
    with ExitStack() as files:
        write = [writers[name](store, files) for name in formats if name in writers]
        failures = files.enter_context(store.writing("failures.jsonl"))
        for record, line in records(store, shards):
            if "error" in record:
                counts["failures"] += 1
                failures.write(line)
                shown += [record] if len(shown) < SHOWN else []
                continue
            counts["pictures"] += 1
            counts["detections"] += len(record["detections"])
            for each in write:
                each(record, line)
    if not counts["failures"]:
        store.remove("failures.jsonl")
    named = {
        "jsonl": ["predictions.jsonl"],
        "parquet": ["predictions.parquet"],
        "coco": ["coco_results.json", *([] if image_ids is not None else ["coco_images.json"])],
        "drawn": ["drawn/"],
    }
    written = [name for each in formats for name in named[each]]
    return counts, written + (["failures.jsonl"] if counts["failures"] else []), shown


def json_lines(store: Store, files: ExitStack) -> Write:
    file = files.enter_context(store.writing("predictions.jsonl"))
    return lambda record, line: file.write(line)


def parquet_modules() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingExtraError("Parquet needs pyarrow: pip install 'unfreeze[parquet]'") from None
    return pyarrow, pyarrow.parquet


def parquet(store: Store, files: ExitStack) -> Write:
    """One row a picture; detections are a list of structs."""
    arrow, arrow_parquet = parquet_modules()
    schema = schema_of(arrow)
    writer = files.enter_context(
        arrow_parquet.ParquetWriter(files.enter_context(store.writing("predictions.parquet")), schema)
    )
    rows: list[Record] = []

    def flush() -> None:
        if rows:
            writer.write_table(arrow.Table.from_pylist(rows, schema))
            rows.clear()

    def write(record: Record, line: bytes) -> None:
        rows.append(record)
        if len(rows) >= ROWS_AT_ONCE:
            flush()

    # Only after the last record, and never after an error: the file is thrown away then.
    files.push(lambda kind, error, traceback: flush() if kind is None else None)
    return write


def schema_of(arrow: Any) -> Any:
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


def read_image_ids(annotations: str | Path) -> dict[str, int]:
    """file_name -> id of the images of a COCO JSON. Raises: ConfigError."""
    try:
        images = json.loads(Path(annotations).read_text(encoding="utf-8"))["images"]
        return {image["file_name"]: image["id"] for image in images}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{annotations} has no images with file_name and id, as COCO's JSON has: {error}") from None


def coco(store: Store, files: ExitStack, image_ids: dict[str, int] | None) -> Write:
    """COCO's results format. Without ids of one's own, pictures are numbered from 1, and coco_images.json tells how."""
    found = json_list(files, files.enter_context(store.writing("coco_results.json")))
    images = json_list(files, files.enter_context(store.writing("coco_images.json"))) if image_ids is None else None
    number = 0

    def write(record: Record, line: bytes) -> None:
        nonlocal number
        number += 1
        if images is not None:
            of_video: Record = {name: record[name] for name in ("frame", "time_s") if name in record}
            size = {"width": record["width"], "height": record["height"]}
            images({"id": number, "file_name": record["image"], **of_video, **size})
        image_id = number if image_ids is None else image_id_of(record["image"], image_ids)
        for result in coco_results(record):
            found({"image_id": image_id, **result})

    return write


def image_id_of(name: str, image_ids: dict[str, int]) -> int:
    """By the whole name or its end: annotations say a.jpg or val/a.jpg."""
    parts = name.split("/")
    for start in range(len(parts)):
        if (tail := "/".join(parts[start:])) in image_ids:
            return image_ids[tail]
    raise ConfigError(f"{name} is not among the images of --annotations: leave it out, or give its annotations")


def json_list(files: ExitStack, file: Any) -> Callable[[Record], None]:
    """A JSON array written one by one."""
    file.write(b"[")
    files.push(lambda kind, error, traceback: file.write(b"\n]\n") and None)
    before = b"\n"

    def write(value: Record) -> None:
        nonlocal before
        file.write(before + json.dumps(value, ensure_ascii=False).encode())
        before = b",\n"

    return write


def coco_results(record: Record) -> Iterator[Record]:
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
            result["segmentation"] = {"size": mask["size"], "counts": compressed(mask["counts"])}
        if "keypoints" in detection:
            points = detection["keypoints"]
            result["keypoints"] = [
                number for point in points for number in (point["x_px"], point["y_px"], point["score"])
            ]
        yield result


def compressed(counts: Sequence[int]) -> str:
    """Run lengths as COCO's string: differences to the count two before, six bits a letter, lowest first.

    Source: rleToString of cocoapi's maskApi.c.
    """
    text = io.StringIO()
    for place, count in enumerate(counts):
        rest = count - counts[place - 2] if place > 2 else count
        while True:
            bits = rest & 31
            rest >>= 5
            more = rest != (-1 if bits & 16 else 0)
            text.write(chr(48 + bits + (32 if more else 0)))
            if not more:
                break
    return text.getvalue()
