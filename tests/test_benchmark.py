"""`unfreeze benchmark`: models side by side, in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from unfreeze import cli, runtimes
from unfreeze.benchmarking.benchmark import benchmark
from unfreeze.benchmarking.chart import draw_chart
from unfreeze.benchmarking.results import Benchmark, ModelResult, Ratio, Timing
from unfreeze.exporting.export import export
from unfreeze.runtimes import Runtime

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


@pytest.fixture(autouse=True)
def json_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Runtime("test format", ".json", "benchmark_runtime", "JSON")
    monkeypatch.setattr(runtimes, "RUNTIMES", (*runtimes.RUNTIMES, row))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def model(folder: Path, name: str, **behavior: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(behavior))
    return path


def test_slower_model_has_the_ratio_and_the_agreement(tmp_path: Path) -> None:
    paths = [model(tmp_path, "fast", sleep_s=0.002), model(tmp_path, "slow", sleep_s=0.02, shift=0.01)]
    fast, slow = benchmark(paths, batch=(1, 2), seconds=0.1).results
    assert [timing.batch for timing in slow.timings] == [1, 2]
    assert fast.agreement is None
    assert slow.agreement is not None
    assert (slow.agreement.matched, slow.agreement.detections) == (2, 4)
    assert slow.agreement.box == pytest.approx(0.01, abs=1e-5)
    for timing in slow.timings:
        assert timing.ratio is not None
        assert timing.ratio.low > 2
        assert not timing.ratio.is_noise
    assert slow.peak_bytes is not None
    assert slow.peak_bytes > 1e6


def test_failed_models_have_a_status_and_exit_code_1(tmp_path: Path) -> None:
    paths = [
        model(tmp_path, "broken", error="no weights\nand more"),
        model(tmp_path, "good"),
        model(tmp_path, "dies", dies=True),
        model(tmp_path, "single", max_batch=1),
    ]
    done = CliRunner().invoke(
        cli.unfreeze, ["benchmark", *map(str, paths), "--json", "--seconds", "0.1", "--batch", "1 2"],
        standalone_mode=False,
    )  # fmt: skip
    assert done.return_value == 1, done.output
    results = json.loads(done.stdout)["models"]
    assert [result["status"] for result in results] == [
        "failed: no weights",
        "ok",
        "failed: the process ended with exit code 7",
        "failed: batch 2: the batch is too large",
    ]
    assert [len(result["timings"]) for result in results] == [0, 2, 0, 1]
    assert results[3]["agreement"]["matched"] == 4
    assert results[3]["format"] == "test format"
    assert results[3]["runtime"] == "JSON"


def timing(*milliseconds: float, batch: int = 1) -> Timing:
    seconds = tuple(value / 1000 for value in milliseconds)
    return Timing(batch, seconds, seconds)


def test_ratio_within_noise_is_reported() -> None:
    noisy = Ratio.of([10, 12, 9, 11, 10, 13, 8, 10, 11, 9], [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    assert str(noisy) == "within noise"
    assert str(Ratio.of([20.0] * 10, [10.0] * 10)) == "2.00 (2.00-2.00)"
    assert Ratio.of([10.1] * 10, [10.0] * 10).is_noise


def test_times_are_per_image() -> None:
    of_batch = timing(8, 16, 24, batch=8)
    assert of_batch.quartiles_ms == pytest.approx((1.5, 2, 2.5))
    assert of_batch.images_per_s == pytest.approx(500)


def test_table_has_the_status_of_a_failed_model() -> None:
    good = ModelResult("a.pb", "frozen graph", "TensorFlow", 2_000_000, timings=(timing(8, 16, 24),))
    bad = ModelResult("b.onnx", "ONNX", "ONNX Runtime", 1_000_000, failure="unknown operation")
    lines = str(Benchmark("1 image", (1,), None, (good, bad))).splitlines()
    assert "16.00 (12.00-20.00)" in lines[5]
    assert "failed" in lines[6]
    assert lines[-1] == "2: failed: unknown operation"


def test_chart_has_longer_bars_for_slower_models() -> None:
    results = tuple(
        ModelResult(name, name, "TensorFlow", 1, timings=(timing(ms, ms, ms),)) for name, ms in (("a", 5), ("b", 10))
    )
    image = draw_chart(Benchmark("1 image", (1,), None, results))
    counts = {color: count for count, color in image.getcolors(1 << 20) or []}
    blue, yellow = (counts[color] for color in ((0x42, 0x69, 0xD0), (0xEF, 0xB1, 0x18)))
    assert yellow == pytest.approx(2 * blue, rel=0.05)


def test_saved_model_and_frozen_graph_of_digits_agree(tmp_path: Path) -> None:
    folder = export(DIGITS / "run", output_directory=tmp_path / "digits", verify=False).folder
    chart = tmp_path / "chart.png"
    done = benchmark(
        [folder, DIGITS / "frozen_inference_graph.pb"], images=DIGITS / "scenes", seconds=0.1, threads=1, chart=chart
    )
    assert done.ok, str(done)
    agreement = done.results[1].agreement
    assert agreement is not None
    assert agreement.matched == agreement.detections > 100
    assert agreement.box < 1e-4
    assert Image.open(chart).format == "PNG"
