"""Tests the size of responses, and what in them servers and clients reject."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unfreeze.targets.serving_responses import (
    ResponseBytes,
    batch_findings,
    expected_bytes,
    response_bytes,
    size_findings,
)


def outputs_of(images: int, anchors: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "detection_boxes": random.random((images, 100, 4), np.float32),
        "num_detections": np.full([images], 100, np.float32),
        "raw_detection_scores": random.random((images, anchors, 91), np.float32),
    }


def test_sizes_as_json_and_proto() -> None:
    outputs = outputs_of(1, 1917)
    rows = {name: array[0].tolist() for name, array in outputs.items()}
    nine_digits = json.dumps(json.loads(json.dumps(rows), parse_float=lambda text: float(f"{float(text):.9g}")))
    size = response_bytes(outputs)
    assert size.json == pytest.approx(len(nine_digits), rel=0.05)
    assert size.proto == pytest.approx(sum(array.nbytes for array in outputs.values()), rel=0.01)
    assert size.json_without_raw < size.json / 100
    assert size.proto_without_raw < size.proto / 100


def test_sizes_are_per_image() -> None:
    one, four = response_bytes(outputs_of(1, 500)), response_bytes(outputs_of(4, 500))
    assert four.json == pytest.approx(one.json, rel=0.02)
    assert four.proto == pytest.approx(one.proto, rel=0.02)


def test_size_is_estimated_from_shapes() -> None:
    outputs = outputs_of(1, 1917)
    del outputs["num_detections"]  # 100, shorter than most numbers are
    measured = response_bytes(outputs)
    expected = expected_bytes({name: ("float32", (None, *array.shape[1:])) for name, array in outputs.items()})
    assert expected is not None
    assert expected.to_dict() == {
        name: pytest.approx(size, rel=0.05, abs=100) for name, size in measured.to_dict().items()
    }
    assert expected_bytes({"boxes": ("float32", (None, None, 4))}) is None
    assert expected_bytes({"boxes": ("float32", None)}) is None


def test_servers_and_clients_that_reject_the_size() -> None:
    assert size_findings(response_bytes(outputs_of(1, 1917))) == []
    findings = size_findings(response_bytes(outputs_of(1, 51150)))
    assert len(findings) == 3
    assert "the limit of a real-time endpoint of SageMaker is 6.3 MB. Export with --kept-outputs" in findings[1]
    assert "--max-detections" in size_findings(ResponseBytes(10**8, 10**8, 10**8, 10**8))[0]


def test_outputs_that_prevent_batching() -> None:
    outputs = {
        "boxes": np.zeros([1, 4]),
        "anchors": np.zeros([50, 4]),
        "count": np.zeros([]),
        "name_bytes": np.array([b"a"], object),
    }
    findings = batch_findings(outputs, "serving_default", 1)
    assert batch_findings({"boxes": np.zeros([8, 4])}, "serving_default", 8) == []
    assert [line.split(" is ")[0].split(" has ")[0] for line in findings] == [
        f"serving_default: {name}" for name in ("anchors", "count", "name_bytes")
    ]
