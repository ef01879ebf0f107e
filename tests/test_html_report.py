"""The HTML report: its content, that it is self-contained, and where it cannot be written."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unfreeze.errors import ConfigError, OutputError
from unfreeze.export_record import CheckpointSource, ExportRecord, FileDigest, WeightRecord
from unfreeze.exporting.export import export
from unfreeze.staging import require_writable_file
from unfreeze.verification import Check, ImageResult, Report, Status
from unfreeze.verification.html_report import html_report

HOSTILE = '<script>alert("1")</script>&'
OUTPUTS = {
    "detection_boxes": np.array([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0]], np.float32),
    "detection_scores": np.array([0.9, 0.1], np.float32),
    "detection_classes": np.array([1.0, 2.0], np.float32),
}
WEIGHTS = {
    "a/weights/ExponentialMovingAverage": WeightRecord(
        f"a/{HOSTILE}/.ATTRIBUTES/VARIABLE_VALUE", "float32", (3, 3, 8, 16), "ab" * 32
    )
}


class Elements(HTMLParser):
    """Every start tag with its attributes, and the elements that are never closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(*checks: Check, reference_outputs: Any = None) -> str:
    image = np.full([40, 60, 3], 128, np.uint8)
    report = Report(
        Path("/models/staged"),
        checks or (Check("files", Status.PASSED, "all there"),),
        ExportRecord(weights=WEIGHTS, files={"saved_model.pb": FileDigest(2_000_000, "cd" * 32)}),
        (ImageResult(HOSTILE, image, OUTPUTS, reference_outputs),),
    )
    record = ExportRecord(checkpoint=CheckpointSource("run/model.ckpt-8000", 8000, "tf1"), num_classes=2)
    return html_report(report, record, {1: HOSTILE}, Path("detector/saved_model"))


def test_page_is_self_contained_and_escapes_names() -> None:
    elements = Elements(page(reference_outputs=OUTPUTS))
    assert elements.open == []
    tags = [tag for tag, _ in elements.tags]
    assert "script" not in tags
    assert tags.count("img") == 2
    loaded = [attributes.get("src") or attributes.get("href") or "" for _, attributes in elements.tags]
    assert all(address.startswith("data:image/jpeg;base64,") for address in loaded if address)
    assert any(attributes.get("http-equiv") == "Content-Security-Policy" for _, attributes in elements.tags)
    assert all(attributes.get("alt") for tag, attributes in elements.tags if tag == "img")


def test_page_content() -> None:
    html = page()
    for text in ("<h1>Verified</h1>", "run/model.ckpt-8000, step 8,000", "moving average", "3 x 3 x 8 x 16", "2.0 MB"):
        assert text in html
    assert "1 of 2 detections score 30% or more" in html
    assert html.count("<h2>") == 5  # without timings


def test_failure_is_in_the_heading() -> None:
    failed = Check("batch", Status.FAILED, "row 1 differs\nby much", {"largest": 0.5})
    html = page(Check("files", Status.PASSED, "all there"), failed, Check("against", Status.SKIPPED, "nothing"))
    assert "<h1>Verification failed</h1>" in html
    assert "1 of 3 checks passed, 1 failed, 1 skipped." in html
    assert 'class="status failed">failed' in html
    assert "row 1 differs<br>by much" in html


def test_paths_that_cannot_be_written_are_rejected(tmp_path: Path) -> None:
    existing = tmp_path / "report.html"
    existing.write_text("mine")
    for path, message in (
        (tmp_path, "this is a folder"),
        (existing, "the file exists already. Pass --overwrite"),
        (tmp_path / "no" / "report.html", "does not exist"),
    ):
        with pytest.raises(OutputError, match=re.escape(message)):
            require_writable_file(path, "--report", overwrite=False)
    require_writable_file(existing, "--report", overwrite=True)
    assert existing.read_text() == "mine"


def test_report_without_verification_is_rejected(tmp_path: Path) -> None:
    digits = Path(__file__).parents[1] / "examples" / "digits"
    options = {"pipeline_config_path": digits / "pipeline.config", "output_directory": tmp_path / "out"}
    with pytest.raises(ConfigError, match="--report shows what was verified: it cannot be combined with --no-verify"):
        export(digits / "run", **options, verify=False, report_path=tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
