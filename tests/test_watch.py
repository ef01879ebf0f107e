"""Tests `watch`: each complete checkpoint is published once, and one that fails does not stop the others."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from unfreeze import cli
from unfreeze.errors import CheckpointError, ConfigError, ImageError, SavedModelError, UnfreezeError
from unfreeze.evaluation.evaluate import Evaluation, Scores
from unfreeze.export_record import parse_record, read_record
from unfreeze.exporting import from_checkpoint as exporting
from unfreeze.publishing.rollback import rollback
from unfreeze.publishing.watch import watch

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


class Exports:
    """Replaces the export, which has its own tests: writes a SavedModel with a variable, and an export.json."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.broken: set[int] = set()

    def __call__(self, checkpoint: Path, *, output_directory: Path, **options: Any) -> Any:
        step = int(checkpoint.name.split("-")[1])
        self.steps.append(step)
        if step in self.broken:
            raise ConfigError("no such feature extractor")
        model = tf.Module()
        model.step = tf.Variable(float(step))
        call = tf.function(lambda x: {"y": x * model.step}, input_signature=[tf.TensorSpec([None], name="x")])
        tf.saved_model.save(model, str(output_directory / "saved_model"), signatures={"serving_default": call})
        record = {"checkpoint": {"prefix": str(checkpoint), "step": step}}
        (output_directory / "export.json").write_text(json.dumps(record))
        return exporting.Exported(output_directory, parse_record(json.dumps(record), ""), None)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> Exports:
    exports = Exports()
    monkeypatch.setattr(exporting, "export_checkpoint", exports)
    return exports


def write_checkpoint(folder: Path, step: int) -> Path:
    prefix = folder / f"model.ckpt-{step}"
    folder.mkdir(exist_ok=True)
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=["v"], shape_and_slices=[""], tensors=[tf.zeros([1000])])
    return prefix


def versions(base: Path) -> dict[str, int]:
    """Returns the step that each version was exported from."""
    folders = sorted(path for path in base.iterdir() if path.name.isdigit())
    return {path.name: json.loads((path / "export.json").read_text())["checkpoint"]["step"] for path in folders}


def test_each_step_is_published_once_after_restarts(exports: Exports, tmp_path: Path) -> None:
    run, base = tmp_path / "run", tmp_path / "base"
    write_checkpoint(run, 100)
    write_checkpoint(run, 200)
    assert [published.version for published in watch(run, base, once=True)] == [1, 2]
    assert watch(run, base, once=True) == []
    write_checkpoint(run, 300)
    assert [published.version for published in watch(run, base, once=True)] == [3]
    assert versions(base) == {"1": 100, "2": 200, "3": 300}
    rollback(base)
    assert watch(run, base, once=True) == []  # a step that was rolled back is not published again
    write_checkpoint(run, 400)
    watch(run, base, once=True, keep=2, labels=["newest"])
    assert versions(base) == {"4": 200, "5": 400}
    assert exports.steps == [100, 200, 300, 400]


def test_only_versions_that_are_kept_are_exported(exports: Exports, tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 10):
        write_checkpoint(tmp_path / "run", step)
    watch(tmp_path / "run", tmp_path / "base", once=True, keep=2)
    assert exports.steps == [4, 10]


def test_incomplete_checkpoint_is_published_when_it_is_complete(exports: Exports, tmp_path: Path) -> None:
    run, base = tmp_path / "run", tmp_path / "base"
    prefix = write_checkpoint(run, 100)
    data = run / f"{prefix.name}.data-00000-of-00001"
    complete = data.read_bytes()
    for partial in (complete[:100], None):
        data.write_bytes(partial) if partial is not None else data.unlink()
        messages: list[str] = []
        assert watch(run, base, once=True, on_progress=messages.append) == []
        assert "model.ckpt-100 is not complete yet" in messages[0]
    data.write_bytes(complete)
    index = prefix.with_name(prefix.name + ".index")
    complete_index = index.read_bytes()
    index.write_bytes(complete_index[:-10])
    assert watch(run, base, once=True) == []
    index.write_bytes(complete_index)
    assert len(watch(run, base, once=True)) == 1


