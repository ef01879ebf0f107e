"""The shards of a run: the plan that assigns images to shards, and the parts that hold the results of each shard.

The output directory stores the state of a run, so that the run can be killed at any point and started again:

    plan/settings.json      what the results depend on
    plan/shards-NNNN.jsonl  which images are in which shard; a later run with more images adds a file
    parts/part-NUMBER-ID.jsonl  the records of one shard and a last line {"end": how many}

A part is written atomically and named by its images, so that running a shard again replaces it with the same content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from unfreeze.errors import OutputError
from unfreeze.images import Source, is_video
from unfreeze.prediction.store import Store

SETTINGS = "plan/settings.json"
SHARD_SIZE = 64  # images; a kill costs at most this many per worker, and a remote store one request for this many
END_BYTES = 64
RESULTS = (
    *("predictions.jsonl", "predictions.csv", "predictions.parquet", "coco_results.json", "coco_images.json"),
    "failures.jsonl",
)
START_OVER = "Pass another --output-directory, or --overwrite to start over."

Settings = Mapping[str, str | float | bool]
Record = dict[str, Any]  # one line of predictions.jsonl or failures.jsonl


@dataclass(frozen=True)
class Shard:
    """Images that are run and stored together; a video is a shard of its own."""

    number: int
    sources: tuple[Source, ...]

    @property
    def part(self) -> str:
        """The file name of its part."""
        images = json.dumps([(source.name, source.location) for source in self.sources])
        return f"part-{self.number:06d}-{hashlib.sha256(images.encode()).hexdigest()[:12]}.jsonl"

    @property
    def is_video(self) -> bool:
        """Returns whether it is one video, rather than images."""
        return is_video(self.sources[0].location)


def plan_shards(
    store: Store, sources: Sequence[Source], settings: Settings, overwrite: bool, shard_size: int | None = None
) -> list[Shard]:
    """Returns every shard of the run in this store; adds shards for images that its plan lacks.

    Raises: OutputError if the store has results of other settings.
    """
    if overwrite:
        remove_results(store)
    check_settings(store, settings)
    plans = sorted(name for name in store.names("plan") if name.startswith("shards-"))
    shards = [shard for name in plans for shard in read_plan(store, name)]
    locations = {source.location for shard in shards for source in shard.sources}
    names = {source.name: source.location for shard in shards for source in shard.sources}
    new = [source for source in sources if source.location not in locations]
    for source in new:
        if source.name in names:
            raise OutputError(
                f"{store.url} has results of another image of the name {source.name} ({names[source.name]}). "
                f"{START_OVER}"
            )
    if new:
        added = list(split_into_shards(new, len(shards), shard_size or SHARD_SIZE))
        store.write(f"plan/shards-{len(plans):04d}.jsonl", map(plan_line, added))
        shards += added
    return shards


def check_settings(store: Store, settings: Settings) -> None:
    """Writes the settings of a new run. Raises: OutputError if the store has results of other settings."""
    if not store.exists(SETTINGS):
        existing = [name for name in RESULTS if store.exists(name)]
        if existing:
            raise OutputError(f"{store.path(existing[0])} exists already. {START_OVER}")
        store.write(SETTINGS, [json.dumps(settings, indent=2).encode()])
        return
    try:
        stored = json.loads(store.read(SETTINGS))
    except ValueError:
        raise OutputError(f"{store.path(SETTINGS)} is incomplete. {START_OVER}") from None
    changed = [name for name in {**stored, **settings} if stored.get(name) != settings.get(name)]
    changes = [f"{name} {stored.get(name)}, now {settings.get(name)}" for name in changed]
    if changes:
        raise OutputError(f"{store.url} has results of other settings ({'; '.join(changes)}). {START_OVER}")


def remove_results(store: Store) -> None:
    """Removes a run. The settings go last, so that after a kill the next `overwrite` finds what is left."""
    for name in RESULTS:
        if store.exists(name):
            store.remove(name)
    for folder in ("parts", "plan"):
        for name in sorted(store.names(folder) - {"settings.json"}):
            store.remove(f"{folder}/{name}")
    if store.exists(SETTINGS):
        store.remove(SETTINGS)


def split_into_shards(sources: Sequence[Source], first: int, size: int) -> Iterator[Shard]:
    """Yields shards of up to `size` images, numbered from `first`; each video is a shard of its own."""
    number = first
    for are_videos, group in groupby(sources, lambda source: is_video(source.location)):
        neighbors = list(group)
        step = 1 if are_videos else size
        for start in range(0, len(neighbors), step):
            yield Shard(number, tuple(neighbors[start : start + step]))
            number += 1


def plan_line(shard: Shard) -> bytes:
    """Returns a shard as a line of the plan."""
    pairs = [(source.name, source.location) for source in shard.sources]
    return json.dumps({"shard": shard.number, "sources": pairs}, ensure_ascii=False).encode() + b"\n"


def read_plan(store: Store, name: str) -> Iterator[Shard]:
    """Yields the shards of a file of the plan. Raises: OutputError if it is incomplete."""
    try:
        for line in store.read(f"plan/{name}").splitlines():
            row = json.loads(line)
            yield Shard(row["shard"], tuple(Source(*pair) for pair in row["sources"]))
    except (ValueError, KeyError, TypeError):
        raise OutputError(f"{store.path('plan')}/{name} is incomplete. {START_OVER}") from None


def write_part(store: Store, shard: Shard, lines: Sequence[bytes]) -> None:
    """Writes the records of a shard, each a line of JSON."""
    end = json.dumps({"end": len(lines)}).encode() + b"\n"
    store.write(f"parts/{shard.part}", [b"".join(lines), end])


def unfinished_shards(store: Store, shards: Sequence[Shard]) -> list[Shard]:
    """Returns the shards that have no part yet, or an incomplete one."""
    parts = store.names("parts")
    with ThreadPoolExecutor(16) as pool:  # threads, since each check of a remote store is a request
        finished = list(pool.map(lambda shard: shard.part in parts and is_complete(store, shard), shards))
    return [shard for shard, is_finished in zip(shards, finished, strict=True) if not is_finished]


def is_complete(store: Store, shard: Shard) -> bool:
    """Returns whether a part ends with its count; for images, with the right one."""
    _, end, rest = store.tail(f"parts/{shard.part}", END_BYTES).rpartition(b'{"end": ')
    count = rest.removesuffix(b"}\n")
    return (
        bool(end) and rest.endswith(b"}\n") and count.isdigit() and (shard.is_video or int(count) == len(shard.sources))
    )


def read_records(store: Store, shards: Sequence[Shard]) -> Iterator[tuple[Record, bytes]]:
    """Yields every record with its line, in the order of the plan."""
    for shard in shards:
        with store.open(f"parts/{shard.part}") as part:
            for line in part:
                record = json.loads(line)
                if "end" not in record:
                    yield record, line
