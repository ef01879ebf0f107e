"""`unfreeze export`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, InputShape, NamedTensor, Names, Section, as_mapping, command, option, renamed
from unfreeze.cli.terminal import format_report, print_result, progress
from unfreeze.formats import FORMAT_NAMES, FULL, POSTPROCESSING, SAVED_MODEL

if TYPE_CHECKING:
    from unfreeze.exporting.job import Exported


@command("export")
@click.argument("source", type=PATH, required=False)
@option(
    "--trained-checkpoint-prefix",
    section=Section.INPUT,
    type=PATH,
    metavar="PREFIX",
    help="The checkpoint, in place of SOURCE, as in the TF1 script of the Object Detection API. If SOURCE is a frozen "
    "graph: take the values of the weights from this checkpoint.",
)
@option(
    "--trained-checkpoint-dir",
    section=Section.INPUT,
    type=PATH,
    metavar="FOLDER",
    help="The training folder, in place of SOURCE, as in the TF2 script of the Object Detection API.",
)
@option(
    "--step",
    section=Section.INPUT,
    type=int,
    metavar="N",
    help="Use the checkpoint of this training step. Default: the newest.",
)
@option(
    "--pipeline-config-path",
    section=Section.INPUT,
    type=PATH,
    help="The pipeline.config of the training. Default: the one beside the checkpoint or in the folder above.",
)
@option(
    "--config-override",
    section=Section.INPUT,
    default="",
    metavar="TEXT",
    help="Text in the format of pipeline.config that is merged over the file.",
)
@option(
    "--allow-unknown-fields",
    section=Section.INPUT,
    is_flag=True,
    help="Warn about fields of pipeline.config that the Object Detection API does not have, instead of rejecting them.",
)
@options.label_map("Label map (.pbtxt) with class names, which is copied into the export.")
@option(
    "--graph-input",
    "graph_inputs",
    section=Section.INPUT,
    multiple=True,
    type=NamedTensor(),
    callback=as_mapping,
    help="Frozen graph only: an input of the export and its tensor, as in inputs=image_tensor:0 (repeatable). Default: "
    "found by name.",
)
@renamed("--input", to="--graph-input", multiple=True, type=NamedTensor(), callback=as_mapping)
@option(
    "--graph-output",
    "graph_outputs",
    section=Section.INPUT,
    multiple=True,
    type=NamedTensor(),
    callback=as_mapping,
    help="Frozen graph only: an output of the export and its tensor, as in detection_boxes=detection_boxes:0 "
    "(repeatable). Default: found by name.",
)
@renamed("--output", to="--graph-output", multiple=True, type=NamedTensor(), callback=as_mapping)
@option(
    "--input-type",
    "input_types",
    section=Section.MODEL,
    multiple=True,
    metavar="TYPE",
    help="What the signature serving_default accepts: image_tensor (default), float_image_tensor, "
    "encoded_image_string_tensor or tf_example; for a DeepMAC model also image_and_boxes_tensor. Each other type gets "
    "a signature of its name. Repeat the option to write only the types that you list.",
)
@option(
    "--input-shape",
    section=Section.MODEL,
    type=InputShape(),
    help="Fix the shape of the input, as in 1,300,300,3; -1 leaves a dimension open. Default: any size.",
)
@option(
    "--use-side-inputs",
    section=Section.MODEL,
    is_flag=True,
    help="Context R-CNN only: fix the shapes of the inputs that it has besides images, as the next three options say. "
    "Default: any number of images and features.",
)
@option(
    "--side-input-shapes",
    section=Section.MODEL,
    metavar="SHAPES",
    help="The shapes of the side inputs with / between them, as in 1,2000,2057/1; -1 leaves a size open.",
)
@option(
    "--side-input-names",
    section=Section.MODEL,
    metavar="NAMES",
    help="The names of the side inputs, as in context_features,valid_context_size.",
)
@option(
    "--side-input-types",
    section=Section.MODEL,
    metavar="TYPES",
    help="The data types of the side inputs, as in float,int.",
)
@option(
    "--kept-outputs",
    section=Section.MODEL,
    type=Names(),
    default="",
    help="The outputs to keep besides boxes, scores, classes and the number of detections. Default: all.",
)
@renamed("--outputs", to="--kept-outputs", type=Names())
@option(
    "--score-threshold",
    section=Section.MODEL,
    type=click.FloatRange(0, 1),
    metavar="SCORE",
    help="Drop detections below this score inside the exported graph. Default: drop none.",
)
@option(
    "--max-detections",
    section=Section.MODEL,
    type=click.IntRange(1),
    metavar="D",
    help="Return at most this many detections per image. Default: as many as the config allows.",
)
@option(
    "--weights",
    section=Section.MODEL,
    type=click.Choice(["variables", "constants", "trainable"]),
    default="variables",
    help="How the graph uses the weights. variables (default): batch normalization is folded once, when the model is "
    "loaded. constants: all weights are in the graph and variables/ is empty, for tools that accept nothing else. "
    "trainable: gradients and assignments reach every variable, and batch normalization is folded at each call.",
)
@option(
    "--suppression",
    section=Section.MODEL,
    type=click.Choice(["kernel", "operations"]),
    default="kernel",
    help="How non-maximum suppression is written; the detections are the same. kernel (default): TensorFlow's own "
    "operation, which is the fastest. operations: plain tensor operations, for converters that do not know that one.",
)
@option(
    "--format",
    "formats",
    section=Section.OUTPUT,
    multiple=True,
    type=click.Choice(FORMAT_NAMES),
    default=[SAVED_MODEL],
    help="What to write (repeatable): saved_model (default), frozen_graph, onnx, openvino, tflite or tfjs. Each file "
    "is run by its own runtime before it is in place.",
)
@option(
    "--opset",
    section=Section.OUTPUT,
    type=click.IntRange(13, 25),
    metavar="N",
    help="The version of ONNX's operations, for --format onnx. Default: 18.",
)
@option(
    "--postprocessing",
    section=Section.OUTPUT,
    type=click.Choice(POSTPROCESSING),
    default=FULL,
    help="What other formats than saved_model compute from raw boxes and scores. full (default): the detections of the "
    "Object Detection API. none: nothing; the outputs are raw boxes, raw scores and the anchors. tflite_op: for "
    "--format tflite, the operation TFLite_Detection_PostProcess, which Coral, MediaPipe and the Task library expect. "
    "tensorrt: for --format onnx, the plugin EfficientNMS_TRT of TensorRT.",
)
@option(
    "--half",
    section=Section.PRECISION,
    is_flag=True,
    help="For onnx, openvino and tflite: weights in float16, half of their size in float32.",
)
@option(
    "--int8",
    section=Section.PRECISION,
    is_flag=True,
    help="For onnx, openvino and tflite: the network computes in int8; post-processing stays in float32. Needs "
    "--calibration-images, unless the training was quantization-aware.",
)
@option(
    "--int8-weights",
    section=Section.PRECISION,
    is_flag=True,
    help="For tflite: weights in int8, activations in float32 (dynamic range quantization). Needs no images.",
)
@option(
    "--calibration-images",
    section=Section.PRECISION,
    type=PATH,
    metavar="PATH",
    help="A folder of images or a TFRecord file, on which --int8 measures the ranges of the network's values.",
)
@option(
    "--calibration-count",
    section=Section.PRECISION,
    type=click.IntRange(1),
    metavar="N",
    help="How many calibration images to use. Default: 200.",
)
@option(
    "--edgetpu",
    section=Section.PRECISION,
    is_flag=True,
    help="For --int8 --format tflite --postprocessing tflite_op or none: the file takes uint8, and is compiled for the "
    "Edge TPU if edgetpu_compiler is installed.",
)
@option(
    "--annotations",
    section=Section.PRECISION,
    metavar="FILE",
    help="COCO's JSON or TFRecord files: measure the mAP of the float model and of each file, and the loss.",
)
@option(
    "--images",
    section=Section.PRECISION,
    type=PATH,
    metavar="FOLDER",
    help="The folder of the images that the JSON names. Default: the folder of the JSON.",
)
@option(
    "--max-map-loss",
    section=Section.PRECISION,
    type=click.FloatRange(0, 1),
    metavar="LOSS",
    help="Fail (exit code 1) if a file loses more mAP than this, such as 0.01. Needs --annotations.",
)
@option(
    "--output-directory",
    section=Section.OUTPUT,
    type=PATH,
    help="The folder to write to. Default: exported-STEP, or exported for a frozen graph.",
)
@options.overwrite
@option(
    "--write-checkpoint",
    section=Section.OUTPUT,
    is_flag=True,
    help="Also write the weights as a checkpoint, as the scripts of the Object Detection API do: model.ckpt, or "
    "checkpoint/ckpt-0 for TensorFlow 2.",
)
@option(
    "--write-inference-graph",
    section=Section.OUTPUT,
    is_flag=True,
    help="TensorFlow 1 only: also write the graph in text form, inference_graph.pbtxt.",
)
@option(
    "--dry-run",
    section=Section.OUTPUT,
    is_flag=True,
    help="Frozen graph only: report which constants would become variables and why; write nothing.",
)
@options.as_json
@options.verify("the exported model")
@options.report
@options.runtimes
@options.quiet
def export(source: str | None, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Export a checkpoint or a frozen graph as a verified SavedModel.

    SOURCE is a checkpoint (its prefix, such as run/model.ckpt-1000), a training folder (of which the newest complete
    checkpoint is used), a frozen graph (.pb) or a frozen SavedModel. The constants of a frozen graph become variables
    again.
    """
    from unfreeze.exporting.export import export
    from unfreeze.verification import WorkerProcesses

    with progress(quiet) as (on_progress, on_warning):
        exported = export(
            source,
            **settings,
            workers=partial(WorkerProcesses, unused_tensorflow=True),
            on_progress=on_progress,
            on_warning=on_warning,
        )
    print_exported(exported, as_json, quiet)


def print_exported(exported: Exported, as_json: bool, quiet: bool) -> None:
    """Prints the checks of an export, its path, and how its weights can be used; after a dry run the plan."""
    if exported.dry_run is not None:
        print_result(exported.to_dict(), str(exported.dry_run), as_json=as_json, quiet=quiet)
        return
    from unfreeze.weights.bindings import BINDING_DESCRIPTIONS

    lines = []
    binding = exported.record.binding
    if exported.has_saved_model:
        lines.append(format_report(exported.report) if exported.report else "not verified")
        lines.append(f"exported {exported.saved_model}")
    for written in (exported.record.formats or {}).values():
        lines.append(f"exported {exported.folder / written.file}: {written.detail or 'not verified'}")
    if exported.has_saved_model and binding in BINDING_DESCRIPTIONS:
        lines.append(f"its weights are {BINDING_DESCRIPTIONS[binding]}")
    print_result(exported.to_dict(), "\n".join(lines), as_json=as_json, quiet=quiet)
