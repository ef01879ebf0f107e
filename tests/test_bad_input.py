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
    """The newest checkpoint of digits, with its config, in a folder of its own."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (DATA, f"{STEM}.index"):
        shutil.copy(DIGITS / "run" / name, folder)
    (folder / "pipeline.config").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNFREEZE_TRACEBACK", raising=False)
    tf.constant(0)  # the first operation of a process tells on stderr that there is no GPU; the command keeps it quiet


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, hidden ones too, with what the files hold."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def exit_code(main: Callable[[list[str]], Any], *arguments: object) -> Any:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """A function that runs a command which is refused, and gives the one line that says why."""

    def line(*arguments: object, main: Callable[[list[str]], Any] = cli.main, code: int = 2) -> str:
        before = contents(tmp_path)
        capfd.readouterr()
        assert exit_code(main, *arguments) == code
        captured = capfd.readouterr()
        assert captured.out == ""
        assert contents(tmp_path) == before
        [told] = captured.err.splitlines()
        return told

    return line


def export(folder: Path, *options: object) -> tuple[object, ...]:
    return ("export", folder, "--output-directory", folder.parent / "out", "--no-verify", *options)


def test_no_such_path(run: Path, refused: Callable[..., str]) -> None:
    assert refused(*export(run.parent / "nowhere")) == (
        f"error: {run.parent}/nowhere: no such checkpoint, folder or file; "
        "pass a prefix such as run/model.ckpt-1000, or its folder"
    )
    told = f"error: {run}/model.ckpt-7: no such checkpoint, folder or file; checkpoints there: {STEM}; "
    assert refused(*export(run / "model.ckpt-7")).startswith(told)


def test_a_folder_without_a_checkpoint(run: Path, refused: Callable[..., str]) -> None:
    told = f"error: {run.parent}: no checkpoint in this folder: expected files like "
    assert refused(*export(run.parent)) == (f"{told}model.ckpt-1000.index or ckpt-5.index; there is one in {run}")
    (run / DATA).unlink()
    (run / f"{STEM}.index").unlink()
    assert refused(*export(run)).startswith(f"error: {run}: no checkpoint in this folder")


def test_a_missing_data_shard(run: Path, refused: Callable[..., str]) -> None:
    (run / DATA).rename(run / f"{STEM}.data-00000-of-00002")
    told = f"error: {run}/{STEM}: incomplete checkpoint: {STEM}.data-00001-of-00002 is missing; copy the missing file"
    assert refused(*export(run)).startswith(told)
    assert refused(*export(run / STEM)).startswith(told)


def test_a_truncated_index(run: Path, refused: Callable[..., str]) -> None:
    index = run / f"{STEM}.index"
    index.write_bytes(index.read_bytes()[:5000])
    told = f"error: {index}: not the index of a checkpoint, or cut short (5000 bytes); copy it again"
    assert refused(*export(run)) == told


@pytest.mark.parametrize("size", [0, 100_000, 4_920_187])
def test_a_data_file_cut_short(run: Path, refused: Callable[..., str], size: int) -> None:
    (run / DATA).write_bytes((run / DATA).read_bytes()[:size])
    assert refused(*export(run)) == (
        f"error: {run}/{STEM}: incomplete checkpoint: {DATA} is cut short: {size} of 4920188 bytes; copy it again"
    )


def test_a_damaged_data_file(run: Path, refused: Callable[..., str]) -> None:
    data = bytearray((run / DATA).read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    (run / DATA).write_bytes(data)
    told = refused(*export(run))
    assert told.startswith(f"error: {run}/{STEM}: tensor ")
    assert told.endswith(f"; the data file is damaged or cut short: copy {STEM}.data-* again")


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


@pytest.mark.parametrize(("old", "new", "told"), [case[1:] for case in CONFIGS], ids=[case[0] for case in CONFIGS])
def test_a_config_that_does_not_fit(run: Path, refused: Callable[..., str], old: str, new: str, told: str) -> None:
    assert old in CONFIG
    (run / "pipeline.config").write_text(CONFIG.replace(old, new), encoding="utf-8")
    assert told in refused(*export(run))


def test_a_config_of_another_architecture(run: Path, refused: Callable[..., str]) -> None:
    (run / "pipeline.config").write_text(reference.golden("faster_rcnn_resnet50_coco").config, encoding="utf-8")
    told = refused(*export(run))
    assert "faster_rcnn" in told or "FirstStageFeatureExtractor" in told


def test_a_file_that_is_no_config(run: Path, refused: Callable[..., str]) -> None:
    (run / "pipeline.config").write_bytes(bytes(range(256)))
    told = refused(*export(run))
    assert told == f"error: {run}/pipeline.config: is not text (byte 0x80 at 128); expected a pipeline.config"
    labels = DIGITS / "label_map.pbtxt"
    assert "this looks like a label map, not a pipeline.config" in refused(
        *export(run, "--pipeline-config-path", labels)
    )
    assert refused(*export(run, "--pipeline-config-path", run / "none")) == (
        f"error: {run}/none: no such file; expected a pipeline.config"
    )
    (run / "pipeline.config").unlink()
    assert refused(*export(run)) == (
        f"error: {run}: no pipeline.config here or in the folder above; give it with --pipeline-config-path"
    )


def test_a_checkpoint_of_the_other_generation(run: Path, refused: Callable[..., str]) -> None:
    for path in run.glob(f"{STEM}*"):
        path.unlink()
    tf.train.Checkpoint(model=tf.Variable([1.0])).write(str(run / "ckpt-3"))
    assert refused(*export(run)) == (
        f"error: {run}/ckpt-3: this is a TensorFlow 2 checkpoint (object-based), but the config's "
        "ssd_mobilenet_v1 is an extractor of TensorFlow 1; use the pipeline.config that the checkpoint was trained with"
    )


def test_a_label_map_that_is_none(run: Path, refused: Callable[..., str]) -> None:
    told = f"error: {run}/labels.pbtxt: no such file; expected a label map"
    assert refused(*export(run, "--label-map", run / "labels.pbtxt")) == told
    assert "expected a label map" in refused(*export(run, "--label-map", run / DATA))


def test_options_that_make_no_sense(run: Path, refused: Callable[..., str]) -> None:
    assert refused(*export(run, "--step", 7)) == f"error: {run}: no checkpoint of step 7; steps here: 8000"
    assert refused(*export(run, "--input-type", "jpeg")).startswith(
        "error: not supported: --input-type jpeg. Use one of image_tensor, "
    )
    assert "'1,2' must be four sizes" in refused(*export(run, "--input-shape", "1,2"))


def test_the_original_script_tells_it_in_one_line_too(run: Path, refused: Callable[..., str]) -> None:
    options = {
        "input_type": "image_tensor",
        "pipeline_config_path": run / "pipeline.config",
        "trained_checkpoint_prefix": run / "model.ckpt-7",
        "output_directory": run.parent / "out",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    told = refused(*flags, main=export_inference_graph.main)
    assert told.startswith(f"error: {run}/model.ckpt-7: no such checkpoint, folder or file")


def test_the_original_script_advises_nothing_that_it_does_not_take(run: Path, refused: Callable[..., str]) -> None:
    (run.parent / "out" / "saved_model").mkdir(parents=True)
    flags = {"trained_checkpoint_prefix": run / STEM, "pipeline_config_path": run / "pipeline.config"}
    told = refused(
        *(f"--{name}={value}" for name, value in flags.items()),
        f"--output_directory={run.parent}/out",
        main=export_inference_graph.main,
    )
    out = f"{run.parent}/out"
    assert told == f"error: {out}/saved_model exists already: remove it, or give another --output_directory"


def test_a_wrong_path_is_told_without_tensorflow(tmp_path: Path) -> None:
    code = f"""import sys
