"""`unfreeze diff`: two steps of a training, an export and its source, two exports."""

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
    difference = diff(RUN / "model.ckpt-5500", RUN / "model.ckpt-8000")
    assert (difference.old.kind, difference.new.kind) == (
        "TensorFlow 1 checkpoint, step 5,500",
        "TensorFlow 1 checkpoint, step 8,000",
    )
    assert len(difference.moved) > 100
    assert (
        difference.reshaped,
        difference.only_old,
        difference.only_new,
        difference.signatures,
        difference.settings,
    ) == ({}, (), (), {}, {})
    assert not any("Momentum" in change.name or "global_step" in change.name for change in difference.moved)
    farthest = difference.moved[0]
    old, new = (
        tf.train.load_checkpoint(str(RUN / f"model.ckpt-{step}")).get_tensor(farthest.name) for step in (5500, 8000)
    )
    assert farthest.largest == pytest.approx(np.abs(new - old).max())
    assert farthest.relative == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-5)
    assert [move.relative for move in difference.moved] == sorted(
        (move.relative for move in difference.moved), reverse=True
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_export_has_the_weights_of_its_checkpoint(exported: Path, reverse: bool) -> None:
    models = (exported, RUN) if reverse else (RUN, exported)
    difference = diff(*models)
    assert difference.equal == 199  # with the moving averages that the config asks for, not the weights themselves
    assert (difference.moved, difference.reshaped, difference.only_old, difference.only_new) == ((), {}, (), ())
    assert list(difference.settings) == ["eval_config.use_moving_averages"]  # they are applied


def test_export_has_the_weights_of_its_frozen_graph(exported: Path) -> None:
    difference = diff(DIGITS / "frozen_inference_graph.pb", exported)
    assert difference.equal == 199
    assert (difference.moved, difference.only_old, difference.only_new) == ((), (), ())
    assert any(
        name.startswith("NonMaxSuppression") for name, (old, new) in difference.operations.items() if old and not new
    )


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
    difference = diff(exported, other / "saved_model")
    assert difference.equal == 199
    path = "model.ssd.post_processing.batch_non_max_suppression.max_total_detections"
    assert difference.settings[path] == ("100", "7")
    assert len(difference.settings) == 2
    assert difference.signatures["serving_default output detection_boxes"] == (
        "float32 [?, 100, 4]",
        "float32 [?, 7, 4]",
    )
    assert difference.signatures["float_image_tensor input inputs"] == ("float32 [?, ?, ?, 3]", None)
    text = str(difference)
    assert f"{path}: 100 -> 7" in text
    assert diff(exported, exported).same


def test_command(exported: Path) -> None:
    arguments = ["diff", str(RUN / "model.ckpt-5500"), str(exported)]
    result = CliRunner().invoke(cli.unfreeze, arguments)
    assert result.exit_code == 0
    assert "equal byte for byte, " in result.output
    assert "relative    largest  weight" in result.output
    result = CliRunner().invoke(cli.unfreeze, [*arguments, "--json", "--exit-code"], standalone_mode=False)
    assert json.loads(result.stdout)["weights"]["moved"]
    assert result.return_value == 1
    with pytest.raises(UnfreezeError, match="no such"):
        diff(RUN, "nowhere")
