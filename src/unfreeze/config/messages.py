"""The messages and enums of pipeline.config and label maps: `messages.Ssd()`, `messages.ResizeType`.

The classes are built from schema.binpb when they are first used; their types for editors and type checkers are in
messages.pyi. scripts/compile_protos writes both files from the *.proto files.
"""

from functools import cache
from pathlib import Path
from typing import Any

from unfreeze.protobuf_pool import MessagePool, pool_of_descriptor_set


@cache
def _pool() -> MessagePool:
    return pool_of_descriptor_set("unfreeze.config", Path(__file__).with_name("schema.binpb").read_bytes())


@cache
def __getattr__(name: str) -> Any:
    for find in (_pool().message_class, _pool().enum):
        try:
            return find(name)
        except KeyError:
            continue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
