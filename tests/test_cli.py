"""The command line: flags in every spelling, exit codes, one line for an error, and silence where it is due."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from unfreeze import __version__, cli, export_inference_graph, exporter_main_v2, verification
from unfreeze.cli import terminal
from unfreeze.cli.quiet_tensorflow import stderr_dropped
from unfreeze.errors import CheckpointError, UnfreezeError, VerificationError
from unfreeze.export_record import ExportRecord
from unfreeze.exporting import sources
from unfreeze.exporting.sources import find_source

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


class Recorder:
    """Stands for `unfreeze.export`: records its arguments, and raises `raises` if that is set."""

    def __init__(self) -> None:
        self.checkpoint: str | None = None
        self.options: dict[str, Any] = {}
        self.workers: Any = None
        self.raises: BaseException | None = None

    def export(
        self, checkpoint: str | None, *, workers: Any, on_progress: Any, on_warning: Any, **options: Any
    ) -> SimpleNamespace:
        find_source(
            checkpoint, options["trained_checkpoint_prefix"], options["trained_checkpoint_dir"], options["step"]
        )
        self.checkpoint, self.options, self.workers = checkpoint, options, workers
        on_progress("working")
        on_warning("odd but fine")
        if self.raises is not None:
            raise self.raises
        return SimpleNamespace(
            has_saved_model=True,
            saved_model=Path("out/saved_model"),
            record=ExportRecord(),
            report=None,
            dry_run=None,
            to_dict=lambda: {"step": 7},
        )


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    module = ModuleType("unfreeze.exporting.export")
    module.export = recorder.export  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unfreeze.exporting.export", module)
    monkeypatch.setattr(sources, "locate_checkpoint", lambda checkpoint, step: (Path(checkpoint), ()))
    monkeypatch.setattr(verification, "WorkerProcesses", lambda **_: nullcontext("worker processes"))
    monkeypatch.delenv("UNFREEZE_TRACEBACK", raising=False)
    return recorder


def exit_code(main: Any, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


def unfreeze(*arguments: str) -> int:
    return exit_code(cli.main, *arguments)


def tf1_script(*arguments: str) -> int:
    return exit_code(export_inference_graph.main, *arguments)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, lines
    return lines[0]


ALL_DEFAULTS = {
    "trained_checkpoint_prefix": None,
    "trained_checkpoint_dir": None,
    "pipeline_config_path": None,
    "output_directory": None,
    "input_types": (),
    "input_shape": None,
    "use_side_inputs": False,
    "side_input_shapes": None,
    "side_input_names": None,
    "side_input_types": None,
    "graph_inputs": {},
    "graph_outputs": {},
    "write_checkpoint": False,
    "write_inference_graph": False,
    "dry_run": False,
    "label_map": None,
    "step": None,
    "overwrite": False,
    "allow_unknown_fields": False,
    "config_override": "",
    "weights": "variables",
    "suppression": "kernel",
    "formats": ("saved_model",),
    "opset": None,
    "postprocessing": "full",
    "half": False,
    "int8": False,
    "int8_weights": False,
    "calibration_images": None,
    "calibration_count": None,
    "edgetpu": False,
    "annotations": None,
    "images": None,
    "max_map_loss": None,
    "kept_outputs": (),
    "score_threshold": None,
    "max_detections": None,
    "runtimes": (),
    "verify": True,
    "report_path": None,
}


def test_export_with_nothing_but_the_checkpoint(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert unfreeze("export", "run") == 0
    assert (recorder.checkpoint, recorder.options) == ("run", ALL_DEFAULTS)
    assert recorder.workers.func is verification.WorkerProcesses
    captured = capsys.readouterr()
    assert captured.out == f"not verified\nexported {Path('out/saved_model')}\n"
    assert captured.err == "warning: odd but fine\n"


@pytest.mark.parametrize("spelling", [str, lambda flag: flag.replace("-", "_").replace("__", "--", 1)])
def test_every_flag_with_dashes_or_underscores(recorder: Recorder, spelling: Any) -> None:
    values = {
        "--trained-checkpoint-prefix": "model.ckpt-7",
        "--pipeline-config-path": "p.config",
        "--output-directory": "out",
        "--input-type": "tf_example",
        "--input-shape": "-1,300,300,3",
        "--label-map": "map.pbtxt",
        "--step": "7",
        "--config-override": "model { }",
    }
    flags = [part for flag, value in values.items() for part in (spelling(flag), value)]
    assert unfreeze("export", *flags, "--overwrite", spelling("--allow-unknown-fields"), spelling("--no-verify")) == 0
    assert recorder.checkpoint is None
    assert recorder.options == ALL_DEFAULTS | {
        "trained_checkpoint_prefix": "model.ckpt-7",
        "pipeline_config_path": "p.config",
        "output_directory": "out",
        "input_types": ("tf_example",),
        "input_shape": (None, 300, 300, 3),
        "label_map": "map.pbtxt",
        "step": 7,
        "overwrite": True,
        "allow_unknown_fields": True,
        "config_override": "model { }",
        "verify": False,
    }


def test_input_type_may_be_repeated(recorder: Recorder) -> None:
    assert unfreeze("export", "run", "--input_type=tf_example", "--input-type", "image_tensor") == 0
    assert recorder.options["input_types"] == ("tf_example", "image_tensor")


@pytest.mark.parametrize(
    ("old", "new", "value", "option", "expected"),
    [
        ("--input", "--graph-input", "inputs=image_tensor:0", "graph_inputs", {"inputs": "image_tensor:0"}),
        ("--output", "--graph-output", "boxes=boxes:0", "graph_outputs", {"boxes": "boxes:0"}),
        ("--outputs", "--kept-outputs", "detection_masks", "kept_outputs", ("detection_masks",)),
    ],
)
def test_old_name_of_an_option_works_with_a_deprecation_line(
    recorder: Recorder, capsys: pytest.CaptureFixture[str], old: str, new: str, value: str, option: str, expected: Any
) -> None:
    assert unfreeze("export", "run", old, value) == 0
    assert recorder.options == ALL_DEFAULTS | {option: expected}
    line = f"deprecated: {old} is now {new}; the old name will stop working in the next version"
    assert capsys.readouterr().err.splitlines() == [line, "warning: odd but fine"]

    assert unfreeze("export", "run", new, value) == 0
    assert recorder.options == ALL_DEFAULTS | {option: expected}
    assert "deprecated" not in capsys.readouterr().err

    assert unfreeze("export", "run", old, value, new, value) == 2
    assert f"{old} is the old name of {new}: give only one" in capsys.readouterr().err
    assert unfreeze("export", "--help") == 0
    assert f"{old} " not in capsys.readouterr().out


def test_a_report(recorder: Recorder) -> None:
    assert unfreeze("export", "run", "--report", "report.html") == 0
    assert recorder.options["report_path"] == "report.html"


def test_the_tf2_scripts_flag(recorder: Recorder) -> None:
    assert unfreeze("export", "--trained_checkpoint_dir", "folder") == 0
    assert recorder.options["trained_checkpoint_dir"] == "folder"


def test_json_is_all_that_is_printed(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert unfreeze("export", "run", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"step": 7}


def test_quiet(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert unfreeze("export", "run", "--quiet") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export"], "pass the checkpoint once"),
        (["export", "run", "--trained_checkpoint_dir", "run"], "pass the checkpoint once"),
        (["export", "run", "--input-shape", "1,300"], "'1,300' must be four sizes"),
        (["export", "run", "--input-shape", "1,0,300,3"], "must be four sizes"),
        (["export", "run", "--input-shape", "small"], "'small' is not a list of sizes such as 1,300,300,3"),
        (["export", "run", "--labelmap", "x"], "No such option"),
        (["exprt"], "No such command 'exprt'"),
        (["verify", "no/such/folder"], f"{Path('no/such/folder')} does not exist"),
        (["predict", "no/such/folder", "image.png"], f"{Path('no/such/folder')} does not exist"),
        (["predict", "no/such/folder"], "Missing argument 'IMAGES...'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    recorder: Recorder, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert unfreeze(*arguments) == 2
    line = error_line(capsys)
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CheckpointError("run: no checkpoint here"), 2, "error: run: no checkpoint here"),
        (VerificationError("out: a check failed"), 1, "error: out: a check failed"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("by\nzero"), 70, "error: unexpected ZeroDivisionError: by (this is a fault of unfreeze"),
    ],
)
def test_an_error_is_one_line_with_its_exit_code(
    recorder: Recorder, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    recorder.raises = error
    assert unfreeze("export", "run") == code
    assert error_line(capsys).startswith(line)


def test_a_traceback_needs_a_flag(
    recorder: Recorder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.raises = ZeroDivisionError("by zero")
    unfreeze("export", "run")
    assert "Traceback" not in capsys.readouterr().err
    for arguments in (["--traceback", "export", "run"], ["export", "run", "--traceback"]):
        assert unfreeze(*arguments) == 70
        assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("UNFREEZE_TRACEBACK", "1")
    assert unfreeze("export", "run") == 70
    assert "Traceback" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert unfreeze() == 0
    assert re.search(r"inspect +Report what", capsys.readouterr().out)
    for command in ("export", "verify", "inspect", "predict", "demo"):
        assert unfreeze(command, "--help") == 0
        assert "Usage: unfreeze" in capsys.readouterr().out
    assert unfreeze("--version") == 0
    assert capsys.readouterr().out == f"unfreeze, version {__version__}\n"


# The Object Detection API's TF1 script.

TF1_FLAGS = ("--pipeline_config_path=p.config", "--trained_checkpoint_prefix=model.ckpt-7", "--output_directory=out")


def test_tf1_script_command_line(recorder: Recorder) -> None:
    assert tf1_script("--input_type", "image_tensor", *TF1_FLAGS) == 0
    assert recorder.options == {
        **ALL_DEFAULTS,
        "formats": ("saved_model", "frozen_graph"),
        "write_checkpoint": True,
        "trained_checkpoint_prefix": "model.ckpt-7",
        "pipeline_config_path": "p.config",
        "output_directory": "out",
        "input_types": ("image_tensor",),
    }


def test_tf1_script_other_spellings(recorder: Recorder) -> None:
    override = "model { faster_rcnn { second_stage_post_processing { } } }"
    flags = ["-input_type=tf_example", "-input_shape", "1,-1,-1,3", "--config_override", override]
    assert tf1_script(*flags, *TF1_FLAGS, "--nowrite_inference_graph", "--use_side_inputs=false") == 0
    assert recorder.options["input_types"] == ("tf_example",)
    assert recorder.options["input_shape"] == (1, None, None, 3)
    assert recorder.options["config_override"] == override


@pytest.mark.parametrize("switch", [["--use_side_inputs", "True"], ["--use_side_inputs"]])
def test_tf1_script_side_inputs(recorder: Recorder, switch: list[str]) -> None:
    flags = ["--side_input_shapes", "1,-1,2057/1", "--side_input_names=context_features,valid_context_size"]
    assert tf1_script(*switch, *flags, "--side_input_types", "float,int", *TF1_FLAGS) == 0
    assert recorder.options["use_side_inputs"]
    assert recorder.options["formats"] == ("saved_model",)
    assert recorder.options["side_input_shapes"] == "1,-1,2057/1"
    assert recorder.options["side_input_names"] == "context_features,valid_context_size"
    assert recorder.options["side_input_types"] == "float,int"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--additional_output_tensor_names=a,b"], "not supported yet: --additional_output_tensor_names"),
        (["--use_side_inputs", "False"], "unexpected argument 'False'"),
        (["--output_directory="], "--output_directory is missing"),
        (["--trained_checkpoint=x"], "Unknown command line flag 'trained_checkpoint'"),
        (["stray"], "unexpected argument 'stray'"),
        (["--write_inference_graph=perhaps"], "--write_inference_graph=perhaps"),
        (["--input_shape=1,2"], "must be four sizes"),
    ],
)
def test_flags_that_are_not_supported_are_rejected_by_name(
    recorder: Recorder, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert tf1_script(*TF1_FLAGS, *flags) == 2
    assert message in error_line(capsys)
    assert recorder.options == {}


def test_errors_of_the_export_name_the_flags_of_the_script(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.raises = UnfreezeError("--use-side-inputs needs --side-input-shapes")
    assert tf1_script(*TF1_FLAGS, "--use_side_inputs", "True") == 2
    assert error_line(capsys) == "error: --use_side_inputs needs --side_input_shapes"


def test_tf1_script_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert tf1_script("--help") == 0
    out = capsys.readouterr().out
    od_api_flags = {
        "input_type", "input_shape", "pipeline_config_path", "trained_checkpoint_prefix", "output_directory",
        "config_override", "write_inference_graph", "additional_output_tensor_names", "use_side_inputs",
        "side_input_shapes", "side_input_types", "side_input_names",
    }  # fmt: skip
    assert {flag for flag in od_api_flags if f"--{flag}:" in out} == od_api_flags


# The Object Detection API's TF2 script.

TF2_FLAGS = ("--pipeline_config_path", "p.config", "--trained_checkpoint_dir=run", "--output_directory", "out")


def test_tf2_script_command_line(recorder: Recorder) -> None:
    flags = ["--input_type", "float_image_tensor", "--config_override=model { ssd { } }"]
    assert exit_code(exporter_main_v2.main, *flags, *TF2_FLAGS) == 0
    assert recorder.options == {
        **ALL_DEFAULTS,
        "write_checkpoint": True,
        "trained_checkpoint_dir": "run",
        "pipeline_config_path": "p.config",
        "output_directory": "out",
        "input_types": ("float_image_tensor",),
        "config_override": "model { ssd { } }",
    }


def test_tf2_script_side_inputs(recorder: Recorder) -> None:
    flags = ["--side_input_shapes", "1,-1,2057/1", "--side_input_names=context_features,valid_context_size"]
    flags += ["--use_side_inputs", "True", "--side_input_types", "tf.float32,tf.int32"]
    assert exit_code(exporter_main_v2.main, *flags, *TF2_FLAGS) == 0
    assert recorder.options["use_side_inputs"]
    assert recorder.options["side_input_shapes"] == "1,-1,2057/1"
    assert recorder.options["side_input_names"] == "context_features,valid_context_size"
    assert recorder.options["side_input_types"] == "tf.float32,tf.int32"


def test_tf2_script_reports_missing_flags(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(exporter_main_v2.main, *TF2_FLAGS[:-2]) == 2
    assert error_line(capsys) == (
        "error: --output_directory is missing (see python -m unfreeze.exporter_main_v2 --help)"
    )
    assert exit_code(exporter_main_v2.main, *TF2_FLAGS, "--input_shape=1,2,2,3") == 2
    assert "Unknown command line flag 'input_shape'" in error_line(capsys)


def test_tf2_script_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(exporter_main_v2.main, "--help") == 0
    out = capsys.readouterr().out
    od_api_flags = {
        "input_type", "pipeline_config_path", "trained_checkpoint_dir", "output_directory", "config_override",
        "use_side_inputs", "side_input_shapes", "side_input_types", "side_input_names",
    }  # fmt: skip
    assert {flag for flag in od_api_flags if f"--{flag}:" in out} == od_api_flags


# The terminal.


def test_progress_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pty = pytest.importorskip("pty")
    monkeypatch.setenv("TERM", "xterm")
    with terminal.progress(quiet=False) as (step, warn):
        step("reading weights")
        warn("odd [bold]")
    assert capsys.readouterr().err == "warning: odd [bold]\n"
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as tty:
        monkeypatch.setattr(sys, "stderr", tty)
        with terminal.progress(quiet=False) as (step, warn):
            step("reading weights")
            warn("odd [bold]")
        shown = ""
        while not ("warning: odd [bold]" in shown and "reading weights" in shown):
            assert select.select([ours], [], [], 5)[0], shown  # a terminal hands on what it has bit by bit
            shown += os.read(ours, 65536).decode(errors="replace")
    os.close(ours)


@pytest.mark.skipif(os.name == "nt", reason="signals are another matter there")
@pytest.mark.parametrize(
    ("name", "code", "message"), [("SIGINT", 130, "interrupted\n"), ("SIGTERM", 143, ""), ("SIGHUP", 129, "")]
)
@pytest.mark.parametrize("swallowed", [False, True], ids=["raised at once", "dropped by a library"])
def test_a_signal_ends_the_work(
    swallowed: bool,
    name: str,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    number = getattr(signal, name)
    default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    inherited = signal.signal(number, default)
    request.addfinalizer(
        lambda: signal.signal(number, inherited)
    )  # under `nohup` SIGHUP is ignored, in the background SIGINT
    before, done = signal.getsignal(number), []

    def work() -> None:
        with terminal.progress(quiet=True) as (step, _):
            step("first")
            try:
                signal.raise_signal(number)
            except BaseException:  # as C++ code does that asks Python for a type and takes any error for "no"
                if not swallowed:
                    raise
            done.append("the rest of the first")
            step("second")
            done.append("second")

    assert exit_code(lambda arguments: terminal.run_and_exit(work, arguments)) == code
    assert done == (["the rest of the first"] if swallowed else [])
    assert capsys.readouterr().err == message
    assert signal.getsignal(number) is before


@stderr_dropped()
def write_and_raise(error: BaseException) -> None:
    os.write(2, f"the reason of {type(error).__name__}\n".encode())
    raise error


def test_output_of_libraries_is_dropped_unless_the_import_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with stderr_dropped():
        os.write(2, b"noise\n")
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(KeyboardInterrupt())
    with pytest.raises(ImportError):
        write_and_raise(ImportError())
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "the reason of ImportError\nafter\n"


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**inherited, **environment}
    )


def test_tensorflow_is_silent_unless_the_user_chose_its_log_level() -> None:
    program = """
