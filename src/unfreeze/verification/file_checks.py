"""The files of a SavedModel: whether all are there, whole, and those that were exported."""

import re
from collections.abc import Mapping
from pathlib import Path

from unfreeze.export_record import FileDigest, file_digest
from unfreeze.formatting import megabytes
from unfreeze.verification.meta_graph import MetaGraph

SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")
HALF_WRITTEN = re.compile(r"(_temp|tempstate|\.tmp|\.part)")  # what TensorFlow's savers and copying programs leave
FROZEN = "a frozen export: the weights are constants in saved_model.pb; export the checkpoint instead"


def file_digests(saved_model: Path) -> dict[str, FileDigest]:
    """Give size and sha256 of every file, by its path in the folder."""
    paths = sorted(path for path in saved_model.rglob("*") if path.is_file())
    return {path.relative_to(saved_model).as_posix(): file_digest(path) for path in paths}


def file_mismatches(
    saved_model: Path,
    found: Mapping[str, FileDigest],
    recorded: Mapping[str, FileDigest],
    *,
    constants: bool = False,
) -> list[str]:
    """Say what is wrong with the files, as far as it shows without reading variables.

    With `constants` the weights are in the graph, and there need not be variables.
    """
    problems = [] if constants else _variables_mismatches(saved_model / "variables")
    problems += [f"{name} is left over from a write that did not end" for name in found if HALF_WRITTEN.search(name)]
    problems += [f"{name} is empty" for name, file in found.items() if not file.size_bytes and "/" not in name]
    for name, file in recorded.items():
        if name not in found:
            problems.append(f"{name} is missing, which was exported")
        elif found[name].size_bytes != file.size_bytes:
            problems.append(f"{name} has {found[name].size_bytes} bytes, {file.size_bytes} were exported")
        elif found[name].sha256 != file.sha256:
            problems.append(f"{name} is not the file that was exported")
    return problems


def frozen_mismatches(program: MetaGraph, variables_bytes: int) -> list[str]:
    """Say so when the constants in the graph outweigh the variables."""
    if program.constants_bytes <= max(variables_bytes, 1 << 16):
        return []
    return [
        f"saved_model.pb holds {megabytes(program.constants_bytes)} of constants, "
        f"variables/ {megabytes(variables_bytes)}: {FROZEN}"
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
        problems.append(f"variables/ holds shards of {' and of '.join(map(str, counts))}: two writes mixed")
    here = {int(match[1]) for match in shards}
    missing = sorted(set(range(counts[-1] if counts else 1)) - here)
    problems += [f"variables/variables.data-{k:05d}-of-{counts[-1] if counts else 1:05d} is missing" for k in missing]
    return problems
