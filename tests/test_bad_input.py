"""Bad input, through the command line: exit code 2, one clear line, no traceback, and nothing left behind."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tensorflow as tf

from unfreeze import cli, export_inference_graph
from unfreeze.exporting import from_checkpoint as exporting
from unfreeze.savedmodel import writer
from unfreeze.staging import staged

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
CONFIG = (DIGITS / "pipeline.config").read_text(encoding="utf-8")
STEM = "model.ckpt-8000"
DATA = f"{STEM}.data-00000-of-00001"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with the newest checkpoint of digits and its config."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (DATA, f"{STEM}.index"):
        shutil.copy(DIGITS / "run" / name, folder)
    (folder / "pipeline.config").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNFREEZE_TRACEBACK", raising=False)
    tf.constant(0)  # the first operation of a process prints on stderr that there is no GPU


def contents(folder: Path) -> dict[str, bytes | None]:
    """Returns every file and folder below a folder, hidden ones too, with the content of the files."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def exit_code(main: Callable[[list[str]], Any], *arguments: object) -> Any:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture
def error_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """A function that runs a command that fails and leaves no files, and returns the line that it prints."""

    def run_command(*arguments: object, main: Callable[[list[str]], Any] = cli.main, code: int = 2) -> str:
        before = contents(tmp_path)
        capfd.readouterr()
        assert exit_code(main, *arguments) == code
        captured = capfd.readouterr()
        assert captured.out == ""
        assert contents(tmp_path) == before
        [message] = captured.err.splitlines()
        return message

    return run_command


def export(folder: Path, *options: object) -> tuple[object, ...]:
    return ("export", folder, "--output-directory", folder.parent / "out", "--no-verify", *options)


def test_missing_path_is_reported(run: Path, error_line: Callable[..., str]) -> None:
    assert error_line(*export(run.parent / "nowhere")) == (
        f"error: {run.parent}/nowhere: no such checkpoint, folder or file; "
        "pass a prefix such as run/model.ckpt-1000, or its folder"
    )
    message = f"error: {run}/model.ckpt-7: no such checkpoint, folder or file; checkpoints there: {STEM}; "
    assert error_line(*export(run / "model.ckpt-7")).startswith(message)


def test_folder_without_a_checkpoint_is_reported(run: Path, error_line: Callable[..., str]) -> None:
    message = f"error: {run.parent}: no checkpoint in this folder: expected files like "
    assert error_line(*export(run.parent)) == (f"{message}model.ckpt-1000.index or ckpt-5.index; there is one in {run}")
    (run / DATA).unlink()
    (run / f"{STEM}.index").unlink()
    assert error_line(*export(run)).startswith(f"error: {run}: no checkpoint in this folder")


def test_missing_data_shard_is_reported(run: Path, error_line: Callable[..., str]) -> None:
    (run / DATA).rename(run / f"{STEM}.data-00000-of-00002")
    message = (
        f"error: {run}/{STEM}: incomplete checkpoint: {STEM}.data-00001-of-00002 is missing; copy the missing file"
    )
    assert error_line(*export(run)).startswith(message)
    assert error_line(*export(run / STEM)).startswith(message)


def test_truncated_index_is_reported(run: Path, error_line: Callable[..., str]) -> None:
    index = run / f"{STEM}.index"
    index.write_bytes(index.read_bytes()[:5000])
    message = f"error: {index}: not the index of a checkpoint, or cut short (5000 bytes); copy it again"
    assert error_line(*export(run)) == message


@pytest.mark.parametrize("size", [0, 100_000, 4_920_187])
def test_truncated_data_file_is_reported(run: Path, error_line: Callable[..., str], size: int) -> None:
    (run / DATA).write_bytes((run / DATA).read_bytes()[:size])
    assert error_line(*export(run)) == (
        f"error: {run}/{STEM}: incomplete checkpoint: {DATA} is cut short: {size} of 4920188 bytes; copy it again"
    )


