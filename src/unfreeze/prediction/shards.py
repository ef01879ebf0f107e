"""The pictures of a long run in shards, each of which is answered once: the plan, and the parts that are done.

The output directory remembers a run, so that it can be killed at any point and given again:

    plan/settings.json      what the answers depend on
    plan/shards-NNNN.jsonl  which pictures are in which shard; a later run with more pictures adds a file
    parts/part-NUMBER-ID.jsonl  the records of one shard and a last line {"end": how many}

A part is written whole and named by what it answers, so that answering a shard again replaces it by the same.
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
SHARD_SIZE = 64  # what a kill costs at most, and a remote store's trips a picture
END_BYTES = 64
RESULTS = (
    *("predictions.jsonl", "predictions.parquet", "coco_results.json", "coco_images.json"),
    "failures.jsonl",
)


@dataclass(frozen=True)
class Shard:
    """Pictures that are answered together; a video is one by itself."""

    number: int
    sources: tuple[Source, ...]

    @property
    def part(self) -> str:
        told = json.dumps([(source.name, source.location) for source in self.sources])
        return f"part-{self.number:06d}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.jsonl"

    @property
    def is_video(self) -> bool:
        return is_video(self.sources[0].location)


def planned(
    store: Store, sources: Sequence[Source], settings: Mapping[str, Any], overwrite: bool, shard_size: int | None = None
) -> list[Shard]:
    """Every shard of the run that the store remembers, with what it did not know of before.

    Raises: OutputError when the store holds results of other settings.
    """
    if overwrite:
        forget(store)
    keep_settings(store, settings)
    plans = sorted(name for name in store.names("plan") if name.startswith("shards-"))
    shards = [shard for name in plans for shard in read_plan(store, name)]
    known = {source.location for shard in shards for source in shard.sources}
    names = {source.name: source.location for shard in shards for source in shard.sources}
    new = [source for source in sources if source.location not in known]
    for source in new:
        if source.name in names:
            raise OutputError(
                f"{store.url} has results of another {source.name} ({names[source.name]}): "
                "give another --output-directory, or --overwrite"
            )
    if new:
        added = list(in_shards(new, len(shards), shard_size or SHARD_SIZE))
        store.write(f"plan/shards-{len(plans):04d}.jsonl", map(plan_line, added))
        shards += added
    return shards


def keep_settings(store: Store, settings: Mapping[str, Any]) -> None:
    if not store.exists(SETTINGS):
        present = [name for name in RESULTS if store.exists(name)]
        if present:
            raise OutputError(
                f"{store.path(present[0])} exists already: give --overwrite, or another --output-directory"
            )
        store.write(SETTINGS, [json.dumps(settings, indent=2).encode()])
        return
    try:
        kept = json.loads(store.read(SETTINGS))
    except ValueError:
        raise OutputError(f"{store.path(SETTINGS)} is torn: give --overwrite") from None
    changed = [f"{name} {kept.get(name)}, not {value}" for name, value in settings.items() if kept.get(name) != value]
    if changed:
        raise OutputError(
            f"{store.url} has results of other settings ({'; '.join(changed)}): "
            "give another --output-directory, or --overwrite"
        )


def forget(store: Store) -> None:
    """Settings go last, so that a kill in between leaves what the next --overwrite finds."""
    for name in RESULTS:
        if store.exists(name):
            store.remove(name)
    for folder in ("parts", "plan"):
        for name in sorted(store.names(folder) - {"settings.json"}):
            store.remove(f"{folder}/{name}")
    if store.exists(SETTINGS):
        store.remove(SETTINGS)


def in_shards(sources: Sequence[Source], first: int, size: int) -> Iterator[Shard]:
    number = first
    for alone, run in groupby(sources, lambda source: is_video(source.location)):
        together = list(run)
        step = 1 if alone else size
        for start in range(0, len(together), step):
            yield Shard(number, tuple(together[start : start + step]))
            number += 1


def plan_line(shard: Shard) -> bytes:
    pairs = [(source.name, source.location) for source in shard.sources]
    return json.dumps({"shard": shard.number, "sources": pairs}, ensure_ascii=False).encode() + b"\n"


def read_plan(store: Store, name: str) -> Iterator[Shard]:
    try:
        for line in store.read(f"plan/{name}").splitlines():
            told = json.loads(line)
            yield Shard(told["shard"], tuple(Source(*pair) for pair in told["sources"]))
    except (ValueError, KeyError, TypeError):
        raise OutputError(f"{store.path('plan')}/{name} is torn: give --overwrite") from None


def write_part(store: Store, shard: Shard, lines: Sequence[bytes]) -> None:
    """The records of a shard, each a line of JSON."""
    end = json.dumps({"end": len(lines)}).encode() + b"\n"
    store.write(f"parts/{shard.part}", [b"".join(lines), end])


def missing(store: Store, shards: Sequence[Shard]) -> list[Shard]:
    """The shards that have no part yet, or a torn one."""
    there = store.names("parts")
    with ThreadPoolExecutor(16) as pool:  # of a remote store each look is a trip
        whole = list(pool.map(lambda shard: shard.part in there and is_whole(store, shard), shards))
    return [shard for shard, done in zip(shards, whole, strict=True) if not done]


def is_whole(store: Store, shard: Shard) -> bool:
    last = store.end(f"parts/{shard.part}", END_BYTES).rpartition(b'{"end": ')
    count = last[2].removesuffix(b"}\n")
    return (
        bool(last[1])
        and last[2].endswith(b"}\n")
        and count.isdigit()
        and (shard.is_video or int(count) == len(shard.sources))
    )


def records(store: Store, shards: Sequence[Shard]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Every record, and the line it is on, in the order of the plan."""
    for shard in shards:
        with store.open(f"parts/{shard.part}") as part:
            for line in part:
                record = json.loads(line)
                if "end" not in record:
                    yield record, line
