"""The command `unfreeze`: one short function a verb, its imports inside, so that `--help` answers at once."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from unfreeze.cli.terminal import counting, import_tensorflow_quietly, leave, log_to_stderr, progress
from unfreeze.onednn import enable_for_command
from unfreeze.version import __version__

if TYPE_CHECKING:
    from unfreeze.exporting.record import Exported
    from unfreeze.verification import Report

PATH = click.Path()  # whether it exists is told by the verb, which knows what was meant


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Carry out a command line (default: the process's own) and end the process with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    leave(lambda: dispatch(given), given)


def dispatch(arguments: list[str]) -> int | None:
    """The exit code of one command line. Click's own `main` would print an empty line at Ctrl-C."""
    try:
        with unfreeze.make_context("unfreeze", list(arguments)) as context:
            return unfreeze.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        told = getattr(error, "ctx", None)
        click.echo(f"error: {error.format_message()}{f' (see {told.command_path} --help)' if told else ''}", err=True)
        return error.exit_code


def with_dashes(flag: str) -> str:
    """The original scripts write `--input_type`; both spellings are taken."""
    return flag.replace("_", "-")


class InputShape(click.ParamType):
    """`1,300,300,3`, where -1 leaves a dimension open -> (1, 300, 300, 3), with None for -1."""

    name = "N,H,W,C"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | None, ...]:
        try:
            sizes = [int(size) for size in value.strip("[]()").split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of sizes such as 1,300,300,3 or -1,-1,-1,3", param, ctx)
        if len(sizes) != 4 or any(size < 1 and size != -1 for size in sizes):
            self.fail(f"{value!r} must be four sizes (images, height, width, channels), each above 0 or -1", param, ctx)
        return tuple(None if size == -1 else size for size in sizes)


class NamedTensor(click.ParamType):
    """`NAME=TENSOR` -> (NAME, TENSOR)."""

    name = "NAME=TENSOR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, equals, tensor = value.partition("=")
        if not (name.isidentifier() and equals and tensor):
            self.fail(f"{value!r} is not NAME=TENSOR, such as inputs=image_tensor:0", param, ctx)
        return name, tensor


NAMED = NamedTensor()


class Names(click.ParamType):
    """`detection_masks,detection_keypoints` -> a tuple of them."""

    name = "NAME,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(name.strip() for name in value.split(",") if name.strip())


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": with_dashes},
)
@click.version_option(__version__, prog_name="unfreeze")
@click.option("--traceback", is_flag=True, expose_value=False, help="With an error, show where in the program it was.")
@click.pass_context
def unfreeze(context: click.Context) -> None:
    """From a trained TensorFlow detection checkpoint to an unfrozen, verified, servable SavedModel."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def verb(function: Callable[..., int | None]) -> click.Command:
    """A verb of the command, with the flag that every verb takes."""
    traceback = click.option("--traceback", is_flag=True, expose_value=False, hidden=True)
    return unfreeze.command()(traceback(function))


as_json = click.option("--json", "as_json", is_flag=True, help="Write the result to stdout as JSON.")
quiet = click.option("--quiet", "-q", is_flag=True, help="Print nothing but warnings and errors.")
meant_for = click.option(
    "--for",
    "runtimes",
    multiple=True,
    metavar="RUNTIME",
    help="Refuse what this server does not know: tensorflow-serving:2.6, kserve, sagemaker:2.19 (repeatable).",
)
report = click.option(
    "--report", "report_path", type=PATH, metavar="FILE.html", help="Write all that was proved as one HTML file."
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace what is there already.")


def show(result: Any, told: str, as_json: bool, quiet: bool) -> None:
    """The result of a verb on stdout: as JSON, as text, or not at all."""
    if as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    elif told and not quiet:
        click.echo(told)


def table(report: "Report") -> str:
    """The report of a verification, as wide as the terminal."""
    return report.table(width=max(80, shutil.get_terminal_size((110, 0)).columns), color=sys.stdout.isatty())


@verb
@click.argument("checkpoint", type=PATH, required=False)
@click.option(
    "--trained-checkpoint-prefix",
    type=PATH,
    help="Instead of the argument, as in the TF1 script. Beside a frozen graph: take the weights from there.",
)
@click.option("--trained-checkpoint-dir", type=PATH, help="Instead of the argument, as in the TF2 script.")
@click.option("--pipeline-config-path", type=PATH, help="Default: pipeline.config beside the checkpoint or one above.")
@click.option("--output-directory", type=PATH, help="Where it is written (default: exported-STEP).")
@click.option(
    "--input-type",
    "input_types",
    multiple=True,
    metavar="TYPE",
    help="What serving_default takes: image_tensor (default), float_image_tensor, encoded_image_string_tensor or "
    "tf_example; of a DeepMAC also image_and_boxes_tensor. The others are written too, by name; give the flag again "
    "to keep just those you name.",
)
@click.option("--input-shape", type=InputShape(), help="Fix the shape of image_tensor; -1 leaves a dimension open.")
@click.option(
    "--use-side-inputs", is_flag=True, help="Shape what a Context R-CNN takes besides pictures (default: any)."
)
@click.option("--side-input-shapes", metavar="SHAPES", help="Shapes with / between them, as in 1,2000,2057/1.")
@click.option("--side-input-names", metavar="NAMES", help="As in context_features,valid_context_size.")
@click.option("--side-input-types", metavar="TYPES", help="As in float,int.")
@click.option("--label-map", type=PATH, help="A label map (.pbtxt) to carry along, for class names.")
@click.option("--step", type=int, help="The checkpoint of this step instead of the newest.")
@click.option("--config-override", default="", metavar="TEXT", help="Text of a pipeline.config, merged over the file.")
@click.option("--allow-unknown-fields", is_flag=True, help="Warn of unknown fields in pipeline.config, and go on.")
@click.option(
    "--input", "inputs", multiple=True, type=NAMED, help="Of a frozen graph: where it takes what (repeatable)."
)
@click.option("--output", "outputs", multiple=True, type=NAMED, help="Of a frozen graph: what it gives (repeatable).")
@click.option("--write-checkpoint", is_flag=True, help="Of a frozen graph: write a TensorFlow 1 checkpoint too.")
@click.option("--dry-run", is_flag=True, help="Of a frozen graph: tell what becomes a variable and why; write nothing.")
@click.option(
    "--outputs",
    "kept_outputs",
    type=Names(),
    default="",
    help="The outputs to keep, besides boxes, scores, classes and their number. Default: all.",
)
@click.option("--score-threshold", type=click.FloatRange(0, 1), help="Leave out what scores less, in the graph.")
@click.option("--max-detections", type=click.IntRange(1), metavar="D", help="Answer no more rows than this.")
@click.option(
    "--weights",
    type=click.Choice(["variables", "constants", "trainable"]),
    default="variables",
    help="How the weights reach the network. variables (default): batch normalization is folded once, at load; "
    "constants: everything is in the graph and variables/ is empty, for tools that take nothing else; trainable: "
    "gradients and assignments reach every variable, and batch normalization is folded at each call.",
)
@click.option(
    "--suppression",
    type=click.Choice(["kernel", "operations"]),
    default="kernel",
    help="The form of non-maximum suppression. kernel (default): TensorFlow's own operation, the fastest; operations: "
    "plain tensor operations, for converters that do not know it. The detections are the same.",
)
@meant_for
@overwrite
@click.option("--verify/--no-verify", "verify", default=True, help="Prove the result before it is in place (default).")
@report
@as_json
@quiet
def export(
    checkpoint: str | None,
    inputs: Sequence[tuple[str, str]],
    outputs: Sequence[tuple[str, str]],
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Write CHECKPOINT (a prefix, or a training folder) as an unfrozen SavedModel, and prove it.

    CHECKPOINT may be a frozen graph (.pb) or a frozen SavedModel as well: its weights become variables again.
    """
    from unfreeze.exporting.sources import find_source
    from unfreeze.verification import WorkerProcesses

    # A wrong path is reported before TensorFlow takes its seconds.
    find_source(checkpoint, options["trained_checkpoint_prefix"], options["trained_checkpoint_dir"], options["step"])
    with progress(quiet) as (on_progress, on_warning):
        import_tensorflow_quietly()
        from unfreeze.exporting.export import export

        exported = export(
            checkpoint,
            graph_inputs=dict(inputs),
            graph_outputs=dict(outputs),
            **options,
            workers=partial(WorkerProcesses, unused_tensorflow=True),
            on_progress=on_progress,
            on_warning=on_warning,
        )
    show_exported(exported, as_json, quiet)