def test_damaged_data_file_is_reported(run: Path, error_line: Callable[..., str]) -> None:
    data = bytearray((run / DATA).read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    (run / DATA).write_bytes(data)
    message = error_line(*export(run))
    assert message.startswith(f"error: {run}/{STEM}: tensor ")
    assert message.endswith(f"; the data file is damaged or cut short: copy {STEM}.data-* again")


CONFIGS: tuple[tuple[str, str, str, str], ...] = (
    ("typo", "num_classes: 10", "num_clases: 10", "Ssd has no field 'num_clases', did you mean 'num_classes'?"),
    ("value", "num_classes: 10", "num_classes: ten", "'num_classes' of Ssd must be a whole number (int32), not "),
    ("brace", "image_resizer {", "image_resizer ", "expected '{' after 'image_resizer'"),
    (
        "classes",
        "num_classes: 10",
        "num_classes: 3",
        "likely cause: num_classes (3 in the config; the checkpoint has 10)",
    ),
    (
        "extractor",
        "'ssd_mobilenet_v1'",
        "'ssd_mobilenet_v2'",
        "likely cause: feature_extractor.type ('ssd_mobilenet_v2' in the config; the checkpoint has "
        "FeatureExtractor/MobilenetV1)",
    ),
    (
        "unknown extractor",
        "'ssd_mobilenet_v1'",
        "'ssd_no_such_net'",
        "feature_extractor.type 'ssd_no_such_net' is not an SSD extractor of the Object Detection API; ",
    ),
    (
        "tf2",
        "'ssd_mobilenet_v1'",
        "'ssd_mobilenet_v1_fpn_keras'",
        "this is a TensorFlow 1 checkpoint (name-based), but the config's "
        "ssd_mobilenet_v1_fpn_keras is an extractor of TensorFlow 2; "
        "use the pipeline.config that the checkpoint was trained with",
    ),
)


@pytest.mark.parametrize(("old", "new", "message"), [case[1:] for case in CONFIGS], ids=[case[0] for case in CONFIGS])
def test_config_that_does_not_match_the_checkpoint_is_reported(
    run: Path, error_line: Callable[..., str], old: str, new: str, message: str
) -> None:
    assert old in CONFIG
    (run / "pipeline.config").write_text(CONFIG.replace(old, new), encoding="utf-8")
    assert message in error_line(*export(run))


def test_config_of_another_architecture_is_reported(run: Path, error_line: Callable[..., str]) -> None:
    (run / "pipeline.config").write_text(reference.golden("faster_rcnn_resnet50_coco").config, encoding="utf-8")
    message = error_line(*export(run))
    assert "faster_rcnn" in message or "FirstStageFeatureExtractor" in message


def test_file_that_is_not_a_config_is_reported(run: Path, error_line: Callable[..., str]) -> None:
    (run / "pipeline.config").write_bytes(bytes(range(256)))
    message = error_line(*export(run))
    assert message == f"error: {run}/pipeline.config: is not text (byte 0x80 at 128); expected a pipeline.config"
    labels = DIGITS / "label_map.pbtxt"
    assert "is a label map, not a pipeline.config" in error_line(*export(run, "--pipeline-config-path", labels))
    assert error_line(*export(run, "--pipeline-config-path", run / "none")) == (
        f"error: {run}/none: no such file; expected a pipeline.config"
    )
    (run / "pipeline.config").unlink()
    assert error_line(*export(run)) == (
        f"error: {run}: no pipeline.config here or in the folder above; give it with --pipeline-config-path"
    )


def test_checkpoint_of_the_other_generation_is_reported(run: Path, error_line: Callable[..., str]) -> None:
    for path in run.glob(f"{STEM}*"):
        path.unlink()
    tf.train.Checkpoint(model=tf.Variable([1.0])).write(str(run / "ckpt-3"))
    assert error_line(*export(run)) == (
        f"error: {run}/ckpt-3: this is a TensorFlow 2 checkpoint (object-based), but the config's "
        "ssd_mobilenet_v1 is an extractor of TensorFlow 1; use the pipeline.config that the checkpoint was trained with"
    )


def test_file_that_is_not_a_label_map_is_reported(run: Path, error_line: Callable[..., str]) -> None:
    message = f"error: {run}/labels.pbtxt: no such file; expected a label map"
    assert error_line(*export(run, "--label-map", run / "labels.pbtxt")) == message
    assert "expected a label map" in error_line(*export(run, "--label-map", run / DATA))


def test_invalid_option_values_are_reported(run: Path, error_line: Callable[..., str]) -> None:
    assert error_line(*export(run, "--step", 7)) == f"error: {run}: no checkpoint of step 7; steps here: 8000"
    assert error_line(*export(run, "--input-type", "jpeg")).startswith(
        "error: not supported: --input-type jpeg. Use one of image_tensor, "
    )
    assert "'1,2' must be four sizes" in error_line(*export(run, "--input-shape", "1,2"))


def test_od_api_script_reports_an_error_in_one_line(run: Path, error_line: Callable[..., str]) -> None:
    options = {
        "input_type": "image_tensor",
        "pipeline_config_path": run / "pipeline.config",
        "trained_checkpoint_prefix": run / "model.ckpt-7",
        "output_directory": run.parent / "out",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    message = error_line(*flags, main=export_inference_graph.main)
    assert message.startswith(f"error: {run}/model.ckpt-7: no such checkpoint, folder or file")


def test_od_api_script_advises_only_options_that_it_has(run: Path, error_line: Callable[..., str]) -> None:
    (run.parent / "out" / "saved_model").mkdir(parents=True)
    flags = {"trained_checkpoint_prefix": run / STEM, "pipeline_config_path": run / "pipeline.config"}
    message = error_line(
        *(f"--{name}={value}" for name, value in flags.items()),
        f"--output_directory={run.parent}/out",
        main=export_inference_graph.main,
    )
    out = f"{run.parent}/out"
    assert message == f"error: {out}/saved_model exists already: remove it, or give another --output_directory"


@pytest.mark.parametrize("entry", ["saved_model", "export.json"])
def test_existing_output_is_reported(run: Path, error_line: Callable[..., str], entry: str) -> None:
    (run.parent / "out" / entry).mkdir(parents=True)
    assert error_line(*export(run)) == (
        f"error: {run.parent}/out/{entry} exists already: give --overwrite, or another --output-directory"
    )


@pytest.mark.parametrize("below", ["", "/deep/er"])
def test_output_that_cannot_be_written_is_reported(run: Path, error_line: Callable[..., str], below: str) -> None:
    (run.parent / "out").write_text("a file in the way")
    message = error_line(*export(run, "--output-directory", f"{run.parent}/out{below}", "--overwrite"))
    reason = "Not a directory" if below else "File exists"
    assert message == f"error: {run.parent}/out{below}: cannot be written: {reason}; choose another --output-directory"


def test_file_name_that_is_too_long_is_reported(run: Path, error_line: Callable[..., str]) -> None:
    assert "cannot be written: File name too long; " in error_line(
        *export(run, "--output-directory", run.parent / "new" / ("x" * 300))
    )


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[int], None]]:
    """A function that limits the size of every file of this process: a larger write fails as on a full disk."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_while_writing_variables_is_reported(
    run: Path, error_line: Callable[..., str], limit_file_size: Callable[[int], None]
) -> None:
    limit_file_size(400_000)
    assert error_line(*export(run)) == (
        f"error: {run.parent}/out: cannot be written: File too large; choose another --output-directory"
    )


def disk_full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def disk_full_in_tensorflow(*arguments: object, **options: object) -> None:
    message = "{{function_node __wrapped__SaveV2}} /out/variables.data; No space left on device [Op:SaveV2]"
    raise tf.errors.ResourceExhaustedError(None, None, message)


# The function that fails in each stage of the write, and its replacement. The files of earlier stages are on disk.
STAGES: dict[str, tuple[object, str, Callable[..., None]]] = {
    "variables": (tf.raw_ops, "SaveV2", disk_full_in_tensorflow),
    "saved_model.pb": (writer, "_write_graph", disk_full),
    "pipeline.config": (exporting, "_write_config", disk_full),
    "export.json": (exporting, "_record", disk_full),
    "move": (os, "rename", disk_full),
}


@pytest.mark.parametrize("stage", STAGES)
def test_full_disk_at_each_stage_is_reported(
    run: Path, error_line: Callable[..., str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(*STAGES[stage])
    assert error_line(*export(run)) == (
        f"error: {run.parent}/out: cannot be written: No space left on device; choose another --output-directory"
    )


def test_existing_export_stays_if_it_cannot_be_replaced(
    run: Path, error_line: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = run.parent / "out" / "saved_model"
    old.mkdir(parents=True)
    (old / "saved_model.pb").write_text("old")
    monkeypatch.setattr(exporting, "_record", disk_full)
    assert "No space left on device" in error_line(*export(run, "--overwrite"))
    assert (old / "saved_model.pb").read_text() == "old"


@pytest.mark.parametrize("last", range(1, 6))
def test_renames_are_undone_if_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """The target is unchanged, whichever of the five renames fails: two files are replaced, one is new."""
    target = tmp_path / "out"
    target.mkdir()
    for name in ("a", "b", "other"):
        (target / name).write_text("old")
    before, rename, calls = contents(tmp_path), os.rename, []

    def failing(source: Path, destination: Path) -> None:
        calls.append(source)
        if len(calls) == last:
            raise KeyboardInterrupt
        rename(source, destination)

    def write() -> None:
        with staged(target, ("a", "b", "c"), overwrite=True) as staging:
            for name in ("a", "b", "c"):
                (staging / name).write_text("new")

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert contents(tmp_path) == before
    monkeypatch.setattr(os, "rename", rename)
    write()
    assert contents(target) == {"a": b"new", "b": b"new", "c": b"new", "other": b"old"}


@pytest.mark.parametrize("stage", ["variables", "saved_model.pb", "move"])
def test_ctrl_c_while_writing_leaves_no_files(
    run: Path, error_line: Callable[..., str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*STAGES[stage][:2], interrupt)
    assert error_line(*export(run), code=130) == "interrupted"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "exported"
    exporting.export_checkpoint(DIGITS / "run", output_directory=folder, verify=False)
    return folder


def test_file_that_is_not_an_image_is_reported(exported: Path, tmp_path: Path, error_line: Callable[..., str]) -> None:
    (tmp_path / "notes.png").write_text("not an image")
    cut = (DIGITS / "scenes" / "scene_00.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(cut[: len(cut) // 2])
    np.arange(10).tofile(tmp_path / "numbers.jpg")
    for name, message in (
        ("notes.png", "is not an image. Pass a JPEG, PNG, GIF, BMP, WebP or TIFF file."),
        ("numbers.jpg", "is not an image. Pass a JPEG, PNG, GIF, BMP, WebP or TIFF file."),
        ("cut.png", "cannot be read as an image"),
        ("none.png", "does not exist. Pass the path of an image."),
    ):
        assert error_line("predict", exported, tmp_path / name).startswith(f"error: {tmp_path / name} {message}")


def test_folder_without_a_saved_model_is_reported(run: Path, error_line: Callable[..., str]) -> None:
    image = DIGITS / "scenes" / "scene_00.png"
    message = f"error: {run} has no saved_model.pb: give the folder with saved_model.pb, or the one above it"
    assert error_line("predict", run, image) == message
    assert error_line("verify", run).startswith(f"error: {run} has no model. Pass a SavedModel (a folder with saved_")


def start_unfreeze(*arguments: object) -> subprocess.Popen[str]:
    """Starts the command in a new process group, as a terminal does."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.Popen(
        [sys.executable, "-m", "unfreeze", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=None if sys.platform == "win32" else accept_interrupts,
    )


def accept_interrupts() -> None:
    """Restores the default of SIGINT, which background processes of a shell ignore, and their child processes too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_command_in_a_new_process_reports_one_line(run: Path) -> None:
    before = contents(run.parent)
    process = start_unfreeze(*export(run / "model.ckpt-7"))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    [message] = err.splitlines()
    assert message.startswith(f"error: {run}/model.ckpt-7: no such checkpoint, folder or file")
    assert contents(run.parent) == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("number", "to_group", "code", "message"),
    [(signal.SIGINT, True, 130, ["interrupted"]), (signal.SIGTERM, False, 143, [])],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_signal_while_writing_leaves_no_files(
    run: Path, number: signal.Signals, to_group: bool, code: int, message: list[str]
) -> None:
    """The signal arrives during the verification: the files are written, and not yet moved into place."""
    before, target = contents(run.parent), run.parent / "new" / "out"
    process = start_unfreeze("export", run, "--output-directory", target)
    try:
        deadline = time.monotonic() + 120
        while not list(target.glob(".unfreeze-*/saved_model/variables/*.index")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert process.poll() is None
        (os.killpg if to_group else os.kill)(process.pid, number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err.splitlines()) == (code, "", message)
    assert contents(run.parent) == before
