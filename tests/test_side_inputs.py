"""Side inputs of a Context R-CNN: the flags, what the model accepts, and an export with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tensorflow as tf

from unfreeze.detectors import Detector
from unfreeze.errors import ConfigError, UnfreezeError
from unfreeze.exporting.export import export
from unfreeze.exporting.side_inputs import SideInput, parse_side_inputs, with_side_inputs

NAMES = "context_features,valid_context_size"
CONTEXT = {
    "context_features": tf.TensorSpec([None, None, 20], name="context_features"),
    "valid_context_size": tf.TensorSpec([None], tf.int32, name="valid_context_size"),
}


def side_inputs_of(
    features: tuple[int | None, ...] = (1, 12, 20), size: tuple[int | None, ...] = (1,)
) -> dict[str, SideInput]:
    return {"context_features": SideInput("float32", features), "valid_context_size": SideInput("int32", size)}


def shaped(
    side_inputs: Mapping[str, SideInput] | None,
    expected: Mapping[str, tf.TensorSpec] = CONTEXT,
    input_shape: tuple[int | None, ...] | None = None,
) -> dict[str, list[int | None]]:
    nothing = Detector(tf.identity, tf.identity, tf.identity, (None, None, 3), "inputs", expected)
    made = with_side_inputs(nothing, side_inputs, input_shape).side_inputs
    return {name: spec.shape.as_list() for name, spec in made.items()}


def test_flags_of_the_object_detection_api() -> None:
    assert parse_side_inputs("1,12,20/1", NAMES, "float,int") == side_inputs_of()
    assert parse_side_inputs("-1,-1,20/-1", NAMES, "float,int") == side_inputs_of((None, None, 20), (None,))


@pytest.mark.parametrize(
    ("shapes", "names", "types", "message"),
    [
        (None, NAMES, "float,int", "needs --side-input-shapes"),
        ("1,12,20/1", "", "float,int", "needs --side-input-names"),
        ("1,12,20/1", NAMES, None, "needs --side-input-types"),
        ("1,12,20", NAMES, "float,int", "1 shapes .* 2 names .* 2 types"),
        ("1,12,20/1", NAMES, "float,string", "'string' is not one of float, int"),
        ("1,12,x/1", NAMES, "float,int", "'1,12,x' is not a list of sizes"),
        ("1,0,20/1", NAMES, "float,int", "'1,0,20' is not a list of sizes"),
    ],
)
def test_wrong_flags_are_reported(shapes: str | None, names: str, types: str | None, message: str) -> None:
    with pytest.raises(UnfreezeError, match=message):
        parse_side_inputs(shapes, names, types)


def test_an_open_size_is_that_of_the_model() -> None:
    assert shaped(side_inputs_of((2, None, None), (None,))) == {
        "context_features": [2, None, 20],
        "valid_context_size": [None],
    }
    assert shaped(None) == {"context_features": [None, None, 20], "valid_context_size": [None]}
    assert shaped(None, {}, (1, 100, 100, 3)) == {}


@pytest.mark.parametrize(
    ("side_inputs", "expected", "input_shape", "message"),
    [
        (side_inputs_of(), {}, None, "this model takes no side inputs"),
        ({"x": SideInput("float32", (1,))}, CONTEXT, None, "takes the side inputs context_features and valid_context"),
        ({**side_inputs_of(), "valid_context_size": SideInput("float32", (1,))}, CONTEXT, None, "has to be int32"),
        (side_inputs_of((1, 12, 2057)), CONTEXT, None, "context_features is 1,12,2057; this model takes -1,-1,20"),
        (side_inputs_of((12, 20)), CONTEXT, None, "context_features is 12,20"),
        (side_inputs_of((1, 12, 20), (2,)), CONTEXT, None, "different numbers of images: 1, 2"),
        (side_inputs_of(), CONTEXT, (4, None, None, 3), "different numbers of images: 1, 4"),
    ],
)
def test_side_inputs_that_do_not_fit_are_reported(
    side_inputs: dict[str, SideInput],
    expected: dict[str, tf.TensorSpec],
    input_shape: tuple[int | None, ...] | None,
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        shaped(side_inputs, expected, input_shape)


@pytest.mark.slow
def test_every_signature_of_an_export_takes_side_inputs(tmp_path: Path) -> None:
    golden = reference.golden("v_context_rcnn_resnet50")
    reference.write_checkpoint(golden, tmp_path / "run")
    exported = export(tmp_path / "run", output_directory=tmp_path / "out", side_inputs=side_inputs_of((1, None, 20)))
    assert exported.record.verified
    model = tf.saved_model.load(str(exported.saved_model))
    taken = {name: set(signature.structured_input_signature[1]) for name, signature in model.signatures.items()}
    assert list(taken.values()) == [{"inputs", *CONTEXT}] * 5
    assert model.signatures["tf_example"].structured_input_signature[1]["inputs"].shape == [1]
    image = tf.constant(reference.image(*reference.IMAGES["a"])[np.newaxis])
    side = [tf.constant(reference.side_input(*like)) for like in golden.side_inputs.values()]
    recorded = golden.recorded_outputs()["a/detection_scores"]
    by_name = model.signatures["serving_default"](inputs=image, **dict(zip(CONTEXT, side, strict=True)))
    np.testing.assert_allclose(by_name["detection_scores"], recorded, atol=1e-4)
    np.testing.assert_allclose(model(image, *side)["detection_scores"], recorded, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side_input_names": "context_features"}, "--side-input-types need --use-side-inputs"),
        ({"use_side_inputs": True}, "--use-side-inputs needs --side-input-shapes"),
        (
            {
                "use_side_inputs": True,
                "side_inputs": {"a": SideInput("float32", (1,))},
                "side_input_shapes": "1",
                "side_input_names": "a",
                "side_input_types": "float",
            },
            "two forms of the same option",
        ),
    ],
)
def test_export_checks_the_side_input_options_before_it_reads_anything(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnfreezeError, match=message):
        export("no/such/run", **options)