from unfreeze import cli, errors
try:
    cli.dispatch(["export", {str(tmp_path / "nothing")!r}])
except errors.CheckpointError as error:
    assert "no such checkpoint, folder or file" in str(error), error
    assert "tensorflow" not in sys.modules
    print("told")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "told\n", done.stderr


@pytest.mark.parametrize("entry", ["saved_model", "export.json"])
def test_an_output_that_exists(run: Path, refused: Callable[..., str], entry: str) -> None:
    (run.parent / "out" / entry).mkdir(parents=True)
    assert refused(*export(run)) == (
        f"error: {run.parent}/out/{entry} exists already: give --overwrite, or another --output-directory"
    )


@pytest.mark.parametrize("below", ["", "/deep/er"])
def test_an_output_that_cannot_be_written(run: Path, refused: Callable[..., str], below: str) -> None:
    (run.parent / "out").write_text("a file in the way")
    told = refused(*export(run, "--output-directory", f"{run.parent}/out{below}", "--overwrite"))
    reason = "Not a directory" if below else "File exists"
    assert told == f"error: {run.parent}/out{below}: cannot be written: {reason}; choose another --output-directory"


def test_a_name_that_no_file_system_takes(run: Path, refused: Callable[..., str]) -> None:
    assert "cannot be written: File name too long; " in refused(
        *export(run, "--output-directory", run.parent / "new" / ("x" * 300))
    )


