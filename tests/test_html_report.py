"""The HTML report: what is in it, that it stands alone, and what is refused."""

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
from unfreeze.verification import Check, ImageResult, Report
from unfreeze.verification.html_report import html_report, require_writable

HOSTILE = '<script>alert("1")</script>&'
ANSWER = {
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
    """Every start tag with its attributes; what is open and never closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(*checks: Check, other: Any = None) -> str:
    picture = np.full([40, 60, 3], 128, np.uint8)
    report = Report(
        Path("/models/staged"),
        checks or (Check("files", "passed", "all there"),),
        ExportRecord(weights=WEIGHTS, files={"saved_model.pb": FileDigest(2_000_000, "cd" * 32)}),
        (ImageResult(HOSTILE, picture, ANSWER, other),),
    )
    record = ExportRecord(checkpoint=CheckpointSource("run/model.ckpt-8000", 8000, "tf1"), num_classes=2)
    return html_report(report, record, {1: HOSTILE}, Path("detector/saved_model"))


def test_it_stands_alone_and_takes_no_name_for_markup() -> None:
    elements = Elements(page(other=ANSWER))
    assert elements.open == []
    tags = [tag for tag, _ in elements.found]
    assert "script" not in tags
    assert tags.count("img") == 2
    loaded = [attributes.get("src") or attributes.get("href") or "" for _, attributes in elements.found]
    assert all(address.startswith("data:image/jpeg;base64,") for address in loaded if address)
    assert any(attributes.get("http-equiv") == "Content-Security-Policy" for _, attributes in elements.found)
    assert all(attributes.get("alt") for tag, attributes in elements.found if tag == "img")


def test_what_it_tells() -> None:
    told = page()
    for text in ("<h1>Verified</h1>", "run/model.ckpt-8000, step 8,000", "moving average", "3 x 3 x 8 x 16", "2.0 MB"):
        assert text in told
    assert "1 of 2 detections score 30% or more" in told
    assert told.count("<h2>") == 5  # no timings were taken


def test_a_failure_is_seen_first() -> None:
    failed = Check("batch", "failed", "row 1 differs\nby much", {"largest": 0.5})
    told = page(Check("files", "passed", "all there"), failed, Check("against", "skipped", "nothing"))
    assert "<h1>Verification failed</h1>" in told
    assert "1 of 3 checks passed, 1 failed, 1 had nothing to look at." in told
    assert 'class="status failed">failed' in told
    assert "row 1 differs<br>by much" in told


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    there = tmp_path / "report.html"
    there.write_text("mine")
    for path, why in (
        (tmp_path, "that is a folder"),
        (there, "exists already: give --overwrite"),
        (tmp_path / "no" / "report.html", "there is no folder"),
    ):
        with pytest.raises(OutputError, match=re.escape(why)):
            require_writable(path, overwrite=False)
    require_writable(there, overwrite=True)
    assert there.read_text() == "mine"


def test_no_report_of_what_is_not_verified(tmp_path: Path) -> None:
    digits = Path(__file__).parents[1] / "examples" / "digits"
    options = {"pipeline_config_path": digits / "pipeline.config", "output_directory": tmp_path / "out"}
    with pytest.raises(ConfigError, match="--report shows what was verified: it cannot be combined with --no-verify"):
        export(digits / "run", **options, verify=False, report_path=tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
