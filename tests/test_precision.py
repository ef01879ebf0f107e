"""Half precision and int8: options, the operations of the network, and how files are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unfreeze.callbacks import ignore
from unfreeze.errors import ImageError, MissingExtraError, UnsupportedError, VerificationError
from unfreeze.export_record import FormatRecord
from unfreeze.exporting import precision_checks
from unfreeze.exporting.precision_checks import PrecisionChecks
from unfreeze.exporting.precision_options import PrecisionOptions, precision_options
from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.network_operations import Operation, network_operations
from unfreeze.formats.precision import Precision
from unfreeze.runtimes.process import ProcessRun
from unfreeze.verification.detection_agreement import detection_agreement
from unfreeze.verification.model_file import FileRun, check_agreement
from unfreeze.verification.report import Status
from unfreeze.verification.sample_inputs import SampleInput

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
NOTHING: dict[str, Any] = {
    "formats": ["onnx"], "postprocessing": "full", "half": False, "int8": False, "int8_weights": False,
    "edgetpu": False, "calibration_images": None, "calibration_count": None, "annotations": None, "images": None,
    "max_map_loss": None,
}  # fmt: skip


def options(**changed: Any) -> PrecisionOptions:
    return precision_options(**{**NOTHING, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"half": True, "int8": True}, "--half and --int8 exclude each other"),
        ({"half": True, "formats": ["saved_model"]}, "--half is not supported with --format saved_model"),
        ({"int8": True, "formats": ["tflite", "frozen_graph"]}, "--int8 is not supported with --format frozen_graph"),
        ({"int8_weights": True}, r"--int8-weights is not supported with --format onnx \(formats .*: tflite\)"),
        ({"calibration_images": DIGITS / "scenes"}, "--calibration-images needs --int8"),
        ({"int8": True, "calibration_count": 5}, "--calibration-count needs --calibration-images"),
        (
            {"int8": True, "calibration_images": DIGITS / "scenes", "calibration_count": 0},
            "--calibration-count 0: must be 1 or more",
        ),
        ({"half": True, "max_map_loss": 0.01}, "--max-map-loss needs --annotations"),
        ({"half": True, "images": DIGITS}, "--images needs --annotations"),
        ({"annotations": "val.json", "formats": ["saved_model"]}, "run unfreeze evaluate on the export"),
        ({"annotations": "val.json", "postprocessing": "none"}, "there are no detections"),
        ({"edgetpu": True}, "--edgetpu needs --int8"),
        ({"edgetpu": True, "int8": True, "formats": ["tflite"]}, "--edgetpu is for --format tflite with"),
    ],
)
def test_options_that_do_not_go_together_are_rejected(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        options(**changed)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file or folder"), (b"", "is empty"), (b"\x89PNG\r\n", "is one image")],
)
def test_path_without_calibration_images_is_rejected(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "images"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=f"{message}.*Pass a folder of images or a TFRecord file"):
        options(int8=True, calibration_images=path)


def test_int8_for_openvino_without_nncf_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unfreeze.formats.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"--int8 --format openvino needs nncf; run pip install 'unfreeze\[int8\]'"
    ):
        options(int8=True, formats=["openvino"], calibration_images=DIGITS / "scenes")


def test_conversion_options_travel_as_text() -> None:
    sent = ConversionOptions(17, Precision.INT8, Path("/images, all"), integer_input=True)
    assert ConversionOptions.from_json(sent.to_json()) == sent
    assert ConversionOptions.from_json(ConversionOptions().to_json()) == ConversionOptions()


def network(*rows: tuple[str, str, str, bool]) -> set[str]:
    """Rows are a kind, the inputs and the output of an operation, which is its name, and whether it has weights."""
    operations = [Operation(out, kind, inputs.split(), [out], has_weights) for kind, inputs, out, has_weights in rows]
    return network_operations(
        operations, convolutions=["Conv"], products=["MatMul"], between=["Relu", "Add", "Reshape"]
    )


def test_network_is_from_the_first_weights_to_the_last() -> None:
    found = network(
        ("MatMul", "image resizing", "resized", True),
        ("Conv", "resized w1", "a", True),
        ("Relu", "a", "b", False),
        ("Conv", "b w2", "c", True),
        ("Add", "b c", "d", False),
        ("Reshape", "d", "e", False),
        ("MatMul", "e w3", "codes", True),
        ("Reshape", "codes", "rows", False),
        ("Add", "rows anchors", "boxes", False),
    )
    assert found == {"a", "b", "c", "d", "e", "codes"}


def test_what_lies_between_two_stages_is_not_the_network() -> None:
    found = network(
        ("Conv", "image w1", "features", True),
        ("Conv", "features w2", "codes", True),
        ("Exp", "codes", "sizes", False),
        ("Add", "sizes anchors", "proposals", False),
        ("Crop", "features proposals", "crops", False),
        ("Conv", "crops w3", "classes", True),
    )
    assert found == {"features", "codes", "classes"}


def detections(*rows: tuple[float, float, int]) -> dict[str, np.ndarray]:
    """Rows are the left edge of a box of 0.2 x 0.2, a score and a class."""
    boxes = np.array([[0.1, left, 0.3, left + 0.2] for left, _, _ in rows], np.float32)
    return {
        "detection_boxes": boxes.reshape(1, -1, 4),
        "detection_scores": np.array([[score for _, score, _ in rows]], np.float32),
        "detection_classes": np.array([[label for _, _, label in rows]], np.float32),
        "num_detections": np.array([len(rows)], np.float32),
    }


def test_agreement_counts_clear_detections_of_the_same_object() -> None:
    first = detections((0.1, 0.9, 1), (0.4, 0.8, 2), (0.7, 0.5, 3), (0.5, 0.1, 4))
    second = detections((0.12, 0.7, 1), (0.4, 0.8, 5), (0.7, 0.2, 3))
    agreement = detection_agreement([(first, second), (first, first)])
    assert (agreement.matched, agreement.detections, agreement.images) == (4, 6, 2)
    assert str(agreement).startswith("4 of 6 detections match on 2 images (same class, IoU at least 0.5")


def test_one_detection_matches_one_only() -> None:
    pair = detections((0.1, 0.9, 1), (0.12, 0.8, 1)), detections((0.1, 0.9, 1))
    assert detection_agreement([pair]).matched == 1


def test_agreement_of_raw_outputs_compares_rows_without_the_background() -> None:
    first = {
        "raw_detection_boxes": np.array([[[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5], [0, 0, 0.1, 0.1]]]),
        "raw_detection_scores": np.array([[[0.1, 0.9], [0.1, 0.8], [1.0, 0.0]]]),
    }
    second = {**first, "raw_detection_boxes": np.array([[[0, 0, 0.5, 0.5], [0.4, 0.4, 0.9, 0.9], [0, 0, 0.1, 0.1]]])}
    agreement = detection_agreement([(first, second)])
    assert (agreement.matched, agreement.detections) == (1, 2)


def file_run(sample: SampleInput, rows: dict[str, np.ndarray]) -> FileRun:
    both = {name: np.concatenate([value, value]) for name, value in rows.items()}
    return FileRun(Path("m"), "a runtime", [sample], None, ProcessRun((rows, rows, both), 0.0, (0.0, 0.0, 0.0)))


def test_verify_compares_a_file_of_lower_precision_by_its_clear_detections() -> None:
    sample = SampleInput("an image", np.zeros([2, 8, 8, 3], np.uint8))
    expected = file_run(sample, detections((0.1, 0.9, 1), (0.5, 0.6, 2)))
    near = file_run(sample, detections((0.11, 0.8, 1), (0.5, 0.5, 2), (0.8, 0.2, 3)))
    check = check_agreement(near, expected, "the export", "", 0.8)
    assert (check.status, check.numbers["matched"]) == (Status.PASSED, 4)
    far = check_agreement(file_run(sample, detections((0.1, 0.9, 2))), expected, "the export", "", 0.8)
    assert far.status is Status.FAILED
    assert "0 of 4 detections match on 2 images" in far.detail
    assert check_agreement(near, None, "", "no reference", 0.8).status is Status.SKIPPED
    assert check_agreement(near, file_run(sample, detections()), "", "", 0.8).status is Status.SKIPPED


class FixedModel:
    """A float model with the same detections for every image."""

    title, output_names, uses_gpu = "the float model", (), False

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return detections((0.1, 0.9, 1), (0.5, 0.6, 2))


@pytest.mark.parametrize("precision", [Precision.HALF, Precision.INT8, Precision.INT8_WEIGHTS])
def test_file_with_other_detections_than_the_float_model_is_rejected(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [detections((0.1, 0.8, 1), (0.5, 0.5, 2)), detections((0.1, 0.8, 1), (0.5, 0.2, 2))]
    checks = PrecisionChecks(PrecisionOptions(precision), None, ignore)
    image, record = np.zeros([8, 8, 3], np.uint8), FormatRecord("model.onnx")

    def verified(run: dict[str, np.ndarray]) -> FormatRecord:
        monkeypatch.setattr(precision_checks, "run_in_process", lambda path, batches: ProcessRun((run,), 0.0, (0.0,)))
        return checks.verified(record, Path("model.onnx"), FixedModel(), [image])

    good = verified(rows[0])
    assert (good.verified, good.agreement and good.agreement.share) == (True, 1.0)
    with pytest.raises(VerificationError, match=r"model.onnx differs too much from the float model: 1 of 2 detections"):
        verified(rows[1])


def test_file_without_detections_to_compare_is_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    class BlindModel(FixedModel):
        def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
            return detections()

    run = ProcessRun((detections(),), 0.0, (0.0,))
    monkeypatch.setattr(precision_checks, "run_in_process", lambda path, batches: run)
    checks = PrecisionChecks(PrecisionOptions(Precision.HALF), None, ignore)
    image = np.zeros([8, 8, 3], np.uint8)
    record = checks.verified(FormatRecord("model.onnx"), Path("model.onnx"), BlindModel(), [image])
    assert record.verified is None
    assert record.detail == "float16: it runs; the float model detects nothing on generated images to compare"


def test_float_model_is_not_built_without_annotations() -> None:
    def build() -> FixedModel:
        raise AssertionError

    record = FormatRecord("model.onnx")
    assert PrecisionChecks(PrecisionOptions(), None, ignore).measured(record, Path("model.onnx"), build) is record
