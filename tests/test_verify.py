"""`unfreeze verify`: which folder is verified, what `against` can be, and an export against its checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from unfreeze import cli
from unfreeze.comparison import verify as comparison_verify
from unfreeze.comparison.verify import verify
from unfreeze.comparison.verify_checkpoint import (
    expected_weights,
    open_exported_step,
    require_record,
    used_moving_averages,
)
from unfreeze.errors import CheckpointError, ConfigError, SavedModelError
from unfreeze.export_record import ExportRecord, MovingAverages
from unfreeze.exporting.from_checkpoint import export_checkpoint
from unfreeze.verification import TensorDigest, tensor_digest

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
    """An export folder, made from step 7 of run/, where training went on to step 9."""
    digest = tensor_digest(WEIGHT)
    weight = {"variable": VARIABLE, "dtype": digest.dtype, "shape": list(digest.shape), "sha256": digest.sha256}
    (tmp_path / "export" / "saved_model").mkdir(parents=True)
    (tmp_path / "export" / "saved_model" / "saved_model.pb").write_bytes(b"")
    record = {"checkpoint": {"prefix": "run/model.ckpt-7", "step": 7}, "weights": {"conv/weights": weight}}
    (tmp_path / "export" / "export.json").write_text(json.dumps(record))
    write_checkpoint(tmp_path / "run" / "model.ckpt-7", **{"conv/weights": WEIGHT})
    write_checkpoint(tmp_path / "run" / "model.ckpt-9", **{"conv/weights": WEIGHT + 1})
    return tmp_path / "export"


def digests_in(path: Path, saved_model: Path) -> dict[str, TensorDigest]:
    record = require_record(saved_model)
    weights = expected_weights(open_exported_step(path, record), record)
    assert {key: weight.variable for key, weight in weights.items()} == {"conv/weights": VARIABLE}
    return {key: weight.digest() for key, weight in weights.items()}


def test_weights_of_the_checkpoint(export: Path, tmp_path: Path) -> None:
    same = {"conv/weights": tensor_digest(WEIGHT)}
    assert digests_in(tmp_path / "run" / "model.ckpt-7", export / "saved_model") == same
    assert digests_in(tmp_path / "run" / "model.ckpt-9", export / "saved_model") != same


def test_training_folder_means_the_exported_step(export: Path, tmp_path: Path) -> None:
    assert digests_in(tmp_path / "run", export / "saved_model") == {"conv/weights": tensor_digest(WEIGHT)}


def test_checkpoint_of_another_model_is_rejected(export: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other" / "model.ckpt-1", **{"dense/weights": WEIGHT})
    with pytest.raises(CheckpointError, match=r"lacks 1 of the 1 weights that were exported, such as conv/weights"):
        verify(export, against=other)


def test_checkpoint_needs_the_export_record(export: Path, tmp_path: Path) -> None:
    (export / "export.json").unlink()
    with pytest.raises(SavedModelError, match=r"has no export.json beside it"):
        verify(export, against=tmp_path / "run")


def test_checkpoint_needs_a_config(export: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run: no pipeline.config here or in the folder above"):
        verify(export, against=tmp_path / "run")


@pytest.mark.parametrize("label_map", ["mine.pbtxt", None])
def test_checkpoint_is_exported_again_with_a_label_map(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label_map: str | None
) -> None:
    (tmp_path / "run" / "pipeline.config").write_text("")
    exported_map = export / "saved_model" / "assets" / "labels.pbtxt"
    exported_map.parent.mkdir(exist_ok=True)
    exported_map.write_text("")
    calls: list[dict[str, Any]] = []

    def export_checkpoint(prefix: Path, **options: Any) -> Any:
        calls.append(options)
        raise ConfigError("enough")

    monkeypatch.setattr("unfreeze.exporting.from_checkpoint.export_checkpoint", export_checkpoint)
    with pytest.raises(ConfigError, match="enough"):
        verify(export, against=tmp_path / "run", label_map=label_map)
    assert calls[0]["label_map"] == (label_map or exported_map)


def test_graph_or_saved_model_is_the_reference(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, image = tmp_path / "frozen_inference_graph.pb", DIGITS / "scenes" / "scene_00.png"
    graph.touch()
    calls: list[tuple[Path, dict[str, Any]]] = []
    monkeypatch.setattr(
        comparison_verify, "verify_saved_model", lambda folder, **options: calls.append((folder, options))
    )
    verify(export)
    verify(export / "saved_model", against=graph)
    verify(export, against=export, images=[image])
    assert {folder for folder, _ in calls} == {export / "saved_model"}
    options = [options for _, options in calls]
    assert [call.get("against") for call in options] == [
        None,
        graph,
        export / "saved_model",
    ]
    assert not any("weights" in call for call in options)
    assert options[2]["images"] == [image]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of step 8000 with another score threshold than its config has."""
    folder = tmp_path_factory.mktemp("digits")
    override = "model { ssd { post_processing { batch_non_max_suppression { score_threshold: 0.3 } } } }"
    export_checkpoint(DIGITS / "run", output_directory=folder, config_override=override, verify=False)
    return folder


def test_export_equals_its_checkpoint(digits: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    scene = DIGITS / "scenes" / "scene_00.png"
    report = verify(digits, against=DIGITS / "run", images=[scene], report_path=page)
    assert (page.read_text().count("<h1>Verified</h1>"), page.read_text().count("<img ")) == (1, 2)
    assert report.passed, report.table()
    checks = {check.name: check for check in report.checks}
    assert (checks["weights"].status, checks["against"].status) == ("passed", "passed")
    assert checks["against"].detail.startswith(f"{DIGITS / 'run' / 'model.ckpt-8000'}: ")
    (sample,) = checks["against"].numbers["samples"].values()
    assert sample["matched"] == sample["detections"] > 5


def test_export_differs_from_another_step(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (DIGITS / "run").glob("model.ckpt-5500.*"):  # away from its pipeline.config: the export's is used
        shutil.copy(path, tmp_path)
    image = DIGITS / "scenes" / "scene_00.png"
    command = ["verify", str(digits), "--against", str(tmp_path / "model.ckpt-5500"), "--image", str(image), "--json"]
    assert cli.dispatch(command) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert {name for name, check in checks.items() if check["status"] == "failed"} == {"weights", "against"}
    assert "raw_detection_boxes: largest" in checks["against"]["detail"]


def test_moving_averages_are_used_again_as_in_the_export() -> None:
    assert used_moving_averages(ExportRecord(moving_averages=MovingAverages(3)))
    assert used_moving_averages(ExportRecord(moving_averages=MovingAverages(0, ["conv/weights"])))
    assert not used_moving_averages(ExportRecord(moving_averages=MovingAverages(0)))
    assert not used_moving_averages(ExportRecord())
