"""export.json: what is written is read back, records of earlier versions are read, and a newer schema is an error."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unfreeze.errors import SavedModelError
from unfreeze.export_record import (
    SCHEMA_VERSION,
    CheckpointSource,
    CheckRecord,
    ConfigSource,
    ExportRecord,
    FileDigest,
    GraphConstant,
    GraphSource,
    MovingAverages,
    SlimmingRecord,
    WeightRecord,
    file_digest,
    parse_record,
    read_record,
    write_record,
)

RECORDS = Path(__file__).parent / "records"  # export.json as unfreeze 0.2.0 wrote it; of each list the first few

RECORD = ExportRecord(
    unfreeze="1.2.3",
    tensorflow="2.21.0",
    exported_at="2026-01-02T03:04:05+00:00",
    input_type="image_tensor",
    input_types=("image_tensor", "tf_example"),
    graph=GraphSource(
        "graph.pb", 7, "ab", 24, {"inputs": "image_tensor:0"}, {"detection_boxes": "boxes:0"},
        (GraphConstant("conv/weights", "", (3, 3), "float32", "filter of Conv2D conv", "conv/weights"),),
        (GraphConstant("axis", "body", (), "int32", "int32: an axis"),), True,
    ),
    checkpoint=CheckpointSource("run/model.ckpt-8000", 8000, "tf1", {"model.ckpt-8000.index": FileDigest(5, "cd")}),
    moving_averages=MovingAverages(2, ("conv/biases",)),
    pipeline_config=ConfigSource("pipeline.config", "ef"),
    model="ssd",
    feature_extractor="ssd_mobilenet_v1",
    num_classes=10,
    unused=("global_step",),
    binding="constants",
    suppression="kernel",
    input_shape=(1, None, None, 3),
    config_override="model { }",
    slimming=SlimmingRecord(("detection_masks",), 0.5, 3),
    side_inputs={"context_features": ("float32", (1, None, 2057))},
    verified=True,
    checks=(CheckRecord("files", "passed", "complete", {"files": 4}),),
    weights={"conv/weights": WeightRecord("conv/weights", "float32", (3, 3), "01")},
    files={"saved_model.pb": FileDigest(9, "23")},
)  # fmt: skip


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD
    assert read_record(tmp_path / "saved_model") == RECORD
    assert json.loads((tmp_path / "export.json").read_text())["schema_version"] == SCHEMA_VERSION


def test_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None


def test_fields_that_an_export_does_not_have_are_not_written() -> None:
    assert set(ExportRecord().to_dict()) == {"schema_version", "input_types", "verified", "checks", "weights", "files"}


def test_the_record_of_a_checkpoint_by_version_0_2_is_read() -> None:
    record = parse_record((RECORDS / "checkpoint_0.2.0.json").read_bytes(), "export.json")
    assert record.checkpoint is not None
    assert (record.checkpoint.step, record.checkpoint.format) == (8000, "tf1")
    assert record.checkpoint.files["model.ckpt-8000.index"].size_bytes > 0
    assert (record.model, record.num_classes, record.binding) == ("ssd", 10, "variables")
    assert record.input_types[0] == record.input_type == "image_tensor"
    assert (record.input_shape, record.side_inputs, record.slimming) == (None, None, SlimmingRecord())
    assert record.moving_averages == MovingAverages(129)
    assert record.verified
    assert {check.status for check in record.checks} == {"passed", "skipped"}
    assert all(weight.dtype == "float32" for weight in record.weights.values())
    assert record.files["saved_model.pb"].size_bytes > 0


def test_the_record_of_a_frozen_graph_by_version_0_2_is_read() -> None:
    record = parse_record((RECORDS / "frozen_graph_0.2.0.json").read_bytes(), "export.json")
    assert record.graph is not None
    assert record.graph.inputs == {"inputs": "image_tensor:0"}
    assert record.graph.variables[0].name
    assert record.graph.constants[0].reason
    assert (record.checkpoint, record.binding, record.graph.mixes_batch) == (None, None, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON: "),
        ("[]", r"not a record of an export \(found a JSON list\)"),
        ({"checkpoint": 3}, r"checkpoint is number \(expected an object\)"),
        ({"checkpoint": {"step": 3}}, "checkpoint has no prefix"),
        ({"checkpoint": {"prefix": "a", "step": "3"}}, r"checkpoint.step is string \(expected an integer\)"),
        ({"weights": {"a": {"variable": "a"}}}, "weights.a has no dtype, shape, sha256"),
        ({"verified": 1}, r"verified is number \(expected true or false\)"),
        ({"input_types": "image_tensor"}, r"input_types is string \(expected a list\)"),
        ({"side_inputs": {"a": ["float32"]}}, r"side_inputs.a is list \(expected a list of 2\)"),
    ],
)
def test_a_file_that_is_not_a_record_is_reported(content: Any, message: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(SavedModelError, match=rf"^out/export\.json: .*{message}.*; export the model again, or remove"):
        parse_record(text, "out/export.json")


def test_a_newer_schema_is_an_error_that_says_what_to_do() -> None:
    text = json.dumps(RECORD.to_dict() | {"schema_version": SCHEMA_VERSION + 1})
    with pytest.raises(SavedModelError, match=r"written by a newer unfreeze \(schema_version 2; .*; update unfreeze"):
        parse_record(text, "export.json")


def test_unknown_keys_of_the_same_schema_are_ignored() -> None:
    assert parse_record(json.dumps(RECORD.to_dict() | {"note": "later"}), "export.json") == RECORD


def test_has_constant_weights() -> None:
    assert RECORD.has_constant_weights
    assert not replace(RECORD, binding=None).has_constant_weights


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "file") == FileDigest(3, sha256)
