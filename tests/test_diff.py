"""`unfreeze diff`: two steps of a training, an export and what it was made from, two exports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from unfreeze import cli
from unfreeze.comparison.diff import diff
from unfreeze.errors import UnfreezeError
from unfreeze.exporting.export import export

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
RUN = DIGITS / "run"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diff") / "digits"
    return export(RUN, output_directory=folder, verify=False).folder


def test_two_steps_of_a_training() -> None:
    found = diff(RUN / "model.ckpt-5500", RUN / "model.ckpt-8000")
    assert (found.old.kind, found.new.kind) == (
        "TensorFlow 1 checkpoint, step 5,500",
        "TensorFlow 1 checkpoint, step 8,000",
    )
    assert len(found.moved) > 100
    assert (found.reshaped, found.only_old, found.only_new, found.signatures, found.settings) == ({}, (), (), {}, {})
    assert not any("Momentum" in move.name or "global_step" in move.name for move in found.moved)
    farthest = found.moved[0]
    old, new = (
        tf.train.load_checkpoint(str(RUN / f"model.ckpt-{step}")).get_tensor(farthest.name) for step in (5500, 8000)
    )
    assert farthest.largest == pytest.approx(np.abs(new - old).max())
    assert farthest.relative == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-5)
    assert [move.relative for move in found.moved] == sorted((move.relative for move in found.moved), reverse=True)


@pytest.mark.parametrize("reverse", [False, True])
def test_an_export_has_its_checkpoints_weights(exported: Path, reverse: bool) -> None:
    sides = (exported, RUN) if reverse else (RUN, exported)
    found = diff(*sides)
    assert found.equal == 199  # with the moving averages that the config asks for, not the weights themselves
    assert (found.moved, found.reshaped, found.only_old, found.only_new) == ((), {}, (), ())
    assert list(found.settings) == ["eval_config.use_moving_averages"]  # they are applied


def test_an_export_has_its_frozen_graphs_weights(exported: Path) -> None:
    found = diff(DIGITS / "frozen_inference_graph.pb", exported)
    assert found.equal == 199
    assert (found.moved, found.only_old, found.only_new) == ((), (), ())
    assert any(name.startswith("NonMaxSuppression") for name, (old, new) in found.operations.items() if old and not new)


def test_two_exports(exported: Path, tmp_path: Path) -> None:
    fewer = "batch_non_max_suppression { max_detections_per_class: 7 max_total_detections: 7 }"
    override = f"model {{ ssd {{ post_processing {{ {fewer} }} }} }}"
    other = export(
        RUN,
        output_directory=tmp_path / "other",
        input_types=["image_tensor", "tf_example"],
        config_override=override,
        verify=False,
    ).folder
    found = diff(exported, other / "saved_model")
    assert found.equal == 199
    path = "model.ssd.post_processing.batch_non_max_suppression.max_total_detections"
    assert found.settings[path] == ("100", "7")
    assert len(found.settings) == 2
    assert found.signatures["serving_default output detection_boxes"] == ("float32 [?, 100, 4]", "float32 [?, 7, 4]")
    assert found.signatures["float_image_tensor input inputs"] == ("float32 [?, ?, ?, 3]", None)
    told = str(found)
    assert f"{path}: 100 -> 7" in told
    assert diff(exported, exported).same


def test_on_the_command_line(exported: Path) -> None:
    arguments = ["diff", str(RUN / "model.ckpt-5500"), str(exported)]
    told = CliRunner().invoke(cli.unfreeze, arguments)
    assert told.exit_code == 0
    assert "equal byte for byte, " in told.output
    assert "relative    largest  of" in told.output
    found = CliRunner().invoke(cli.unfreeze, [*arguments, "--json", "--exit-code"], standalone_mode=False)
    assert json.loads(found.stdout)["weights"]["moved"]
    assert found.return_value == 1
    with pytest.raises(UnfreezeError, match="no such"):
        diff(RUN, "nowhere")