import os
from unfreeze.cli.quiet_tensorflow import import_tensorflow_quietly
import_tensorflow_quietly()
import sys
import urllib.request
sys.modules["tensorflow"].ones(3)
print(os.environ["TF_CPP_MIN_LOG_LEVEL"], "h5py" in sys.modules)
"""
    quiet = python(program)
    assert (quiet.stdout, quiet.stderr) == ("2 False\n", "")
    loud = python(program, TF_CPP_MIN_LOG_LEVEL="0")
    assert loud.stdout == "0 False\n"
    assert loud.stderr


def test_export_does_not_import_pillow() -> None:
    program = """
import sys
from unfreeze.cli.quiet_tensorflow import import_tensorflow_quietly
import_tensorflow_quietly()
import unfreeze.exporting.from_checkpoint, unfreeze.exporting.from_frozen_graph
print([name for name in sys.modules if name == "PIL" or name.startswith("unfreeze.images")])
"""
    assert python(program).stdout == "[]\n"


@pytest.mark.skipif(sys.platform != "linux", reason="copies of a process are made on Linux only")
def test_an_export_imports_tensorflow_once(tmp_path: Path) -> None:
    program = f"""
from unfreeze.verification import WorkerProcesses
from unfreeze.cli.quiet_tensorflow import import_tensorflow_quietly
import_tensorflow_quietly()
with WorkerProcesses(unused_tensorflow=True) as workers:
    from unfreeze.exporting.export import export
    report = export({str(DIGITS / "run")!r}, output_directory={str(tmp_path / "out")!r}, workers=workers).report
    print([check.name for check in report.checks if check.status != "passed"])
    copies = [workers.tf1, workers.tf2]
    print([type(worker._process).__name__ for worker in [*copies, workers.c_api]])
