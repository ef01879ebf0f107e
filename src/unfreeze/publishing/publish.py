"""A SavedModel as the next version under a base path, all or nothing; and back: rollback, prune, labels."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from unfreeze import verification
from unfreeze.errors import OutputError, SavedModelError, VerificationError
from unfreeze.export_record import has_constant_weights, read_record
from unfreeze.model_paths import saved_model_folder
from unfreeze.publishing.local_base_path import LocalBasePath, require_folder
from unfreeze.publishing.object_store_base_path import ObjectStoreBasePath
from unfreeze.publishing.version_numbers import free_version, removable, require
from unfreeze.targets import model_config
from unfreeze.targets.model_config import ModelConfig, label_of
from unfreeze.targets.server_versions import parse_server_version, require_known_operations
from unfreeze.targets.serving_responses import ResponseBytes, batch_findings, response_bytes, size_findings
from unfreeze.verification.file_checks import file_digests, file_mismatches

RECORD = "export.json"
PUBLISHED = "published.json"  # in a version: when, and of which version it is a copy

Base = LocalBasePath | ObjectStoreBasePath
Say = Callable[[str], None]


@dataclass(frozen=True)
class Published:
    """A version that is in place; `withdrawn` is the one it takes the place of, after a rollback."""

    base: str
    version: int
    labels: Mapping[str, int]
    withdrawn: int | None = None
    copy_of: int | None = None
    report: verification.Report | None = field(default=None, compare=False)
    response: ResponseBytes | None = None

    def to_dict(self) -> dict[str, Any]:
        told = {"model_base_path": self.base, "version": self.version, "labels": dict(self.labels)}
        told |= {"verified": self.report is not None and self.report.passed}
        told |= {"response_bytes_per_picture": self.response.to_dict() if self.response else None}
        if self.copy_of is not None:
            told |= {"withdrawn": self.withdrawn, "copy_of": self.copy_of}
        return told

    def __str__(self) -> str:
        if self.copy_of is not None:
            return f"version {self.version} of {self.base} is what {self.copy_of} was, instead of {self.withdrawn}"
        published = f"published version {self.version} of {self.base}{_named(self.labels, self.version)}"
        return f"{published}\nan answer to one picture: {self.response}" if self.response else published


def publish(
    saved_model: str | Path,
    model_base_path: str | Path,
    *,
    version: int | None = None,
    labels: Sequence[str] = (),
    runtimes: Sequence[str] = (),
    verify: bool = True,
    on_progress: Say | None = None,
    on_warning: Say | None = None,
) -> Published:
    """Put a SavedModel in place as a version which model servers take up, once it has been proved.

    Args:
        saved_model: the folder with saved_model.pb, or the export's folder above it.
        model_base_path: the folder of versions, or a URL of an object store (s3://bucket/models/NAME).
        version: its number; by default one above the highest.
        labels: names that clients may ask for; each moves here from where it was.
        runtimes: such as `tensorflow-serving:2.6`: refused if one of them does not know an operation of the graph.

    Raises:
        UnfreezeError: of the kind that fits; the versions that are served stay as they were. VerificationError: a
            check failed.
    """
    say, warn = on_progress or (lambda line: None), on_warning or (lambda line: None)
    folder = saved_model_folder(saved_model)
    base = base_of(model_base_path)
    moved = [label_of(label) for label in labels]
    _require_whole(folder)
    require_known_operations(folder, tuple(map(parse_server_version, runtimes)))
    free_version(base.versions(), version, base)  # told before the work is done; what counts is the answer at its end
    say(f"copying {folder}")
    with base.staged(folder, _beside(folder)) as staged:
        report = _proved(staged.folder, folder, say) if verify else None
        say(f"replaying the warm-up of {folder}")
        response = replay_warmup(staged.folder, warn)
        say(f"giving it a number in {base}")
        with base.locked():
            number = staged.place(version)
            say(f"version {number} is in place")
            written = _write_labels(base, {**_labels(base), **dict.fromkeys(moved, number)})
    return Published(str(base), number, written, report=report, response=response)


def rollback(
    model_base_path: str | Path,
    *,
    to: int | None = None,
    on_progress: Say | None = None,
) -> Published:
    """Serve what an older version holds, as a new version: servers take the highest number, and none is pulled away.

    Labels on the version that is withdrawn move to the new one.

    Args:
        to: whose content is served again; by default what was served before the newest version's content.
    """
    say = on_progress or (lambda line: None)
    base = base_of(model_base_path)
    versions = base.versions()
    if not versions:
        raise SavedModelError(f"{base}: no version here")
    newest = max(versions)
    content = require(to, versions, base) if to is not None else _before(base, versions, newest)
    if content == newest:
        raise OutputError(f"{base}: version {to} is the newest already")
    with base.fetched(content) as folder:
        say(f"copying version {content}")
        with base.staged(folder, _beside(folder, copy_of=_origin(base, versions, content))) as staged:
            replay_warmup(staged.folder, lambda line: None)
            with base.locked():
                if max(base.versions()) != newest:
                    raise OutputError(
                        f"{base}: version {max(base.versions())} has been published meanwhile: look first"
                    )
                number = staged.place(None)
                labels = {name: number if version == newest else version for name, version in _labels(base).items()}
                written = _write_labels(base, labels)
    return Published(str(base), number, written, withdrawn=newest, copy_of=content)


def prune(model_base_path: str | Path, *, keep: int) -> list[int]:
    """Remove old versions: not the `keep` newest, and none that has a label. Returns those removed."""
    base = base_of(model_base_path)
    with base.locked():
        going = removable(base.versions(), keep, _labels(base))
        # First from the list of what servers load, then from the disk.
        _write_labels(base, _labels(base), without=going)
    for version in going:
        base.remove(version)
    return going


def labels(
    model_base_path: str | Path,
    assign: Mapping[str, int] | None = None,
    *,
    remove: Sequence[str] = (),
) -> dict[str, int]:
    """Move or remove labels; returns all that there are then."""
    base = base_of(model_base_path)
    if not assign and not remove:
        return _labels(base)
    with base.locked():
        now = _labels(base)
        absent = [name for name in remove if name not in now]
        if absent:
            raise SavedModelError(f"{base}: no label {absent[0]}; there is {', '.join(sorted(now)) or 'none'}")
        versions = base.versions()
        for name, version in (assign or {}).items():
            now[label_of(name)] = require(version, versions, base)
        return _write_labels(base, {name: version for name, version in now.items() if name not in remove})


def base_of(model_base_path: str | Path) -> Base:
    """A folder of versions, or one in an object store."""
    text = str(model_base_path)
    if "://" in text and not text.startswith("file://"):
        return ObjectStoreBasePath(text)
    path = text.removeprefix("file://")
    require_folder(path)
    return LocalBasePath(path)


def records(base: Base) -> list[Mapping[str, Any]]:
    """The export.json of each version that has one, the oldest first."""
    found: list[Mapping[str, Any]] = []
    for name in base.versions().values():
        with contextlib.suppress(ValueError):
            record = json.loads(base.read(f"{name}/{RECORD}") or b"{}")
            if isinstance(record, dict) and record:
                found.append(record)
    return found


def replay_warmup(saved_model: Path, warn: Say) -> ResponseBytes | None:
    """The size of the answer to the first request of the warm-up; what is wrong with the answers is a warning.

    Raises: SavedModelError when TensorFlow Serving would refuse the version for its warm-up.
    """
    from unfreeze.targets.warmup import read_warmup, replay
    from unfreeze.warmup_records import WARMUP_FILE

    requests = read_warmup(saved_model)
    if not requests:
        warn(f"{saved_model.name} has no {WARMUP_FILE.as_posix()}: the first request to a server will be slow")
    answers = replay(saved_model, requests)
    if not answers:
        return None
    sizes = [response_bytes(answer) for answer in answers]
    found = [
        batch_findings(
            answer, each.signature, max(tensor.shape[0] if tensor.shape.rank else 1 for tensor in each.inputs.values())
        )
        for answer, each in zip(answers, requests, strict=True)
    ]
    for finding in (*(line for lines in found for line in lines), *size_findings(sizes[0])):
        warn(finding)
    return sizes[0]


def _require_whole(folder: Path) -> None:
    problems = file_mismatches(folder, file_digests(folder), {}, constants=has_constant_weights(read_record(folder)))
    if problems:
        raise SavedModelError(f"{folder}: {problems[0]}")


def _proved(staged: Path, source: Path, say: Say) -> verification.Report:
    report = verification.verify_saved_model(staged, record=read_record(source), on_progress=say)
    if not report.passed:
        raise VerificationError(f"{source}: not published, since a check of it failed:\n{report.table()}")
    return report


def _beside(folder: Path, copy_of: int | None = None) -> dict[str, bytes]:
    """What lies in a version beside the SavedModel: what it was exported from, and how it came here."""
    told: dict[str, Any] = {"published_at": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    if copy_of is not None:
        told["copy_of"] = copy_of
    record = read_record(folder)
    files = {PUBLISHED: (json.dumps(told) + "\n").encode()}
    return files | ({RECORD: (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()} if record else {})


def _origin(base: Base, versions: Mapping[int, str], version: int) -> int:
    """The version whose content this is: itself, unless it came by a rollback."""
    with contextlib.suppress(ValueError):
        told = json.loads(base.read(f"{versions[version]}/{PUBLISHED}") or b"{}")
        return int(told.get("copy_of", version)) if isinstance(told, dict) else version
    return version


def _before(base: Base, versions: Mapping[int, str], newest: int) -> int:
    """The version whose content was served before that of the newest."""
    origin = _origin(base, versions, newest)
    older = [version for version in versions if version < origin and _origin(base, versions, version) == version]
    if not older:
        raise SavedModelError(f"{base}: nothing to go back to before version {newest}")
    return max(older)


def _labels(base: Base) -> dict[str, int]:
    content = base.read(model_config.FILE)
    if content is None:
        return {}
    return dict(model_config.from_text(content.decode("utf-8", "replace"), f"{base}/{model_config.FILE}").labels)


def _write_labels(base: Base, labels: Mapping[str, int], without: Sequence[int] = ()) -> dict[str, int]:
    """The labels as the base path's models.config says them; a base path that never had one gets no file."""
    versions = [version for version in base.versions() if version not in without]
    kept = {name: version for name, version in labels.items() if version in versions}
    text = str(base)
    config = ModelConfig(text.rstrip("/").rsplit("/", 1)[-1], text, kept, model_config.loaded(versions, kept))
    if kept or base.read(model_config.FILE) is not None:
        base.write(model_config.FILE, model_config.as_text(config).encode())
    return kept


def _named(labels: Mapping[str, int], version: int) -> str:
    names = sorted(name for name, labelled in labels.items() if labelled == version)
    return f", called {', '.join(names)}" if names else ""
