"""The public `unfreeze.export`: finds out what the source is, and calls the export for it.

Errors in paths, options, config and label map are reported before TensorFlow is imported, which takes seconds. So these
are read here once, and again in the export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.config import is_keras_model, read_pipeline_config
from unfreeze.errors import UnfreezeError, UnsupportedError
from unfreeze.exporting.edgetpu import edgetpu_entries
from unfreeze.exporting.job import checkpoint_entries, checkpoint_export_job, graph_export_job
from unfreeze.exporting.option_checks import require_efficient_nms, require_input_shape, require_max_detections
from unfreeze.exporting.precision_options import precision_options, require_calibration
from unfreeze.exporting.side_inputs import SideInput, parse_side_inputs
from unfreeze.exporting.sources import Source, find_source, read_labels
from unfreeze.exporting.tflite_scripts import require_tflite_model
from unfreeze.formats import (
    FULL,
    NONE,
    ONLY_FORMAT,
    POSTPROCESSING,
    SAVED_MODEL,
    TENSORRT,
    TFJS,
    TFLITE_OP,
    other_formats,
)
from unfreeze.input_types import require_known_input_types
from unfreeze.model_paths import find_config_of_export, find_pipeline_config, has_variables, saved_model_folder
from unfreeze.targets.server_versions import parse_server_version
from unfreeze.tfjs.node import find_node

if TYPE_CHECKING:
    from unfreeze.exporting.job import Exported
    from unfreeze.verification import WorkerProcesses


def export(
    source: str | Path | None = None,
    *,
    trained_checkpoint_prefix: str | Path | None = None,
    trained_checkpoint_dir: str | Path | None = None,
    pipeline_config_path: str | Path | None = None,
    output_directory: str | Path | None = None,
    input_types: Sequence[str] = (),
    input_shape: Sequence[int | None] | None = None,
    side_inputs: Mapping[str, SideInput] | None = None,
    use_side_inputs: bool = False,
    side_input_shapes: str | None = None,
    side_input_names: str | None = None,
    side_input_types: str | None = None,
    label_map: str | Path | None = None,
    step: int | None = None,
    config_override: str = "",
    allow_unknown_fields: bool = False,
    graph_inputs: Mapping[str, str] | None = None,
    graph_outputs: Mapping[str, str] | None = None,
    write_checkpoint: bool = False,
    write_inference_graph: bool = False,
    dry_run: bool = False,
    kept_outputs: Sequence[str] = (),
    score_threshold: float | None = None,
    max_detections: int | None = None,
    weights: str = "variables",
    suppression: str = "kernel",
    runtimes: Sequence[str] = (),
    formats: Sequence[str] = (SAVED_MODEL,),
    opset: int | None = None,
    postprocessing: str = FULL,
    half: bool = False,
    int8: bool = False,
    int8_weights: bool = False,
    calibration_images: str | Path | None = None,
    calibration_count: int | None = None,
    edgetpu: bool = False,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    max_map_loss: float | None = None,
    overwrite: bool = False,
    verify: bool = True,
    report_path: str | Path | None = None,
    workers: WorkerProcesses | Callable[[], WorkerProcesses] | None = None,
    on_progress: OnMessage = ignore,
    on_warning: OnMessage = ignore,
) -> Exported:
    """Exports a checkpoint or a frozen graph as a SavedModel with variables, and verifies it before it is in place.

    Args:
        source: a checkpoint (a prefix, one of its files, a `checkpoint` state file, or a training folder, of which the
            newest complete checkpoint is used), a frozen graph (.pb), or a SavedModel whose weights are constants.
        trained_checkpoint_prefix, trained_checkpoint_dir: the checkpoint, instead of `source`. Beside a frozen graph:
            the checkpoint of the same training, whose values the variables take.
        pipeline_config_path: by default the pipeline.config beside the checkpoint, or in the folder above.
        output_directory: where saved_model/, pipeline.config and export.json go; by default `exported-STEP`, or
            `exported` for a frozen graph.
        input_types: what `serving_default` takes; the other input types get signatures of their own. With more than
            one, only these are written.
        input_shape: (images, height, width, channels) of the input; None leaves a dimension open.
        side_inputs: dtype and shape of what a Context R-CNN takes besides images; by default as its config says.
        use_side_inputs, side_input_shapes, side_input_names, side_input_types: the same in the text form of the Object
            Detection API's flags, such as `1,2000,2057/1`, `context_features,valid_context_size` and `float,int`.
        label_map: goes to assets/, and adds the signature `named`, whose outputs include class names.
        step: the checkpoint of this step instead of the newest.
        config_override: text of a pipeline.config, merged over the file.
        allow_unknown_fields: warn about unknown fields of the pipeline.config instead of rejecting them.
        graph_inputs, graph_outputs: frozen graph only: tensors of the graph by signature key, where their names do not
            show what they are.
        write_checkpoint: also write the weights as a checkpoint, as the exporters of the Object Detection API do:
            model.ckpt (TensorFlow 1) or checkpoint/ckpt-0 (TensorFlow 2).
        write_inference_graph: TensorFlow 1 only: also write the graph in text form, inference_graph.pbtxt.
        dry_run: frozen graph only: report which constants become variables, and write nothing.
        kept_outputs: the outputs to keep besides boxes, scores, classes and their number; by default all.
        score_threshold, max_detections: detections below and beyond are dropped inside the graph.
        weights: `variables`, `constants` (in the graph; variables/ is empty) or `trainable` (weights/bindings.py).
        suppression: `kernel` (TensorFlow's own operation) or `operations` (plain tensor operations, for converters).
        runtimes: such as `tensorflow-serving:2.6`; an operation that one of them does not know is an error.
        formats: what to write: `saved_model`, `frozen_graph`, `onnx`, `openvino`, `tflite`, `tfjs`. Each file is run
            by its own runtime, and its detections compared, before it is in place.
        opset: the version of ONNX's operations.
        postprocessing: not for saved_model: `full` (detections), `none` (boxes and scores before suppression, and the
            anchors), for tflite `tflite_op` (the operation TFLite_Detection_PostProcess and its four outputs), or for
            onnx `tensorrt` (the plugin EfficientNMS_TRT and its four outputs).
        half: for onnx, openvino and tflite: weights in float16.
        int8: for onnx, openvino and tflite: the network computes in int8, with the ranges of `calibration_images`, or
            with those of a quantization-aware training.
        int8_weights: for tflite: weights in int8, with activations in float32 (dynamic range quantization).
        calibration_images: a folder of images or a TFRecord file.
        calibration_count: how many of them to use; by default 200.
        edgetpu: for tflite with postprocessing `none` or `tflite_op`: the input is uint8, and edgetpu_compiler compiles
            the file if it is installed.
        annotations: measures the mAP of the float model and of each file on COCO's JSON or on TFRecord files.
        images: the folder of the JSON's images; by default the JSON's own.
        max_map_loss: the largest mAP that a file may lose.
        overwrite: replace an existing export.
        verify: load, run and compare the result before it is in place.
        report_path: an HTML file about the export and its checks, also written if a check fails.
        workers: worker processes for the checks that run already, or a function that starts them, which is called
            once TensorFlow is imported.
        on_progress, on_warning: called with each step that begins, and with each warning.

    Raises:
        UnfreezeError: one of its subclasses (errors.py); nothing is left behind. VerificationError: a check failed.
    """
    side_input_text = {
        "--side-input-shapes": side_input_shapes,
        "--side-input-names": side_input_names,
        "--side-input-types": side_input_types,
    }
    if any(side_input_text.values()) and not use_side_inputs:
        raise UnfreezeError(f"{_listed(side_input_text)} need --use-side-inputs; add it")
    if use_side_inputs:
        if side_inputs is not None:
            raise UnfreezeError("side_inputs and use_side_inputs are two forms of the same option; pass one of them")
        side_inputs = parse_side_inputs(side_input_shapes, side_input_names, side_input_types)
    require_known_input_types(input_types)
    require_input_shape(input_shape)
    located = find_source(source, trained_checkpoint_prefix, trained_checkpoint_dir, step)
    others = other_formats(formats)
    if verify and TFJS in formats:
        find_node()
    if opset is not None and "onnx" not in formats:
        raise UnsupportedError("--opset is for --format onnx only; remove it, or add the format")
    if postprocessing != FULL:
        _require_postprocessing(
            postprocessing,
            formats,
            {
                "--input-type": (postprocessing == TFLITE_OP or edgetpu) and bool(input_types),
                "--input-shape": (postprocessing == TFLITE_OP or edgetpu) and input_shape is not None,
                "--kept-outputs": bool(kept_outputs),
                "--score-threshold": postprocessing == NONE and score_threshold is not None,
                "--max-detections": postprocessing == NONE and max_detections is not None,
                "--half": postprocessing == TENSORRT and half,
                "--int8": postprocessing == TENSORRT and int8,
                "--annotations": postprocessing == TENSORRT and annotations is not None,
            },
        )
    _reject(
        "not supported with --format tfjs: {}; remove the option",
        {"--annotations": TFJS in formats and annotations is not None},
    )
    precision = precision_options(
        formats=formats,
        postprocessing=postprocessing,
        half=half,
        int8=int8,
        int8_weights=int8_weights,
        edgetpu=edgetpu,
        calibration_images=calibration_images,
        calibration_count=calibration_count,
        annotations=annotations,
        images=images,
        max_map_loss=max_map_loss,
    )
    if others:
        is_alone = SAVED_MODEL not in formats
        _reject(
            f"not supported with --format {others[0].name}: {{}}; remove the option",
            {
                "--use-side-inputs": use_side_inputs or side_inputs is not None,
                "several --input-type": len(input_types) > 1,
            },
        )
        _reject(
            "{}: for --format saved_model only; remove it, or add the format",
            {
                "--for": is_alone and bool(runtimes),
                "--weights": is_alone and weights != "variables",
                "--suppression": is_alone and suppression != "kernel",
                "--label-map": is_alone
                and label_map is not None
                and annotations is None
                and not any(row.has_metadata or row.has_labels for row in others),
                "--report": is_alone and report_path is not None,
                "--write-checkpoint": is_alone and write_checkpoint,
                "--write-inference-graph": is_alone and write_inference_graph,
            },
        )
    if located.graph is not None and others and has_variables(located.graph):
        _reject(
            f"{located.graph}: is an unfrozen SavedModel already; remove {{}}",
            {"--format saved_model": SAVED_MODEL in formats, "--step": step is not None},
        )
        config = find_config_of_export(saved_model_folder(located.graph), pipeline_config_path)
        located, pipeline_config_path = Source(None, located.graph, saved_model_folder(located.graph)), config
    if located.graph is not None:
        _reject(
            f"not supported yet: {{}} with a frozen graph; run unfreeze export {located.graph} --write-checkpoint, and "
            "then export this checkpoint with the pipeline.config",
            {"--format": bool(others)},
        )
        _reject(
            "not supported yet: {} with a frozen graph",
            {
                "--pipeline-config-path": pipeline_config_path is not None and located.checkpoint is None,
                "--step": step is not None and located.checkpoint is None,
                "--input-shape": input_shape is not None,
                "--use-side-inputs": use_side_inputs or side_inputs is not None,
                "--config-override": bool(config_override),
                "--allow-unknown-fields": allow_unknown_fields,
                "--kept-outputs": bool(kept_outputs),
                "--score-threshold": score_threshold is not None,
                "--max-detections": max_detections is not None,
                "--weights": weights != "variables",
                "--suppression": suppression != "kernel",
                "--for": bool(runtimes),
                "--postprocessing": postprocessing != FULL,
                "--write-inference-graph": write_inference_graph,
            },
        )
        read_labels(label_map)  # here and below: checks files before TensorFlow is imported
        graph_export_job(
            output_directory=output_directory,
            write_checkpoint=write_checkpoint,
            overwrite=overwrite or dry_run,
            verify=verify,
            report_path=report_path,
        )
        from unfreeze.exporting.from_frozen_graph import export_frozen_graph

        with _started(workers, verify=verify and not dry_run) as workers:
            return export_frozen_graph(
                located.graph,
                trained_checkpoint_prefix=located.checkpoint,
                pipeline_config_path=pipeline_config_path,
                output_directory=output_directory,
                graph_inputs=graph_inputs,
                graph_outputs=graph_outputs,
                input_types=input_types,
                label_map=label_map,
                step=step,
                write_checkpoint=write_checkpoint,
                dry_run=dry_run,
                overwrite=overwrite,
                verify=verify,
                report_path=report_path,
                workers=workers,
                on_progress=on_progress,
                on_warning=on_warning,
            )
    _reject(
        "{}: for frozen graphs (.pb) only, and this is a checkpoint; remove it",
        {
            "--graph-input": bool(graph_inputs),
            "--graph-output": bool(graph_outputs),
            "--dry-run": dry_run,
        },
    )
    assert located.checkpoint is not None
    assert located.prefix is not None
    for server in runtimes:
        parse_server_version(server)
    read_labels(label_map)
    pipeline_config = read_pipeline_config(
        find_pipeline_config(located.prefix, pipeline_config_path),
        allow_unknown_fields=allow_unknown_fields,
        override=config_override,
        on_warning=ignore,
    )
    require_max_detections(pipeline_config, max_detections)
    require_calibration(precision, formats, pipeline_config)
    if postprocessing == TFLITE_OP:
        require_tflite_model(pipeline_config, ["ssd"], "--postprocessing tflite_op")
    if postprocessing == TENSORRT:
        require_efficient_nms(pipeline_config, max_detections)
    _reject(
        "{}: for models of TensorFlow 1 only, and this config has one of TensorFlow 2; remove it",
        {"--write-inference-graph": write_inference_graph and is_keras_model(pipeline_config)},
    )
    checkpoint_export_job(
        located.prefix,
        formats=formats,
        checkpoint_entries=[
            *checkpoint_entries(
                pipeline_config, write_checkpoint=write_checkpoint, write_inference_graph=write_inference_graph
            ),
            *edgetpu_entries(precision),
        ],
        output_directory=output_directory,
        overwrite=overwrite,
        verify=verify,
        report_path=report_path,
    )
    from unfreeze.exporting.from_checkpoint import export_checkpoint

    with _started(workers, verify=verify and SAVED_MODEL in formats) as workers:
        return export_checkpoint(
            located.checkpoint,
            pipeline_config_path=pipeline_config_path,
            output_directory=output_directory,
            input_types=input_types,
            input_shape=input_shape,
            side_inputs=side_inputs,
            label_map=label_map,
            step=step,
            weights=weights,
            suppression=suppression,
            overwrite=overwrite,
            allow_unknown_fields=allow_unknown_fields,
            config_override=config_override,
            kept_outputs=kept_outputs,
            score_threshold=score_threshold,
            max_detections=max_detections,
            runtimes=runtimes,
            formats=formats,
            opset=opset,
            postprocessing=postprocessing,
            precision=precision,
            write_checkpoint=write_checkpoint,
            write_inference_graph=write_inference_graph,
            verify=verify,
            report_path=report_path,
            workers=workers,
            on_progress=on_progress,
            on_warning=on_warning,
        )


def _require_postprocessing(postprocessing: str, formats: Sequence[str], other_options: Mapping[str, bool]) -> None:
    """Raises UnsupportedError if the formats or options do not go with a postprocessing other than FULL."""
    flag = f"--postprocessing {postprocessing}"
    if postprocessing not in POSTPROCESSING:
        raise UnsupportedError(f"{flag}: there is none of this name; choose from {', '.join(POSTPROCESSING)}")
    only = ONLY_FORMAT.get(postprocessing)
    if only is not None and tuple(formats) != (only,):
        raise UnsupportedError(f"{flag} is for --format {only} alone (found: {', '.join(formats)})")
    if SAVED_MODEL in formats:
        raise UnsupportedError(
            f"{flag}: a SavedModel has raw_detection_boxes and raw_detection_scores beside its detections; pass "
            "--format with another format"
        )
    _reject(f"not supported with {flag}: {{}}; remove the option", other_options)


def _reject(message: str, options: Mapping[str, bool]) -> None:
    """Raises UnsupportedError that names the passed options in `message`."""
    passed = [flag for flag, is_passed in options.items() if is_passed]
    if passed:
        raise UnsupportedError(message.format(_listed(passed)))


def _listed(flags: Sequence[str] | Mapping[str, object]) -> str:
    *first, last = flags
    return f"{', '.join(first)} and {last}" if first else last


def _started(
    workers: WorkerProcesses | Callable[[], WorkerProcesses] | None, *, verify: bool
) -> AbstractContextManager[WorkerProcesses | None]:
    """Returns a context with the worker processes: those that run already continue, new ones end with the block."""
    if not verify:
        return nullcontext(None)
    if workers is None:
        from unfreeze.verification import WorkerProcesses

        return WorkerProcesses()
    return workers() if callable(workers) else nullcontext(workers)