print([worker._process.poll() for worker in copies])
"""
    assert python(program).stdout.splitlines() == [
        "['against']",
        "['ForkedProcess', 'ForkedProcess', 'Popen']",
        "[-9, -9]",
    ]


def test_a_closed_pipe_is_no_error() -> None:
    done = python(
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-m', 'unfreeze', 'export', '--help'],"
        " stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "p.stdout.close()\n"
        "print(p.stderr.read(), p.wait())"
    )
    assert done.stdout == "b'' 0\n"


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unfreeze", "demo", str(DIGITS), "--output-directory", str(tmp_path / "demo")]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("warning: ")] == []
    drawn = sorted((tmp_path / "demo" / "images").glob("*.png"))
    assert len(drawn) == len(list((DIGITS / "scenes").glob("*.png")))
    predictions = json.loads((tmp_path / "demo" / "detections.json").read_text())
    assert sum(len(prediction["detections"]) for prediction in predictions) >= 12
    assert (tmp_path / "demo" / "exported" / "saved_model" / "variables" / "variables.index").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "exists already: give --overwrite" in again.stderr


@pytest.mark.slow
def test_the_demo_ends_with_a_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unfreeze", "demo", str(DIGITS), "--serve", "--output-directory", str(tmp_path)]
    with subprocess.Popen([*command, "--overwrite"], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            address = next(line.split()[1] for line in running.stdout if line.startswith("page:"))
            request = urllib.request.Request(address, headers={"Accept": "text/html"})
            with urllib.request.urlopen(request, timeout=60) as response:
                assert b"page/page.js" in response.read()
            with urllib.request.urlopen(f"{address}page/card?model=digits", timeout=60) as response:
                card = json.load(response)
            assert card["class_names"]["8"] == "seven"
            assert card["export"]["verified"]
        finally:
            running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0
