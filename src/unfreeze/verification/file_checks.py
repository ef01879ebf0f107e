"""The files of a SavedModel: whether they are complete, and equal to those that were exported."""

import re
from collections.abc import Mapping
from pathlib import Path

from unfreeze.export_record import FileDigest, file_digest
from unfreeze.formatting import megabytes
from unfreeze.verification.meta_graph import MetaGraph

SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")
HALF_WRITTEN = re.compile(r"(_temp|tempstate|\.tmp|\.part)")  # names that TensorFlow and copying programs use meanwhile
FROZEN = "a frozen export: the weights are constants in saved_model.pb. Export the checkpoint instead"


def file_digests(saved_model: Path) -> dict[str, FileDigest]:
    """Returns size and hash of every file, by its path in the folder."""
    return {
        path.relative_to(saved_model).as_posix(): file_digest(path)
        for path in sorted(path for path in saved_model.rglob("*") if path.is_file())
    }


def file_mismatches(
    saved_model: Path,
    files: Mapping[str, FileDigest],
    recorded: Mapping[str, FileDigest],
    *,
    constants: bool = False,
) -> list[str]:
    """Describes what is wrong with the files, as far as that can be seen without reading variables.

    Args:
        files: those of the folder.
        recorded: those in export.json.
        constants: the weights are constants of the graph, so that there need not be variables.
    """
    problems = [] if constants else _variables_mismatches(saved_model / "variables")
    problems += [f"{name} is left over from an interrupted write" for name in files if HALF_WRITTEN.search(name)]
    problems += [f"{name} is empty" for name, file in files.items() if not file.size_bytes and "/" not in name]
    return problems + digest_mismatches(files, recorded)


def digest_mismatches(files: Mapping[str, FileDigest], recorded: Mapping[str, FileDigest]) -> list[str]:
    """Describes the files that are not those that export.json lists."""
    problems = []
    for name, file in recorded.items():
        if name not in files:
            problems.append(f"{name} is missing, but export.json lists it")
        elif files[name].size_bytes != file.size_bytes:
            problems.append(f"{name} has {files[name].size_bytes} bytes (export.json: {file.size_bytes})")
        elif files[name].sha256 != file.sha256:
            problems.append(f"{name} is not the file that was exported: its SHA-256 differs from export.json")
    return problems


def frozen_mismatches(meta_graph: MetaGraph, variables_bytes: int) -> list[str]:
    """Describes a graph whose constants are larger than the variables."""
    if meta_graph.constants_bytes <= max(variables_bytes, 1 << 16):
        return []
    return [
        f"saved_model.pb has {megabytes(meta_graph.constants_bytes)} of constants, "
        f"variables/ has {megabytes(variables_bytes)}: {FROZEN}"
    ]


def _variables_mismatches(variables: Path) -> list[str]:
    names = sorted(path.name for path in variables.iterdir()) if variables.is_dir() else []
    if not names:
        return [f"variables/ is {'empty' if variables.is_dir() else 'missing'}: {FROZEN}"]
    problems = []
    index = variables / "variables.index"
    if not index.is_file() or not index.stat().st_size:
        problems.append(f"variables/variables.index is {'empty' if index.is_file() else 'missing'}")
    shards = [match for name in names if (match := SHARD.fullmatch(name))]
    counts = sorted({int(match[2]) for match in shards})
    if len(counts) > 1:
        problems.append(f"variables/ has shards of {' and of '.join(map(str, counts))}: two writes are mixed")
    present = {int(match[1]) for match in shards}
    count = counts[-1] if counts else 1
    missing = sorted(set(range(count)) - present)
    return problems + [f"variables/variables.data-{k:05d}-of-{count:05d} is missing" for k in missing]
