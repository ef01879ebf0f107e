"""`verify` of what exists already: which folder is meant, what `against` is, and an export against its checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from unfreeze import cli, verification
from unfreeze.comparison import verify as verb
from unfreeze.errors import CheckpointError, ConfigError, SavedModelError
from unfreeze.export_record import ExportRecord, MovingAverages
from unfreeze.exporting import from_checkpoint as export_verb

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
VARIABLE = "kernel/.ATTRIBUTES/VARIABLE_VALUE"
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def write_checkpoint(prefix: Path, **tensors: np.ndarray) -> Path:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    names, values = list(tensors), [tf.constant(value) for value in tensors.values()]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
    return prefix


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export's folder, made from step 7 of run/, where training went on to step 9."""
    stored = verification.tensor_digest(WEIGHT)
    weight = {"variable": VARIABLE, "dtype": stored.dtype, "shape": list(stored.shape), "sha256": stored.sha256}
    (tmp_path / "export" / "saved_model").mkdir(parents=True)
    (tmp_path / "export" / "saved_model" / "saved_model.pb").write_bytes(b"")
    record = {"checkpoint": {"prefix": "run/model.ckpt-7", "step": 7}, "weights": {"conv/weights": weight}}
    (tmp_path / "export" / "export.json").write_text(json.dumps(record))
    write_checkpoint(tmp_path / "run" / "model.ckpt-7", **{"conv/weights": WEIGHT})
    write_checkpoint(tmp_path / "run" / "model.ckpt-9", **{"conv/weights": WEIGHT + 1})
    return tmp_path / "export"


def stored_in(path: Path, saved_model: Path) -> dict[str, verification.TensorDigest]:
    record = verb.recorded(saved_model)
    weights = verb.weights_of(verb.exported_checkpoint(path, record), record)
    assert {key: weight.variable for key, weight in weights.items()} == {"conv/weights": VARIABLE}
    return {key: weight.digest() for key, weight in weights.items()}


def test_the_checkpoints_weights(export: Path, tmp_path: Path) -> None:
    same = {"conv/weights": verification.tensor_digest(WEIGHT)}
    assert stored_in(tmp_path / "run" / "model.ckpt-7", export / "saved_model") == same
    assert stored_in(tmp_path / "run" / "model.ckpt-9", export / "saved_model") != same


def test_of_a_folder_the_step_that_was_exported(export: Path, tmp_path: Path) -> None:
    assert stored_in(tmp_path / "run", export / "saved_model") == {"conv/weights": verification.tensor_digest(WEIGHT)}


def test_another_models_checkpoint(export: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other" / "model.ckpt-1", **{"dense/weights": WEIGHT})
    with pytest.raises(CheckpointError, match=r"lacks 1 of the 1 weights that were exported, such as conv/weights"):
        verb.verify(export, against=other)


def test_a_checkpoint_without_the_exports_record(export: Path, tmp_path: Path) -> None:
    (export / "export.json").unlink()
    with pytest.raises(SavedModelError, match=r"has no export.json beside it"):
        verb.verify(export, against=tmp_path / "run")


def test_a_checkpoint_without_a_config_anywhere(export: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run: no pipeline.config here or in the folder above"):
        verb.verify(export, against=tmp_path / "run")


@pytest.mark.parametrize("given", ["mine.pbtxt", None])
def test_a_checkpoint_is_exported_again_with_a_label_map(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    (tmp_path / "run" / "pipeline.config").write_text("")
    carried = export / "saved_model" / "assets" / "labels.pbtxt"
    carried.parent.mkdir(exist_ok=True)
    carried.write_text("")
    asked: list[dict[str, Any]] = []

    def exporting(prefix: Path, **options: Any) -> Any:
        asked.append(options)
        raise ConfigError("enough")

    monkeypatch.setattr("unfreeze.exporting.from_checkpoint.export_checkpoint", exporting)
    with pytest.raises(ConfigError, match="enough"):
        verb.verify(export, against=tmp_path / "run", label_map=given)
    assert asked[0]["label_map"] == (given or carried)


def test_what_against_is_goes_where_it_belongs(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, dict[str, Any]]] = []
    monkeypatch.setattr(verification, "verify_saved_model", lambda folder, **options: asked.append((folder, options)))
    verb.verify(export)
    verb.verify(export / "saved_model", against=tmp_path / "frozen_inference_graph.pb")
    verb.verify(export, against=export, images=["a.png"])
    assert {folder for folder, _ in asked} == {export / "saved_model"}
    options = [options for _, options in asked]
    assert [each.get("against") for each in options] == [
        None,
        tmp_path / "frozen_inference_graph.pb",
        export / "saved_model",
    ]
    assert not any("weights" in each for each in options)
    assert options[2]["images"] == ["a.png"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of step 8000 with another score threshold than its config has."""
    folder = tmp_path_factory.mktemp("digits")
    override = "model { ssd { post_processing { batch_non_max_suppression { score_threshold: 0.3 } } } }"
    export_verb.export_checkpoint(DIGITS / "run", output_directory=folder, config_override=override, verify=False)
    return folder


def test_answers_as_the_checkpoint_exported_again(digits: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    scene = DIGITS / "scenes" / "scene_00.png"
    report = verb.verify(digits, against=DIGITS / "run", images=[scene], report_path=page)
    assert (page.read_text().count("<h1>Verified</h1>"), page.read_text().count("<img ")) == (1, 2)
    assert report.passed, report.table()
    checks = {check.name: check for check in report.checks}
    assert (checks["weights"].status, checks["against"].status) == ("passed", "passed")
    assert checks["against"].detail.startswith(f"{DIGITS / 'run' / 'model.ckpt-8000'}: ")
    (case,) = checks["against"].numbers["samples"].values()
    assert case["matched"] == case["detections"] > 5


def test_does_not_answer_as_another_step(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (DIGITS / "run").glob("model.ckpt-5500.*"):  # away from its pipeline.config: the export's is taken
        shutil.copy(path, tmp_path)
    image = DIGITS / "scenes" / "scene_00.png"
    command = ["verify", str(digits), "--against", str(tmp_path / "model.ckpt-5500"), "--image", str(image), "--json"]
    assert cli.dispatch(command) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert {name for name, check in checks.items() if check["status"] == "failed"} == {"weights", "against"}
    assert "raw_detection_boxes: largest" in checks["against"]["detail"]


def test_moving_averages_are_taken_again_as_they_were() -> None:
    assert verb.averaged(ExportRecord(moving_averages=MovingAverages(3)))
    assert verb.averaged(ExportRecord(moving_averages=MovingAverages(0, ("conv/weights",))))
    assert not verb.averaged(ExportRecord(moving_averages=MovingAverages()))
