"""Decides by COCO's mAP whether a new checkpoint is published, and remembers the decisions in the model base path."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from unfreeze.callbacks import OnMessage
from unfreeze.errors import ConfigError, ImageError, SavedModelError
from unfreeze.publishing.base_paths import BasePath
from unfreeze.publishing.file_stamps import FileStamps, checkpoint_stamps, file_stamps

STATE = "watch.json"  # beside the versions; not a number, so no server takes it for a version
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """A checkpoint that was evaluated, its mAP, and whether it was published.

    `annotations` identifies the annotations: the SHA-256 of the stamps of their files.
    """

    prefix: str
    step: int
    mean_ap: float
    published: bool
    files: FileStamps
    annotations: str


@dataclass(frozen=True)
class Decision:
    """Whether a checkpoint is published, its mAP, and why."""

    step: int
    mean_ap: float
    publish: bool
    reason: str

    def __str__(self) -> str:
        if self.publish:
            return f"step {self.step}: mAP {self.mean_ap:.4f}, {self.reason}"
        return f"step {self.step} is not published: mAP {self.mean_ap:.4f} is {self.reason}"


class MapGate:
    """The thresholds of `watch`, the annotations to evaluate on, and the checkpoints that were evaluated."""

    def __init__(
        self, base: BasePath, annotations: str | Path, images: str | Path | None, min_map: float | None, keep_best: bool
    ) -> None:
        self.base = base
        self.annotations = annotations
        self.images = images
        self.min_map = min_map
        self.keep_best = keep_best
        _read_state(base)  # fails early

    def decide(self, saved_model: Path, step: int, on_progress: OnMessage) -> Decision:
        """Returns whether an exported checkpoint is to be published.

        Raises: ImageError, MissingExtraError: the annotations or an image cannot be read, or pycocotools is not
            installed. SavedModelError: the model cannot be evaluated.
        """
        from unfreeze.evaluation.evaluate import evaluate  # imports TensorFlow, which takes seconds

        evaluation = evaluate(
            saved_model, self.annotations, images=self.images, metrics="coco", on_progress=on_progress
        )
        if evaluation.skipped:  # the mAP of fewer images cannot be compared
            raise ImageError(f"{self.annotations}: {next(evaluation.warnings())}. Add or replace the images.")
        mean_ap = evaluation.scores[0].mean_average_precision
        if not mean_ap >= 0:  # NaN
            raise ImageError(
                f"{self.annotations}: mAP is not defined, since no image has an object. Pass annotations with objects."
            )
        return self._decision(step, mean_ap, _best(self._comparable()))

    def record(self, prefix: Path, decision: Decision) -> None:
        """Adds a checkpoint and its mAP to the state file, after it was published or not."""
        checkpoint = EvaluatedCheckpoint(
            prefix=str(prefix.absolute()),
            step=decision.step,
            mean_ap=decision.mean_ap,
            published=decision.publish,
            files=checkpoint_stamps(prefix),
            annotations=self._annotations_digest(),
        )
        with self.base.locked():
            others = [other for other in _read_state(self.base) if other.prefix != checkpoint.prefix]
            _write_state(self.base, [*others, checkpoint])

    def rejected_steps(self, folder: Path) -> Iterator[int]:
        """Yields the steps of the checkpoints in a training folder whose mAP is known to be too low."""
        checkpoints = self._comparable()
        best = _best(checkpoints)
        for checkpoint in checkpoints:
            prefix = Path(checkpoint.prefix)
            if checkpoint.published or prefix.parent != folder.absolute():
                continue
            is_unchanged = checkpoint_stamps(prefix) in (checkpoint.files, ())  # no files: the training deleted it
            if is_unchanged and not self._decision(checkpoint.step, checkpoint.mean_ap, best).publish:
                yield checkpoint.step

    def _decision(self, step: int, mean_ap: float, best: EvaluatedCheckpoint | None) -> Decision:
        reasons = []
        if self.min_map is not None:
            if mean_ap < self.min_map:
                return Decision(step, mean_ap, False, f"below {self.min_map:g} (--min-map)")
            reasons.append(f"at least {self.min_map:g} (--min-map)")
        if self.keep_best:
            if best is not None and mean_ap < best.mean_ap:
                return Decision(
                    step, mean_ap, False, f"below {best.mean_ap:.4f} of step {best.step}, the best so far (--keep-best)"
                )
            reasons.append(
                "the first one that is evaluated (--keep-best)"
                if best is None
                else f"at least {best.mean_ap:.4f} of step {best.step}, the best so far (--keep-best)"
            )
        return Decision(step, mean_ap, True, ", ".join(reasons))

    def _comparable(self) -> list[EvaluatedCheckpoint]:
        """Returns the checkpoints that were evaluated on these annotations."""
        digest = self._annotations_digest()
        return [checkpoint for checkpoint in _read_state(self.base) if checkpoint.annotations == digest]

    def _annotations_digest(self) -> str:
        return hashlib.sha256(json.dumps(file_stamps(_matching_files(self.annotations))).encode()).hexdigest()


def _best(checkpoints: list[EvaluatedCheckpoint]) -> EvaluatedCheckpoint | None:
    """Returns the published checkpoint with the highest mAP; None if none was published."""
    published = [checkpoint for checkpoint in checkpoints if checkpoint.published]
    return max(published, key=lambda checkpoint: checkpoint.mean_ap, default=None)


def open_gate(
    base: BasePath,
    *,
    min_map: float | None,
    keep_best: bool,
    annotations: str | Path | None,
    images: str | Path | None,
) -> MapGate | None:
    """Returns the gate that the options of `watch` describe; None if every checkpoint is published.

    Raises:
        ConfigError: the options do not fit together. ImageError: there are no such annotations.
        SavedModelError: the state file cannot be read.
    """
    if min_map is None and not keep_best:
        for option, value in (("--annotations", annotations), ("--images", images)):
            if value is not None:
                raise ConfigError(f"{option} {value}: has no effect without --min-map or --keep-best. Add one of them.")
        return None
    if min_map is not None and not 0 <= min_map <= 1:
        raise ConfigError(f"--min-map {min_map:g}: must be between 0 and 1")
    if annotations is None:
        option = "--keep-best" if min_map is None else "--min-map"
        raise ConfigError(f"{option}: needs --annotations, as unfreeze evaluate takes them, such as COCO's JSON.")
    if not _matching_files(annotations):
        raise ImageError(
            f"{annotations}: does not exist. Pass annotations as unfreeze evaluate takes them, such as COCO's JSON."
        )
    return MapGate(base, annotations, images, min_map, keep_best)


def _matching_files(annotations: str | Path) -> list[Path]:
    """Returns the file at a path, the files in a folder, or those that a pattern matches."""
    path = Path(annotations)
    if path.is_dir():
        return [file for file in path.rglob("*") if file.is_file()]
    return [path] if path.is_file() else [Path(name) for name in glob.glob(str(annotations))]


def _read_state(base: BasePath) -> list[EvaluatedCheckpoint]:
    """Returns the checkpoints in the state file; none if there is no such file.

    Raises: SavedModelError if it cannot be read.
    """
    text = base.read(STATE)
    if text is None:
        return []
    try:
        content = json.loads(text)
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {content['schema_version']}, expected {SCHEMA_VERSION}")
        return [
            EvaluatedCheckpoint(
                prefix=str(row["prefix"]),
                step=int(row["step"]),
                mean_ap=float(row["mean_ap"]),
                published=bool(row["published"]),
                files=_to_stamps(row["files"]),
                annotations=str(row["annotations"]),
            )
            for row in content["checkpoints"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise SavedModelError(
            f"{base}/{STATE}: is not a state file of unfreeze watch ({error}). Remove it to evaluate checkpoints again."
        ) from None


def _to_stamps(rows: list[list[object]]) -> FileStamps:
    return tuple((str(name), int(str(size)), int(str(time))) for name, size, time in rows)


def _write_state(base: BasePath, checkpoints: list[EvaluatedCheckpoint]) -> None:
    content = {"schema_version": SCHEMA_VERSION, "checkpoints": [asdict(checkpoint) for checkpoint in checkpoints]}
    base.write(STATE, (json.dumps(content, indent=1) + "\n").encode())
