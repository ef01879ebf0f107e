"""`--format tfjs`: the files of a graph model, Node.js, and the page of the docs. Skips what needs npm packages."""

from __future__ import annotations

import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docs_pages
import numpy as np
import pytest
import tensorflow as tf

import unfreeze
from unfreeze.comparison.verify import verify
from unfreeze.errors import ConversionError, MissingExtraError
from unfreeze.tfjs import graph_model
from unfreeze.tfjs.graph_model import write_graph_model, write_labels
from unfreeze.tfjs.node import BACKENDS, PACKAGES, Node, find_node, run_in_node
from unfreeze.verification import Status

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


@pytest.fixture(scope="module")
def node() -> Node:
    try:
        return find_node()
    except MissingExtraError as error:
        pytest.skip(str(error))


def small_model(folder: Path) -> Path:
    """Writes a model that multiplies images, and counts in a loop."""
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.uint8, [None, 2, 2, 3], name="images")
        weights = tf.constant(np.arange(3), tf.float32, name="weights")
        product = tf.ensure_shape(tf.cast(images, tf.float32) * weights, [None, 2, 2, 3])  # which fails there
        tf.identity(product, name="product")
        tf.identity(tf.while_loop(lambda n: n < 5, lambda n: [n + 2], [tf.constant(0, tf.int64)])[0], name="count")
    write_graph_model(
        graph.as_graph_def(),
        {"inputs": "images:0"},
        {"product": "product:0", "count": "count:0"},
        folder / "model.json",
    )
    return folder / "model.json"


def test_weights_are_in_shards_and_not_in_the_topology(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(graph_model, "SHARD_BYTES", 8)
    model = json.loads(small_model(tmp_path).read_text())
    [group] = model["weightsManifest"]
    shards = [tmp_path / name for name in group["paths"]]
    assert {shard.stat().st_size for shard in shards[:-1]} == {8}
    assert group["paths"][0] == f"group1-shard1of{len(shards)}.bin"
    content, values = b"".join(shard.read_bytes() for shard in shards), {}
    for weight in group["weights"]:
        size = int(np.prod(weight["shape"], dtype=int)) * np.dtype(weight["dtype"]).itemsize
        values[weight["name"]], content = np.frombuffer(content[:size], weight["dtype"]), content[size:]
    assert content == b""
    np.testing.assert_array_equal(values["weights"], [0, 1, 2])
    assert {weight["dtype"] for weight in group["weights"]} <= {"float32", "int32", "bool"}
    constants = [each for each in model["modelTopology"]["node"] if each["op"] == "Const"]
    assert constants
    assert not [each for each in constants if "value" in each["attr"]]
    assert model["signature"]["inputs"]["inputs"]["name"] == "images:0"


def test_operation_that_tensorflow_js_lacks_is_named(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        tf.raw_ops.Betainc(a=1.0, b=1.0, x=0.5, name="y")
    with pytest.raises(ValueError, match=r"TensorFlow\.js has no operation Betainc"):
        write_graph_model(graph.as_graph_def(), {}, {"y": "y:0"}, tmp_path / "model.json")
    assert not list(tmp_path.iterdir())


def test_labels_are_by_id(tmp_path: Path) -> None:
    write_labels({2: "Löwe", 1: "cat"}, tmp_path)
    assert json.loads((tmp_path / "labels.json").read_text(encoding="utf-8")) == {"1": "cat", "2": "Löwe"}


@pytest.mark.parametrize("has_node", [False, True])
def test_export_without_node_or_packages_is_rejected(
    has_node: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if has_node:
        (tmp_path / "node").write_text("#!/bin/sh\n")
        (tmp_path / "node").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NODE_PATH", "")
    monkeypatch.chdir(tmp_path)
    message = f"run npm install {' '.join(PACKAGES)}" if has_node else "Node.js, which is not on PATH"
    with pytest.raises(MissingExtraError, match=message):
        unfreeze.export(DIGITS / "run", output_directory=tmp_path / "out", formats=["tfjs"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_model_runs_in_node(backend: str, node: Node, tmp_path: Path) -> None:
    images = np.random.default_rng(3).integers(0, 256, [2, 2, 2, 3]).astype(np.uint8)
    [outputs] = run_in_node(node, small_model(tmp_path), backend, "inputs", [images])
    np.testing.assert_array_equal(outputs["product"], images * np.arange(3, dtype=np.float32))
    assert outputs["count"] == 6


def test_error_of_tensorflow_js_is_one_line(node: Node, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"model\.json does not run in TensorFlow\.js \(cpu\): .*other"):
        run_in_node(node, small_model(tmp_path), "cpu", "other", [np.zeros([1, 2, 2, 3], np.uint8)])


@pytest.mark.slow
def test_page_of_the_docs_lists_the_detections(node: Node, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    folder = tmp_path / "export"
    unfreeze.export(DIGITS / "run", output_directory=folder, formats=["tfjs"], label_map=DIGITS / "label_map.pbtxt")
    [report] = verify(folder).parts or [verify(folder)]
    assert {check.name: check.status for check in report.checks}["runtime"] is Status.SKIPPED
    page_of_docs = docs_pages.ROOT / "docs" / "tfjs.md"
    (_, html), *_ = docs_pages.blocks(page_of_docs, "html")
    (_, expected), *_ = docs_pages.blocks(page_of_docs, "text")
    cdn = "https://cdn.jsdelivr.net/npm/"
    for package in PACKAGES:
        html = html.replace(f"{cdn}{package}@4.22.0", f"node_modules/{package}")
    (folder / "index.html").write_text(html)
    (folder / "node_modules").symlink_to(node.folder / "node_modules")
    (folder / "scene.png").write_bytes((DIGITS / "scenes" / "scene_04.png").read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with playwright.sync_playwright() as started:
            browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_function("document.getElementById('detections').textContent != 'loading'", timeout=60_000)
            assert page.inner_text("#detections") == expected.strip()
            browser.close()
    finally:
        server.shutdown()