@pytest.fixture
def largest_file() -> Iterator[Callable[[int], None]]:
    """No file of this process may grow larger: the write fails as on a full disk, wherever it comes from."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_for_the_variables(run: Path, refused: Callable[..., str], largest_file: Callable[[int], None]) -> None:
    largest_file(400_000)
    assert refused(*export(run)) == (
        f"error: {run.parent}/out: cannot be written: File too large; choose another --output-directory"
    )


def no_room(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_room_in_tensorflow(*arguments: object, **options: object) -> None:
    message = "{{function_node __wrapped__SaveV2}} /out/variables.data; No space left on device [Op:SaveV2]"
    raise tf.errors.ResourceExhaustedError(None, None, message)


# Each stage of the write; what came before it is on disk by then.
STAGES: dict[str, tuple[object, str, Callable[..., None]]] = {
    "variables": (tf.raw_ops, "SaveV2", no_room_in_tensorflow),
    "saved_model.pb": (writer, "_write_graph", no_room),
    "pipeline.config": (exporting, "_write_config", no_room),
    "export.json": (exporting, "_record", no_room),
    "move": (os, "rename", no_room),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_fills_up(
    run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(*STAGES[stage])
    assert refused(*export(run)) == (
        f"error: {run.parent}/out: cannot be written: No space left on device; choose another --output-directory"
    )


def test_what_was_there_stays_when_it_cannot_be_replaced(
    run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = run.parent / "out" / "saved_model"
    old.mkdir(parents=True)
    (old / "saved_model.pb").write_text("the old one")
    monkeypatch.setattr(exporting, "_record", no_room)
    assert "No space left on device" in refused(*export(run, "--overwrite"))
    assert (old / "saved_model.pb").read_text() == "the old one"


@pytest.mark.parametrize("last", range(1, 6))
def test_moves_are_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """The target is as it was, whichever of the five renames fails: two things are replaced, one is new."""
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
def test_ctrl_c_while_writing(
    run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*STAGES[stage][:2], interrupt)
    assert refused(*export(run), code=130) == "interrupted"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "exported"
    exporting.export_checkpoint(DIGITS / "run", output_directory=folder, verify=False)
    return folder


def test_file_that_is_no_image_is_rejected(exported: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "notes.png").write_text("not an image at all")
    cut = (DIGITS / "scenes" / "scene_00.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(cut[: len(cut) // 2])
    np.arange(10).tofile(tmp_path / "numbers.jpg")
    for name, told in (
        ("notes.png", "is not an image. Pass a JPEG, PNG, GIF, BMP, WebP or TIFF file."),
        ("numbers.jpg", "is not an image. Pass a JPEG, PNG, GIF, BMP, WebP or TIFF file."),
        ("cut.png", "cannot be read as an image"),
        ("none.png", "does not exist. Pass the path of an image."),
    ):
        assert refused("predict", exported, tmp_path / name).startswith(f"error: {tmp_path / name} {told}")


def test_a_folder_that_is_no_saved_model(run: Path, refused: Callable[..., str]) -> None:
    image = DIGITS / "scenes" / "scene_00.png"
    told = f"error: {run} has no saved_model.pb: give the folder with saved_model.pb, or the one above it"
    assert refused("predict", run, image) == told
    assert refused("verify", run) == told


def python_m_unfreeze(*arguments: object) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a terminal starts it."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.Popen(
        [sys.executable, "-m", "unfreeze", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=None if sys.platform == "win32" else heed_interrupts,
    )


def heed_interrupts() -> None:
    """A shell lets what it runs in the background ignore Ctrl-C, and so would what that starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_as_a_process_of_its_own(run: Path) -> None:
    before = contents(run.parent)
    process = python_m_unfreeze(*export(run / "model.ckpt-7"))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    [told] = err.splitlines()
    assert told.startswith(f"error: {run}/model.ckpt-7: no such checkpoint, folder or file")
    assert contents(run.parent) == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter there")
@pytest.mark.parametrize(
    ("number", "to_group", "code", "told"),
    [(signal.SIGINT, True, 130, ["interrupted"]), (signal.SIGTERM, False, 143, [])],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_while_writing(run: Path, number: signal.Signals, to_group: bool, code: int, told: list[str]) -> None:
    """What is written is there by then, and not yet in place: it is being verified."""
    before, target = contents(run.parent), run.parent / "new" / "out"
    process = python_m_unfreeze("export", run, "--output-directory", target)
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
    assert (process.returncode, out, err.splitlines()) == (code, "", told)
    assert contents(run.parent) == before