def show_exported(exported: "Exported", as_json: bool, quiet: bool) -> None:
    if exported.dry_run is not None:
        show(exported.to_dict(), str(exported.dry_run), as_json, quiet)
        return
    proved = f"{table(exported.report)}\n" if exported.report else "not verified\n"
    from unfreeze.weights.bindings import BINDING_DESCRIPTIONS

    binding = exported.to_dict().get("binding")
    weights = f"\nits weights are {BINDING_DESCRIPTIONS[binding]}" if binding in BINDING_DESCRIPTIONS else ""
    show(exported.to_dict(), f"{proved}exported {exported.saved_model}{weights}", as_json, quiet)


@verb
@click.argument("saved_model", type=click.Path(exists=True))
@click.option("--against", type=PATH, help="A frozen graph, a SavedModel or a checkpoint that must answer the same.")
@click.option("--image", "images", type=PATH, multiple=True, help="A picture to compare the answers on (repeatable).")
@click.option("--label-map", type=PATH, help="With a CenterNet checkpoint: has its keypoints, if its own is elsewhere.")
@report
@overwrite
@as_json
@quiet
def verify(saved_model: str, as_json: bool, quiet: bool, **options: Any) -> int:
    """Prove a SavedModel: load it afresh, run it, compare it. Exit code 1 when a check fails."""
    with progress(quiet) as (on_progress, _):
        if options["against"]:  # else only the processes which it starts need TensorFlow
            import_tensorflow_quietly()
        from unfreeze.comparison.verify import verify

        report = verify(saved_model, **options, on_progress=on_progress)
    show(report.to_dict(), table(report), as_json, quiet)
    return 0 if report.passed else 1