def test_failed_checkpoint_is_reported_and_skipped(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, base = tmp_path / "run", tmp_path / "base"
    for step in (100, 200):
        write_checkpoint(run, step)
    exports.broken = {100, 300}
    failures: list[str] = []
    looks = 0

    def look_again(seconds: float) -> None:
        nonlocal looks
        looks += 1
        assert seconds == 7
        if looks == 1:
            write_checkpoint(run, 300)
        if looks == 3:
            exports.broken = set()
            for path in run.glob("model.ckpt-300.*"):  # changed files: it is tried again
                os.utime(path, (1, 1))
        if looks == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("unfreeze.publishing.watch.time", SimpleNamespace(sleep=look_again))
    with pytest.raises(KeyboardInterrupt):
        watch(run, base, interval_s=7, on_failure=lambda prefix, error: failures.append(f"{prefix.name}: {error}"))
    assert failures == [f"model.ckpt-{step}: no such feature extractor" for step in (100, 300)]
    assert versions(base) == {"1": 200, "2": 300}
    assert exports.steps == [100, 200, 300, 300]
    assert [path.name for path in base.iterdir() if path.name.startswith(".unfreeze-stage")] == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [("", "not JSON"), ("{", "not JSON"), ("[]", "not a record"), ('{"schema_version": 99}', "update unfreeze")],
)
def test_unreadable_record_of_a_version_is_reported(
    exports: Exports, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, problem: str
) -> None:
    run, base = tmp_path / "run", tmp_path / "base"
    write_checkpoint(run, 100)
    watch(run, base, once=True)
    record = base / "1" / "export.json"
    record.write_text(content)
    with pytest.raises(SystemExit) as ended:
        cli.main(["watch", str(run), str(base), "--once"])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {record}: ")
    assert problem in line
    assert exports.steps == [100]  # not exported and published again

    record.unlink()  # what the message advises
    watch(run, base, once=True)
    assert exports.steps == [100, 100]


def test_missing_training_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Expected the folder that training writes its checkpoints to"):
        watch(tmp_path / "absent", tmp_path / "base", once=True)


class Evaluations:
    """Replaces the evaluation: the mAP of each step, and the steps that were evaluated."""

    def __init__(self, mean_aps: dict[int, float]) -> None:
        self.mean_aps = mean_aps
        self.steps: list[int] = []

    def __call__(self, model: Path, annotations: str | Path, **options: Any) -> Evaluation:
        record = read_record(model)
        assert record is not None
        assert record.checkpoint is not None
        step = record.checkpoint.step
        assert step is not None
        self.steps.append(step)
        scores = (Scores(str(model), {"bbox": {"AP": self.mean_aps[step]}}),)
        return Evaluation(str(annotations), 3, 5, scores)


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Evaluations:
    evaluations = Evaluations({})
    monkeypatch.setattr("unfreeze.evaluation.evaluate.evaluate", evaluations)
    return evaluations


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "annotations.json"
    path.write_text("{}")
    return path


def test_only_checkpoints_with_the_least_map_are_published(
    exports: Exports, evaluations: Evaluations, annotations: Path, tmp_path: Path
) -> None:
    run, base = tmp_path / "run", tmp_path / "base"
    evaluations.mean_aps = {100: 0.3, 200: 0.6, 300: 0.5, 400: 0.1}
    for step in evaluations.mean_aps:
        write_checkpoint(run, step)
    decisions: list[str] = []

    def look(min_map: float) -> None:
        watch(
            run, base, once=True, keep=4, min_map=min_map, annotations=annotations,
            on_decision=lambda decision: decisions.append(str(decision)),
        )  # fmt: skip

    look(0.5)
    assert versions(base) == {"1": 200, "2": 300}
    assert decisions == [
        "step 100 is not published: mAP 0.3000 is below 0.5 (--min-map)",
        "step 200: mAP 0.6000, at least 0.5 (--min-map)",
        "step 300: mAP 0.5000, at least 0.5 (--min-map)",
        "step 400 is not published: mAP 0.1000 is below 0.5 (--min-map)",
    ]
    look(0.5)  # after a restart, the state file has the mAP of step 400
    assert exports.steps == [100, 200, 300, 400]
    look(0.1)
    assert versions(base) == {"1": 200, "2": 300, "3": 400}


