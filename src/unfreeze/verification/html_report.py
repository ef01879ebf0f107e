"""What was exported and what was proved, as one HTML file that stands alone: to be read, printed and kept.

It needs no script and loads nothing: pictures are in it, and its Content-Security-Policy forbids the rest. Names from
checkpoints and label maps may hold anything, so all text goes through `_text`.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from unfreeze.errors import OutputError
from unfreeze.export_record import ExportRecord, FileDigest, WeightRecord
from unfreeze.formatting import megabytes
from unfreeze.images import Detection, draw_detections
from unfreeze.prediction.class_names import Names, class_names
from unfreeze.prediction.detections import parse_detections
from unfreeze.verification import ImageResult, Report
from unfreeze.verification.report import FAILED, PASSED, TITLES
from unfreeze.version import __version__

STYLE = Path(__file__).with_suffix(".css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
AVERAGE = "/ExponentialMovingAverage"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
MIN_SCORE = 0.3  # of detections that are drawn and listed
ROWS = 20  # detections of a picture that are listed
QUALITY = 85  # of JPEG

TIMINGS = {"load_s": "load", "first_s": "first answer", "last_s": "last answer"}

Row = Sequence[str]  # cells of HTML


def require_writable(path: Path, *, overwrite: bool) -> None:
    """Say before the long work that a report could not be written.

    Raises: OutputError.
    """
    if path.is_dir():
        raise OutputError(f"--report {path}: that is a folder; give the name of a file in it, such as report.html")
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"--report {path} exists already: give --overwrite, or another name")
    if not path.parent.is_dir():
        raise OutputError(f"--report {path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"--report {path}: {path.parent} cannot be written to; choose another place")


def write_html_report(path: Path, report: Report, record: ExportRecord | None, *, place: Path) -> None:
    """Write the report, whole or not at all.

    Args:
        record: the record of the export, if there is one.
        place: where the SavedModel is, or was to be.

    Raises: OutputError.
    """
    page = html_report(report, record, class_names(None, report.saved_model), place)
    aside = path.with_name(f".unfreeze-{os.getpid()}-{path.name}")
    try:
        aside.write_text(page, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OutputError(f"--report {path}: cannot be written: {error.strerror or error}") from None


def html_report(report: Report, record: ExportRecord | None, names: Names, place: Path) -> str:
    """The page."""
    verdict = "Verified" if report.passed else "Verification failed"
    title = f"{verdict}: {place}"
    sections = [
        _head(verdict, report, place),
        _section("What it is", _facts(record or ExportRecord())),
        _section("Checks", _checks(report)),
        _section("Pictures", "".join(_figure(seen, names) for seen in report.seen)),
        _section("Timings", _timings(report)),
        _section("Weights", _weights(report.record.weights)),
        _section("Files", _files(report.record.files)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{STYLE.read_text()}</style>\n</head>\n<body>\n<main>\n"
        + "".join(sections)
        + f"<footer>unfreeze {__version__}</footer>\n</main>\n</body>\n</html>\n"
    )


def _head(verdict: str, report: Report, place: Path) -> str:
    count = {status: sum(check.status == status for check in report.checks) for status in (PASSED, FAILED)}
    told = f"{count[PASSED]} of {len(report.checks)} checks passed"
    told += f", {count[FAILED]} failed" if count[FAILED] else ""
    skipped = len(report.checks) - sum(count.values())
    told += f", {skipped} had nothing to look at" if skipped else ""
    kind = "good" if report.passed else "bad"
    return (
        f'<header class="{kind}">\n<h1>{verdict}</h1>\n<p class="name">{_text(place)}</p>\n<p>{told}.</p>\n</header>\n'
    )


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}</section>\n" if body else ""


def _facts(record: ExportRecord) -> str:
    rows: list[tuple[str, Any]] = []
    if checkpoint := record.checkpoint:
        step = f", step {checkpoint.step:,}" if checkpoint.step is not None else ""
        rows.append(("checkpoint", f"{checkpoint.prefix}{step} ({checkpoint.format})"))
        rows += [(f"sha256 of {name}", file.sha256) for name, file in checkpoint.files.items()]
    if config := record.pipeline_config:
        rows += [("pipeline.config", config.path), ("sha256 of it", config.sha256)]
    facts = [
        ("architecture", record.model),
        ("feature extractor", record.feature_extractor),
        ("classes", record.num_classes),
        ("input types", record.input_types),
        ("config override", record.config_override),
        ("exported at", record.exported_at),
    ]
    rows += [(title, value) for title, value in facts if value not in (None, "", (), [])]
    if record.moving_averages and record.moving_averages.used:
        rows.append(("moving averages", f"used for {record.moving_averages.used} variables"))
    if record.unused:
        rows.append(("unused tensors of the checkpoint", record.unused))
    if record.unfreeze:
        rows.append(("made by", f"unfreeze {record.unfreeze}, TensorFlow {record.tensorflow}"))
    return _table((), ((_row_title(name), _cell(_told(value))) for name, value in rows), "facts")


def _checks(report: Report) -> str:
    return _table(
        ("check", "", "what was found"),
        (
            (
                _row_title(TITLES.get(check.name, check.name)),
                f'<td class="status {check.status}">{check.status}</td>',
                f"<td>{_lines(check.detail)}{_numbers(check.numbers)}</td>",
            )
            for check in report.checks
        ),
        "checks",
    )


def _numbers(numbers: Mapping[str, Any]) -> str:
    if not numbers:
        return ""
    told = json.dumps(numbers, indent=1, ensure_ascii=False, default=str)
    return f"<details><summary>numbers</summary><pre>{_text(told)}</pre></details>"


def _figure(seen: ImageResult, names: Names) -> str:
    """A picture with what was found in it, beside what the other side found."""
    shown = f"{seen.name}{' (made for the purpose: no object is in it)' if seen.artificial else ''}"
    sides = [("this SavedModel", seen.answer), ("compared with", seen.other)]
    figures, lists = [], []
    picture = Image.fromarray(seen.picture)
    for side, answer in sides:
        if answer is None or not {"detection_boxes", "detection_scores", "detection_classes"} <= set(answer):
            continue
        found = list(parse_detections(answer, picture, names, MIN_SCORE))
        told = f"{side}: {len(found)} of {len(answer['detection_scores'])} detections score {MIN_SCORE:.0%} or more"
        drawn = draw_detections(picture, found)
        figures.append(
            f'<figure><img src="{_data_uri(drawn)}" alt="{_text(f"{seen.name}, {told}")}" width="{drawn.width}" '
            f'height="{drawn.height}"><figcaption>{_text(told)}</figcaption></figure>'
        )
        lists.append(_table((f"{side}", "score", "box: ymin, xmin, ymax, xmax"), _found(found), "found"))
    rows = [f'<div class="sides">{"".join(row)}</div>\n' for row in (figures, lists)]
    return f"<h3>{_text(shown)}</h3>\n{''.join(rows)}"


def _found(found: Sequence[Detection]) -> Iterator[Row]:
    for each in found[:ROWS]:
        yield _cell(each.name), _cell(f"{each.score:.4f}"), _cell(", ".join(f"{edge:.4f}" for edge in each.box))
    if len(found) > ROWS:
        yield (_cell(f"and {len(found) - ROWS} more"),)


def _timings(report: Report) -> str:
    rows = [
        (
            f'<th scope="row">{_text(TITLES[check.name])}</th>',
            *(_cell(f"{check.numbers[key]:.2f} s") for key in TIMINGS),
        )
        for check in report.checks
        if set(TIMINGS) <= set(check.numbers)
    ]
    note = "<p>Of processes that run side by side, on one machine: they tell that it works, not how fast it is.</p>\n"
    return _table(("loader", *TIMINGS.values()), rows, "timings") + note if rows else ""


def _weights(weights: Mapping[str, WeightRecord]) -> str:
    if not weights:
        return ""
    rows = []
    for key, held in weights.items():
        name, source = held.variable.removesuffix(VALUE), "moving average" if key.endswith(AVERAGE) else "variable"
        shape = " x ".join(map(str, held.shape)) or "scalar"
        rows.append((_cell(name), _cell(source), _cell(held.dtype), _cell(shape), _digest(held.sha256, 12)))
    table = _table(("variable", "from the checkpoint's", "dtype", "shape", "sha256"), rows, "weights")
    return f"<p>{len(rows)} variables.</p>\n<details><summary>all of them</summary>\n{table}</details>\n"


def _files(files: Mapping[str, FileDigest]) -> str:
    rows = (
        (_cell(name), _cell(megabytes(file.size_bytes)), _digest(file.sha256, len(file.sha256)))
        for name, file in files.items()
    )
    return _table(("file", "size", "sha256"), rows, "files")


def _digest(sha256: str, length: int) -> str:
    return f'<td class="digest"><code title="{_text(sha256)}">{_text(sha256[:length])}</code></td>'


def _row_title(value: Any) -> str:
    return f'<th scope="row">{_text(value)}</th>'


def _table(titles: Sequence[str], rows: Iterable[Row], kind: str) -> str:
    body = "".join(f"<tr>{''.join(row)}</tr>\n" for row in rows)
    head = "".join(f'<th scope="col">{_text(title)}</th>' for title in titles)
    head = f"<thead><tr>{head}</tr></thead>\n" if titles else ""
    return f'<div class="wide"><table class="{kind}">\n{head}<tbody>\n{body}</tbody></table></div>\n' if body else ""


def _cell(value: Any) -> str:
    return f"<td>{_text(value)}</td>"


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _lines(text: str) -> str:
    return "<br>".join(map(_text, text.splitlines()))


def _text(value: Any) -> str:
    return escape(str(value))


def _data_uri(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