@verb
@click.argument("path", type=PATH)
@as_json
def inspect(path: str, as_json: bool) -> None:
    """Tell what a file or folder is, and what is wrong with it, without running it."""
    with progress(quiet=as_json) as (on_progress, _):
        on_progress(f"reading {path}")
        import_tensorflow_quietly()
        from unfreeze.inspection.inspect import inspect

        found = inspect(path)
    show(found.to_dict(), str(found), as_json, quiet=False)


@verb
@click.argument("model", type=PATH)
@click.argument("annotations", type=PATH)
@click.option("--against", type=PATH, help="Another SavedModel, or a frozen graph, to be scored on the same pictures.")
@click.option("--images", type=PATH, help="The folder of the JSON's pictures. Default: the JSON's own folder.")
@click.option("--label-map", type=PATH, help="Class names (.pbtxt). Default: the one in the SavedModel's assets/.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Pictures of one size at once."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N pictures.")
@as_json
@quiet
def evaluate(model: str, annotations: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """COCO mAP of MODEL on ANNOTATIONS: COCO's JSON, or the TFRecords of the training (a file or a quoted pattern)."""
    with progress(quiet) as (on_progress, _):
        enable_for_command()
        import_tensorflow_quietly()
        from unfreeze.evaluation.evaluate import evaluate

        found = evaluate(model, annotations, **options, on_progress=on_progress)
    show(found.to_dict(), str(found), as_json, quiet)


@verb
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@click.option("--exit-code", is_flag=True, help="Exit with 1 when something differs.")
@as_json
def diff(old: str, new: str, exit_code: bool, as_json: bool) -> int:
    """Tell what differs from OLD to NEW: checkpoints, SavedModels or frozen graphs, of one kind or of two."""
    with progress(quiet=as_json) as (on_progress, _):
        import_tensorflow_quietly()
        from unfreeze.comparison.diff import diff

        found = diff(old, new, on_progress=on_progress)
    show(found.to_dict(), str(found), as_json, quiet=False)
    return int(exit_code and not found.same)


# What `predict` takes for many pictures only.
OF_MANY = (
    "formats", "annotations", "batch_size", "video_step",
    "engine", "address", "actors", "cpus_per_actor", "gpus_per_actor",
)  # fmt: skip


@verb
@click.argument("saved_model", type=PATH)
@click.argument("images", type=PATH, nargs=-1)
@click.option("--endpoint", metavar="NAME", help="A SageMaker endpoint instead of SAVED_MODEL: sagemaker://NAME.")
@click.option("--label-map", type=PATH, help="Class names (.pbtxt). Default: the one in the SavedModel's assets/.")
@click.option(
    "--output-directory", type=PATH, help="Where results go. Default: beside each picture; of many, predictions/."
)
@click.option("--min-score", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Show no less.")
@click.option("--draw/--no-draw", default=True, help="Write pictures with boxes, names and scores (default).")
@click.option("--magnify", type=click.IntRange(1, 16), default=1, metavar="N", help="Draw on a picture N times larger.")
@click.option(
    "--format",
    "formats",
    type=Names(),
    metavar="NAME,…",
    help="Of many: jsonl (default), parquet, coco (results JSON), drawn, or all of them.",
)
@click.option("--annotations", type=PATH, help="Of many: COCO's JSON with the ids that COCO results shall have.")
@click.option(
    "--batch-size", type=click.IntRange(1), help="Of many: pictures of one size at once (default: 2, GPU 16)."
)
@click.option("--video-step", type=click.IntRange(1), metavar="N", help="Of a video: every N-th frame (default: 1).")
@click.option(
    "--engine", type=click.Choice(["threads", "ray"]), help="Of many: this process (default), or workers of Ray."
)
@click.option("--address", help="Of a Ray cluster (HOST:6379, auto). Default: one on this machine.")
@click.option("--actors", type=click.IntRange(1), help="Workers of Ray that hold the model (default: as many as fit).")
@click.option("--cpus-per-actor", type=click.IntRange(1), help="Processors of each of them (default: 2).")
@click.option("--gpus-per-actor", type=click.FloatRange(0), help="GPUs of each of them (default: none).")
@overwrite
@as_json
@quiet
def predict(
    saved_model: str, images: tuple[str, ...], endpoint: str | None, as_json: bool, quiet: bool, **options: Any
) -> int:
    """Run SAVED_MODEL on pictures: boxes drawn on them, and JSON. A bad picture does not stop the others.

    SAVED_MODEL is a folder, or a server: http://HOST:8501/v1/models/NAME, grpc://HOST:8500/NAME, sagemaker://ENDPOINT.

    Many pictures are IMAGES too: a folder, a quoted pattern, a list (.txt, or - for stdin), a URL such as
    s3://BUCKET/FOLDER, a video. Their results are files in --output-directory, beginning with predictions.jsonl.
    Killed, and given again, it goes on where it was. With --engine ray it runs over a cluster.

    Exit code 2: some pictures could not be read; all others are done.
    """
    if endpoint:
        saved_model, images = f"sagemaker://{endpoint.removeprefix('sagemaker://')}", (saved_model, *images)
    elif not images:
        raise click.UsageError("Missing argument 'IMAGES...'.")
    from unfreeze.model_paths import saved_model_folder

    if "://" not in saved_model:
        saved_model_folder(saved_model)  # a wrong path is told before TensorFlow takes its seconds
    of_many = {name: options.pop(name) for name in OF_MANY}
    if any(of_many.values()) or is_image_collection(images):
        return predict_many(saved_model, images, as_json, quiet, {**options, **of_many})
    failures: list[dict[str, str]] = []

    def on_failure(image: str, error: Exception) -> None:
        failures.append({"image": image, "error": str(error)})
        click.echo(f"error: {error}", err=True)

    with progress(quiet) as (on_progress, _):
        enable_for_command()
        import_tensorflow_quietly()
        from unfreeze.prediction.predict import predict

        done = predict(saved_model, images, **options, on_progress=on_progress, on_failure=on_failure)
    result = {"predictions": [prediction.to_dict() for prediction in done], "failures": failures}
    show(result, "\n".join(str(prediction) for prediction in done), as_json, quiet)
    return 2 if failures else 0


def is_image_collection(images: tuple[str, ...]) -> bool:
    """Whether an input is anything but the path of one picture."""
    from unfreeze.images import is_image_collection

    return any(map(is_image_collection, images))


def predict_many(model: str, images: tuple[str, ...], as_json: bool, quiet: bool, options: dict[str, Any]) -> int:
    """`predict` of folders, patterns, lists, URLs and videos."""
    draw = options.pop("draw")
    given = click.get_current_context().get_parameter_source("draw") is ParameterSource.COMMANDLINE
    formats = options.pop("formats") or ("jsonl",)
    options["formats"] = (*formats, *(["drawn"] if draw and given else []))
    options = {name: value for name, value in options.items() if value is not None}
    with counting(quiet) as (on_progress, on_warning, on_advance):
        enable_for_command()
        import_tensorflow_quietly()
        from unfreeze.prediction.predict_many import predict_many

        done = predict_many(
            model, images, **options, on_progress=on_progress, on_warning=on_warning, on_advance=on_advance
        )
    show(done.to_dict(), str(done), as_json, quiet)
    return 2 if done.failures else 0


class Switch(click.Option):
    """`--flag`, `--flag=true` and `--flag=false`, as tensorflow_model_server takes its boolean flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "type": bool, "metavar": "[=true|false]"})


class WithSwitches(click.Command):
    """A command whose Switch options need no value; the word after one is not taken for it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        switches = {name for option in self.params if isinstance(option, Switch) for name in option.opts}
        written = [f"{arg}=true" if with_dashes(arg) in switches else arg for arg in args]
        return super().parse_args(ctx, written)


PORT = click.IntRange(0, 65535)
SAGEMAKER_FLAGS = {
    "host", "sagemaker", "sagemaker_port", "model_base_path", "model_base_path_flag", "quiet", "enable_model_warmup",
    "rest_api_timeout_in_ms", "max_queued_requests", "max_request_bytes", "max_image_pixels",
}  # fmt: skip


def for_sagemaker(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """The options that --sagemaker takes; the archive and the container's variables say the rest.

    Raises: click.UsageError for another one that was given.
    """
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    strange = [f"--{name.replace('_', '-')}" for name in given if name not in SAGEMAKER_FLAGS]
    if strange:
        raise click.UsageError(f"{', '.join(strange)}: not with --sagemaker, where the archive says what is served")
    return {name: value for name, value in options.items() if name in SAGEMAKER_FLAGS}


@unfreeze.command(cls=WithSwitches)
@click.argument("model_base_path", type=PATH, required=False)
@click.option("--model-base-path", "model_base_path_flag", type=PATH, help="Instead of the argument.")
@click.option("--model-name", default="default", show_default=True, help="The name in requests.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
@click.option("--port", type=PORT, default=8500, show_default=True, help="Of gRPC; 0 for none.")
@click.option("--rest-api-port", type=PORT, default=8501, show_default=True, help="Of REST; 0 for none.")
@click.option("--rest-api-timeout-in-ms", type=click.IntRange(1), default=30_000, show_default=True, help="Deadline.")
@click.option("--model-config-file", type=PATH, help="A ModelServerConfig: several models, policies, labels.")
@click.option(
    "--model-config-file-poll-wait-seconds", type=float, default=0, show_default=True, help="Read it again; 0: never."
)
@click.option(
    "--file-system-poll-wait-seconds", type=float, default=1, show_default=True, help="Look for versions; 0: just once."
)
@click.option("--max-num-load-retries", type=click.IntRange(0), default=5, show_default=True, help="Of a version.")
@click.option("--load-retry-interval-micros", type=click.IntRange(0), default=60_000_000, show_default=True)
@click.option(
    "--enable-model-warmup", cls=Switch, default=True, show_default=True, help="Replay what a version brings."
)
@click.option(
    "--allow-version-labels-for-unavailable-models", cls=Switch, default=False, help="Take labels before their version."
)
@click.option("--enable-batching", cls=Switch, default=False, help="Answer several requests with one call.")
@click.option("--batching-parameters-file", type=PATH, help="BatchingParameters.")
@click.option(
    "--monitoring-config-file", type=PATH, help="MonitoringConfig: where Prometheus finds its page, if at all."
)
@click.option(
    "--max-queued-requests", type=click.IntRange(1), default=64, show_default=True, help="More are refused with 429."
)
@click.option(
    "--max-request-bytes",
    type=click.IntRange(1),
    default=64 * 2**20,
    show_default=True,
    help="More is refused with 413.",
)
@click.option(
    "--max-image-pixels", type=click.IntRange(1), default=64_000_000, show_default=True, help="Of an encoded picture."
)
@click.option(
    "--sagemaker",
    cls=Switch,
    default=False,
    help="Answer /ping and /invocations from a model.tar.gz, with its inference.py.",
)
@click.option("--sagemaker-port", type=PORT, default=8080, show_default=True, envvar="SAGEMAKER_BIND_TO_PORT")
@quiet
def serve(
    model_base_path: str | None,
    model_base_path_flag: str | None,
    port: int,
    rest_api_port: int,
    sagemaker: bool,
    sagemaker_port: int,
    quiet: bool,
    **options: Any,
) -> None:
    """Answer TensorFlow Serving's REST and gRPC from MODEL_BASE_PATH (numbered versions), until SIGTERM or Ctrl-C.

    The flags are tensorflow_model_server's, with dashes or underscores.
    """
    if model_base_path and model_base_path_flag:
        raise click.UsageError("give the base path once: as an argument or --model-base-path")
    if not sagemaker and not port and not rest_api_port:
        raise click.UsageError("--port and --rest-api-port are both 0: there is nothing to serve on")
    if port and port == rest_api_port:
        raise click.UsageError(f"--rest-api-port cannot be the same as --port; received {port} for both")
    base_path = model_base_path or model_base_path_flag
    if sagemaker:
        if not base_path:
            raise click.UsageError("--sagemaker needs a model.tar.gz, or a folder unpacked from one")
        options = for_sagemaker(click.get_current_context(), options)
    else:
        options |= {"port": port or None, "rest_api_port": rest_api_port or None}
    with progress(quiet) as (on_progress, on_warning):
        on_progress("loading")
        enable_for_command()
        import_tensorflow_quietly()
        from unfreeze.server.serve import addresses, start_sagemaker, start_server, until_asked_to_end

        running: Any
        if sagemaker:
            running = start_sagemaker(base_path or "", port=sagemaker_port, on_warning=on_warning, **options)
        else:
            running = start_server(base_path, **options)
    if not quiet:
        click.echo(addresses(running))
        log_to_stderr("unfreeze.server")
    until_asked_to_end(running)


@verb
@click.argument("saved_model", type=PATH)
@click.argument("model_base_path", type=PATH)
@click.option("--version", type=int, help="Its number. Default: one above the highest that is there.")
@click.option("--label", "labels", multiple=True, help="A name that clients may ask for; it moves here (repeatable).")
@meant_for
@click.option("--verify/--no-verify", "verify", default=True, help="Prove the copy before it is in place (default).")
@as_json
@quiet
def publish(saved_model: str, model_base_path: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Put SAVED_MODEL in place as the next version in MODEL_BASE_PATH (a folder, s3://…, gs://…), all or nothing."""
    with progress(quiet) as (on_progress, on_warning):
        from unfreeze.model_paths import saved_model_folder

        folder = saved_model_folder(saved_model)  # a wrong path is told before TensorFlow takes its seconds
        import_tensorflow_quietly()
        from unfreeze.publishing.publish import publish

        done = publish(folder, model_base_path, **options, on_progress=on_progress, on_warning=on_warning)
    show(done.to_dict(), str(done), as_json, quiet)


@verb
@click.argument("model_base_path", type=PATH)
@click.option("--to", type=int, metavar="VERSION", help="Whose content is served again. Default: the one before.")
@as_json
@quiet
def rollback(model_base_path: str, to: int | None, as_json: bool, quiet: bool) -> None:
    """Serve an older version's content again, as a new version; labels of the newest move along."""
    with progress(quiet) as (on_progress, _):
        import_tensorflow_quietly()
        from unfreeze.publishing.rollback import rollback

        done = rollback(model_base_path, to=to, on_progress=on_progress)
    show(done.to_dict(), str(done), as_json, quiet)


@verb
@click.argument("model_base_path", type=PATH)
@click.option("--keep", type=click.IntRange(1), required=True, metavar="N", help="How many of the newest stay.")
@as_json
@quiet
def prune(model_base_path: str, keep: int, as_json: bool, quiet: bool) -> None:
    """Remove old versions; the newest and those with a label stay."""
    from unfreeze.publishing.prune import prune

    gone = prune(model_base_path, keep=keep)
    show({"removed": gone}, f"removed {', '.join(map(str, gone)) or 'none'}", as_json, quiet)


@verb
@click.argument("model_base_path", type=PATH)
@click.argument("assignments", nargs=-1, metavar="[LABEL=VERSION]...")
@click.option("--remove", multiple=True, metavar="LABEL", help="Take a label away (repeatable).")
@as_json
def labels(model_base_path: str, assignments: tuple[str, ...], remove: tuple[str, ...], as_json: bool) -> None:
    """Show or move the labels by which clients ask for versions."""
    from unfreeze.publishing.labels import labels

    pairs = [assignment.partition("=")[::2] for assignment in assignments]
    wrong = [name for name, version in pairs if not version.isdecimal()]
    if wrong:
        raise click.UsageError(f"{wrong[0]!r} is not LABEL=VERSION, such as stable=3")
    now = labels(model_base_path, {name: int(version) for name, version in pairs}, remove=remove)
    show(now, "\n".join(f"{name}={version}" for name, version in sorted(now.items())) or "no label", as_json, False)


@verb
@click.argument("training_folder", type=PATH)
@click.argument("model_base_path", type=PATH)
@click.option("--keep", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Versions that stay.")
@click.option("--interval", "interval_s", type=click.FloatRange(0.1), default=30, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Publish what is there, and end; exit code 1 when one failed.")
@click.option("--label", "labels", multiple=True, help="A name that moves to each new version (repeatable).")
@click.option("--pipeline-config-path", type=PATH, help="Default: pipeline.config in the folder or one above.")
@click.option("--input-type", "input_types", multiple=True, metavar="TYPE", help="As for export.")
@click.option("--label-map", type=PATH, help="As for export.")
@meant_for
@quiet
def watch(training_folder: str, model_base_path: str, quiet: bool, **options: Any) -> int:
    """Publish each new checkpoint of TRAINING_FOLDER in MODEL_BASE_PATH: exported, verified, all or nothing."""
    failures: list[str] = []

    def on_failure(prefix: Any, error: Exception) -> None:
        failures.append(str(prefix))
        click.echo(f"error: {prefix.name} is skipped: {error}", err=True)

    def on_published(published: Any, step: int) -> None:
        show(None, f"step {step}: {published}", as_json=False, quiet=quiet)
        sys.stdout.flush()  # a log is read while this goes on

    with progress(quiet) as (on_progress, on_warning):
        import_tensorflow_quietly()
        from unfreeze.publishing.watch import watch

        watch(
            training_folder,
            model_base_path,
            on_published=on_published,
            on_failure=on_failure,
            on_progress=on_progress,
            on_warning=on_warning,
            **options,
        )
    return 1 if failures else 0


@unfreeze.group()
@click.option("--traceback", is_flag=True, expose_value=False, hidden=True)
def package() -> None:
    """Everything that a place where a model serves wants: tensorflow-serving, kserve or sagemaker."""


def package_for(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """A target of `package`, with the arguments and flags that all of them take."""

    def decorate(function: Callable[..., None]) -> click.Command:
        for option in (
            quiet,
            as_json,
            overwrite,
            click.option("--traceback", is_flag=True, expose_value=False, hidden=True),
            click.option("--for", "server", default=name, metavar="RUNTIME", help=f"Its version, such as {name}:2.18."),
            click.option("--name", default="detector", show_default=True, help="Of the model, where it serves."),
            click.option("--output-directory", type=PATH, default=name, show_default=True, help="Where it is written."),
            click.argument("saved_model", type=PATH),
        ):
            function = option(function)
        return package.command(name)(function)

    return decorate


def packaged(function: str, saved_model: str, as_json: bool, quiet: bool, options: dict[str, Any]) -> None:
    """Carry out `package` by this function of its module."""
    with progress(quiet) as (on_progress, _):
        from unfreeze.model_paths import saved_model_folder

        folder = saved_model_folder(saved_model)  # a wrong path is told before TensorFlow takes its seconds
        on_progress(f"reading {folder}")
        import_tensorflow_quietly()
        from unfreeze.targets import package

        done = getattr(package, function)(folder, **options)
    show(done.to_dict(), str(done), as_json, quiet)


cpus = click.option("--cpus", type=click.IntRange(1), default=2, show_default=True, help="Of each server.")
memory = click.option("--memory", default="4Gi", show_default=True, help="Of each server, as Kubernetes writes it.")
version_number = click.option("--version", type=int, default=1, show_default=True, help="The model's version number.")


@package_for("tensorflow-serving")
@version_number
@cpus
@memory
@click.option("--batching/--no-batching", default=None, help="Join requests. Default: where their sizes always fit.")
def package_tensorflow_serving(saved_model: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """The model, TensorFlow Serving's config files, compose.yaml and kubernetes.yaml."""
    packaged("package_tensorflow_serving", saved_model, as_json, quiet, options)


@package_for("kserve")
@click.option("--storage-uri", default="", help="Where the versions are, such as s3://bucket/models/NAME.")
@cpus
@memory
def package_kserve(saved_model: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """An InferenceService, in inference-service.yaml."""
    packaged("package_kserve", saved_model, as_json, quiet, options)


@package_for("sagemaker")
@version_number
@click.option("--label-map", type=PATH, help="Class names (.pbtxt). Default: the one in the SavedModel's assets/.")
@click.option("--min-score", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Answer no less.")
@click.option("--region", default="us-east-1", show_default=True, help="Of AWS: its image is named.")
@click.option("--role", help="ARN of the role that SageMaker assumes; may be given to deploy.py instead.")
@click.option("--bucket", help="S3 bucket; may be given to deploy.py instead.")
@click.option("--instance-type", default="ml.m5.xlarge", show_default=True)
def package_sagemaker(saved_model: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """model.tar.gz, the documents of its interface, and deploy.py, which uploads and deploys them."""
    packaged("package_sagemaker", saved_model, as_json, quiet, options)


@verb
@click.argument("folder", type=PATH, required=False)
@click.option("--output-directory", type=PATH, default="unfreeze-demo", show_default=True, help="Where it is written.")
@click.option("--serve", is_flag=True, help="Then serve it, with a page to drop pictures on, until Ctrl-C.")
@overwrite
@quiet
def demo(folder: str | None, output_directory: str, serve: bool, overwrite: bool, quiet: bool) -> None:
    """Export, verify and run a detector of digits. FOLDER has run/ and scenes/ (default: examples/digits)."""
    with progress(quiet) as (on_progress, on_warning):
        import_tensorflow_quietly()
        from unfreeze.demo import demo, serve_page

        if serve:
            from unfreeze.server.serve import until_asked_to_end  # what is not installed is told before the export
        shown = demo(folder, output_directory, overwrite=overwrite, on_progress=on_progress, on_warning=on_warning)
    show(None, str(shown), as_json=False, quiet=quiet)
    if serve:
        running, address = serve_page(shown)
        # Told however quiet: without the address there is no page.
        click.echo(f"page:       {address}  (drop a picture there; Ctrl-C ends it)")
        until_asked_to_end(running)