def test_only_the_best_checkpoints_so_far_are_published(
    exports: Exports, evaluations: Evaluations, annotations: Path, tmp_path: Path
) -> None:
    run, base = tmp_path / "run", tmp_path / "base"
    evaluations.mean_aps = {100: 0.4, 200: 0.7, 300: 0.6, 400: 0.7, 500: 0.5}
    decisions: list[str] = []
    for step in (100, 200, 300, 400):
        write_checkpoint(run, step)
        watch(  # each time as after a restart
            run, base, once=True, keep=1, keep_best=True, annotations=annotations,
            on_decision=lambda decision: decisions.append(str(decision)),
        )  # fmt: skip
    assert versions(base) == {"3": 400}
    assert decisions == [
        "step 100: mAP 0.4000, the first one that is evaluated (--keep-best)",
        "step 200: mAP 0.7000, at least 0.4000 of step 100, the best so far (--keep-best)",
        "step 300 is not published: mAP 0.6000 is below 0.7000 of step 200, the best so far (--keep-best)",
        "step 400: mAP 0.7000, at least 0.7000 of step 200, the best so far (--keep-best)",
    ]
    annotations.write_text("other annotations: an mAP on them cannot be compared")
    write_checkpoint(run, 500)
    watch(run, base, once=True, keep_best=True, annotations=annotations)
    assert versions(base) == {"3": 400, "4": 500}


def test_decisions_are_printed(
    exports: Exports, evaluations: Evaluations, annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluations.mean_aps = {100: 0.25}
    write_checkpoint(tmp_path / "run", 100)
    arguments = ["watch", str(tmp_path / "run"), str(tmp_path / "base"), "--once", "--annotations", str(annotations)]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--min-map", "0.5"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "step 100 is not published: mAP 0.2500 is below 0.5 (--min-map)\n"
    assert versions(tmp_path / "base") == {}


def test_annotations_that_cannot_be_used_stop_the_watch(
    exports: Exports, evaluations: Evaluations, annotations: Path, tmp_path: Path
) -> None:
    evaluations.mean_aps = {100: float("nan")}
    write_checkpoint(tmp_path / "run", 100)
    with pytest.raises(ImageError, match="mAP is not defined, since no image has an object"):
        watch(tmp_path / "run", tmp_path / "base", min_map=0.5, annotations=annotations)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_map": 0.5}, ConfigError, "--min-map: needs --annotations"),
        ({"keep_best": True}, ConfigError, "--keep-best: needs --annotations"),
        ({"annotations": "a.json"}, ConfigError, r"--annotations a\.json: has no effect without --min-map or"),
        ({"images": "folder"}, ConfigError, "--images folder: has no effect without"),
        ({"min_map": 50, "annotations": "a"}, ConfigError, "--min-map 50: must be between 0 and 1"),
        ({"min_map": 0.5, "annotations": "no/such*.record"}, ImageError, r"no/such\*\.record: does not exist"),
    ],
)
def test_options_that_do_not_fit_together(
    tmp_path: Path, options: dict[str, Any], error: type[UnfreezeError], message: str
) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(error, match=message):
        watch(tmp_path / "run", tmp_path / "base", once=True, **options)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 9}', '{"schema_version": 1, "checkpoints": [{}]}'])
def test_unreadable_state_file_is_reported(annotations: Path, tmp_path: Path, content: str) -> None:
    run, base = tmp_path / "run", tmp_path / "base"
    run.mkdir()
    base.mkdir()
    (base / "watch.json").write_text(content)
    with pytest.raises(SavedModelError, match=r"watch\.json: is not a state file of unfreeze watch"):
        watch(run, base, once=True, keep_best=True, annotations=annotations)


@pytest.mark.slow
def test_real_checkpoint_is_published_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, base = tmp_path / "run", tmp_path / "base"
    run.mkdir()
    for path in (DIGITS / "pipeline.config", *(DIGITS / "run").glob("*8000*")):
        shutil.copy(path, run)
    (run / "model.ckpt-9000.index").write_bytes(b"incomplete")
    annotations = DIGITS / "scenes" / "annotations.json"
    arguments = ["watch", str(run), str(base), "--once", "--label", "stable", "--for", "kserve", "--min-map", "0.4"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--annotations", str(annotations)])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert "step 8000: published version 1" in output
    [mean_ap] = re.findall(r"step 8000: mAP (\S+), at least 0\.4 \(--min-map\)", output)
    assert float(mean_ap) >= 0.4
    [checkpoint] = json.loads((base / "watch.json").read_text())["checkpoints"]
    assert (checkpoint["step"], checkpoint["published"]) == (8000, True)
    assert f"{checkpoint['mean_ap']:.4f}" == mean_ap
    assert json.loads((base / "1" / "export.json").read_text())["verified"] is True
    assert (base / "1" / "assets.extra" / "tf_serving_warmup_requests").is_file()
