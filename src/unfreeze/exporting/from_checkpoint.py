"""Exports a checkpoint and its pipeline.config as a verified SavedModel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.config import (
    PipelineConfig,
    format_pipeline_config,
    is_keras_model,
    read_label_map,
    read_pipeline_config,
    with_keypoint_labels,
)
from unfreeze.detectors import PORTABLE, Detector, Forms, build_detector
from unfreeze.detectors.build import feature_extractor, generation, suppression_form
from unfreeze.detectors.mismatch_diagnosis import likely_causes
from unfreeze.errors import ConfigError
from unfreeze.export_record import (
    ConfigSource,
    ExportRecord,
    MovingAverages,
    SlimmingRecord,
    file_digest,
)
from unfreeze.exporting.checkpoint_files import write_tf1_files, write_tf2_files
from unfreeze.exporting.edgetpu import compiled_for_edgetpu, edgetpu_entries
from unfreeze.exporting.job import Exported, checkpoint_entries, checkpoint_export_job
from unfreeze.exporting.old_training import old_training_warnings
from unfreeze.exporting.option_checks import require_input_shape, require_max_detections
from unfreeze.exporting.other_formats import write_formats
from unfreeze.exporting.precision_checks import PrecisionChecks
from unfreeze.exporting.precision_options import FLOAT, PrecisionOptions
from unfreeze.exporting.side_inputs import SideInput, with_side_inputs
from unfreeze.exporting.sources import checkpoint_source, read_labels
from unfreeze.exporting.tensorrt_detection import write_tensorrt_detection
from unfreeze.exporting.tflite_detection import write_tflite_detection
from unfreeze.formats import FULL, TENSORRT, TFLITE_OP, other_formats
from unfreeze.formats import SAVED_MODEL as SAVED_MODEL_FORMAT
from unfreeze.input_types import IMAGE_AND_BOXES, IMAGE_TENSOR, INPUT_TYPES, require_known_input_types
from unfreeze.memory import release_memory
from unfreeze.model_paths import (
    CONFIG,
    find_config_of_export,
    find_pipeline_config,
    is_graph_path,
    saved_model_folder,
)
from unfreeze.savedmodel import (
    signatures_to_write,
    trace,
    variable_key,
    write_saved_model,
)
from unfreeze.savedmodel.slimming import Slimming, slimmed
from unfreeze.targets.server_versions import parse_server_version, require_known_operations
from unfreeze.targets.warmup import write_warmup
from unfreeze.verification import ExpectedWeight, WorkerProcesses, expected_constant
from unfreeze.weights import Checkpoint, CheckpointFormat, Weights, open_checkpoint, open_export
from unfreeze.weights.bindings import STAND_INS


def export_checkpoint(
    checkpoint: str | Path,
    *,
    pipeline_config_path: str | Path | None = None,
    output_directory: str | Path | None = None,
    input_types: Sequence[str] = (),
    input_shape: Sequence[int | None] | None = None,
    side_inputs: Mapping[str, SideInput] | None = None,
    label_map: str | Path | None = None,
    step: int | None = None,
    weights: str = "variables",
    suppression: str = "kernel",
    overwrite: bool = False,
    allow_unknown_fields: bool = False,
    config_override: str = "",
    kept_outputs: Sequence[str] = (),
    score_threshold: float | None = None,
    max_detections: int | None = None,
    runtimes: Sequence[str] = (),
    formats: Sequence[str] = (SAVED_MODEL_FORMAT,),
    opset: int | None = None,
    postprocessing: str = FULL,
    precision: PrecisionOptions = FLOAT,
    write_checkpoint: bool = False,
    write_inference_graph: bool = False,
    verify: bool = True,
    report_path: str | Path | None = None,
    workers: WorkerProcesses | None = None,
    on_progress: OnMessage = ignore,
    on_warning: OnMessage = ignore,
) -> Exported:
    """Exports a checkpoint as a SavedModel, and verifies it before it is in place.

    The arguments are those of `unfreeze.export` (exporting/export.py), which calls this; `precision` has all options
    about precision.

    Raises:
        UnfreezeError: one of its subclasses (errors.py); nothing is left behind. VerificationError: a check failed.
    """
    slimming = Slimming(tuple(kept_outputs), score_threshold, max_detections)
    require_known_input_types(input_types)
    require_input_shape(input_shape)
    servers = tuple(map(parse_server_version, runtimes))
    forms = Forms(suppression_form(suppression))
    others = other_formats(formats)
    opened, config_path = _opened(checkpoint, pipeline_config_path, step)
    for note in opened.notes:
        on_warning(note)
    config = read_pipeline_config(
        config_path, allow_unknown_fields=allow_unknown_fields, override=config_override, on_warning=on_warning
    )
    job = checkpoint_export_job(
        opened.prefix,
        formats=formats,
        checkpoint_entries=[
            *checkpoint_entries(config, write_checkpoint=write_checkpoint, write_inference_graph=write_inference_graph),
            *edgetpu_entries(precision),
        ],
        output_directory=output_directory,
        overwrite=overwrite,
        verify=verify,
        report_path=report_path,
        workers=workers,
        on_progress=on_progress,
    )
    require_max_detections(config, max_detections)
    labels = read_labels(label_map)
    labeled_config = with_keypoint_labels(config, config_path.parent, label_map, on_warning)
    with job.staged() as staged:
        on_progress(f"reading {opened.prefix} with {config_path}")
        options = ExportRecord(
            input_shape=input_shape,
            config_override=config_override,
            slimming=SlimmingRecord(slimming.kept_outputs, slimming.score_threshold, slimming.max_detections),
            side_inputs=side_inputs,
        )
        if others:

            def new_weights(binding: str) -> Weights:
                return Weights(opened, binding, moving_averages=config.eval_config.use_moving_averages)

            def require_fit(weights: Weights) -> None:
                weights.require_fit(likely_causes(config))

            constants = new_weights("constants" if postprocessing in (TFLITE_OP, TENSORRT) else STAND_INS)
            names = labels[1] if labels else {}
            checks = PrecisionChecks(precision, None if label_map is None else read_label_map(label_map), on_progress)
            with staged.writing():
                if postprocessing == TFLITE_OP:
                    written = write_tflite_detection(
                        config,
                        build_detector(labeled_config, constants, PORTABLE),
                        partial(require_fit, constants),
                        staged.folder,
                        slimming=slimming,
                        checks=checks,
                        names=names,
                        verify=verify,
                        on_progress=on_progress,
                    )
                elif postprocessing == TENSORRT:
                    written = write_tensorrt_detection(
                        config,
                        lambda form: build_detector(labeled_config, constants, form),
                        partial(require_fit, constants),
                        staged.folder,
                        slimming=slimming,
                        input_types=input_types,
                        input_shape=input_shape,
                        opset=opset,
                        verify=verify,
                        on_progress=on_progress,
                    )
                else:
                    written = write_formats(
                        others,
                        constants,
                        new_weights("variables"),
                        lambda bound, form: slimmed(build_detector(labeled_config, bound, form), slimming),
                        require_fit,
                        staged.folder,
                        input_types=input_types,
                        input_shape=input_shape,
                        opset=opset,
                        postprocessing=postprocessing,
                        checks=checks,
                        names=names,
                        verify=verify,
                        on_progress=on_progress,
                    )
                if precision.edgetpu:
                    written = compiled_for_edgetpu(written, staged.folder, job.target, on_progress, on_warning)
            options = replace(options, formats=written)
            if SAVED_MODEL_FORMAT not in formats:
                for warning in _warnings(config, constants):
                    on_warning(warning)
                _write_config(config, staged.folder / CONFIG)
                is_verified = all(entry.verified for entry in written.values())
                record = replace(options, binding="constants", verified=is_verified)
                types = input_types or (IMAGE_TENSOR,)
                return staged.finish(_record(record, opened, config_path, config, constants, types), {}, None)
            del constants
        bound = Weights(opened, weights, moving_averages=config.eval_config.use_moving_averages)
        detector = with_side_inputs(build_detector(labeled_config, bound, forms), side_inputs, input_shape)
        types = _signatures(detector, input_types)
        exportable = trace(slimmed(detector, slimming))
        bound.require_fit(likely_causes(config))
        for warning in _warnings(config, bound):
            on_warning(warning)
        on_progress(f"writing {len(bound.sources)} {weights if weights == 'constants' else 'variables'}")
        with staged.writing():
            write_saved_model(
                exportable,
                bound.variables,
                bound.values,
                bound.derived,
                staged.saved_model,
                input_types=types,
                input_shape=input_shape,
                label_map=labels,
            )
            write_warmup(staged.saved_model, _warmed_up(types), exportable.detector.input_name)
            if is_keras_model(config):
                if write_checkpoint:
                    write_tf2_files(bound, staged.folder)
            elif write_checkpoint or write_inference_graph:
                trainable = Weights(opened, "trainable", moving_averages=config.eval_config.use_moving_averages)
                detector = with_side_inputs(build_detector(labeled_config, trainable, forms), side_inputs, input_shape)
                write_tf1_files(
                    trace(slimmed(detector, slimming)),
                    trainable,
                    types[0],
                    staged.folder,
                    checkpoint=write_checkpoint,
                    graph=write_inference_graph,
                )
        require_known_operations(staged.saved_model, servers)
        release_memory()
        _write_config(config, staged.folder / CONFIG)
        record = replace(options, binding=weights, suppression=suppression)
        record = _record(record, opened, config_path, config, bound, types)
        expected = _expected_weights(bound)
        return staged.finish(record, expected, staged.verify(record, expected))


def _opened(source: str | Path, config: str | Path | None, step: int | None) -> tuple[Checkpoint, Path]:
    """Returns the checkpoint, or the variables of an export, and the path of its config."""
    if not is_graph_path(source):
        checkpoint = open_checkpoint(source, step)
        return checkpoint, find_pipeline_config(checkpoint.prefix, config)
    saved_model = saved_model_folder(source)
    config_path = find_config_of_export(saved_model, config)
    return open_export(saved_model, generation(read_pipeline_config(config_path))), config_path


def _warnings(config: PipelineConfig, weights: Weights) -> Iterator[str]:
    """Yields a warning for what the config uses and the checkpoint lacks, and for the reverse."""
    moving_averages = config.eval_config.use_moving_averages
    yield from old_training_warnings(config, weights.checkpoint.prefix)
    if weights.without_moving_average:
        yield (
            "use_moving_averages is true, but the checkpoint has no moving average of "
            f"{len(weights.without_moving_average)} variables ({weights.without_moving_average[0]}, …): "
            "their own values are used"
        )
    if weights.checkpoint.format == CheckpointFormat.TF2 and moving_averages:
        yield (
            "use_moving_averages is true, but TensorFlow 2 exports never read moving averages, the Object Detection "
            "API's neither: the variables' own values are used"
        )
    ranges = weights.ranges()
    if ranges and not weights.quantized:
        yield (
            f"the checkpoint was trained quantization-aware (it has the ranges of {len(ranges) // 2} operations), but "
            "the config has no graph_rewriter: the model is exported without quantization, as the Object Detection API "
            "does"
        )
    unused = weights.unused()
    if unused:
        shown = ", ".join([*unused[:5], *(["…"] if len(unused) > 5 else [])])
        yield f"{len(unused)} tensors of the checkpoint are not used by this config: {shown}"


def _warmed_up(input_types: Sequence[str]) -> dict[str, str]:
    """Returns the input type by signature name for the requests of the warm-up.

    These are the two ways in which clients send an image; more would only make servers load longer.
    """
    encoded = [name for name in input_types[1:] if name == "encoded_image_string_tensor"]
    return {"serving_default": input_types[0], **{name: name for name in encoded}}


def _expected_weights(weights: Weights) -> dict[str, ExpectedWeight]:
    """Returns the variable or constant, and its value, by key of the checkpoint or name of a derived constant."""
    if weights.constants:
        constants = {weights.sources.get(name, name): array for name, array in weights.constants.items()}
        return {key: expected_constant(array) for key, array in constants.items()}
    read = weights.checkpoint.read
    return {
        source: ExpectedWeight(variable_key(name), partial(read, source)) for name, source in weights.sources.items()
    }


def _write_config(config: PipelineConfig, path: Path) -> None:
    """Writes the config of the exported model, whose variables are the moving averages already."""
    exported = type(config)()
    exported.CopyFrom(config)
    exported.eval_config.use_moving_averages = False
    path.write_text(format_pipeline_config(exported))


def _record(
    options: ExportRecord,
    checkpoint: Checkpoint,
    config_path: Path,
    config: PipelineConfig,
    weights: Weights,
    input_types: Sequence[str],
) -> ExportRecord:
    """Returns the record of the options with what was exported."""
    model = config.model.WhichOneof("model")
    averaged = sum(source != name for name, source in weights.sources.items())
    return replace(
        options,
        checkpoint=checkpoint_source(checkpoint),
        pipeline_config=ConfigSource(str(config_path), file_digest(config_path).sha256),
        model=model,
        feature_extractor=feature_extractor(config).type,
        num_classes=getattr(config.model, model).num_classes,
        input_type=input_types[0],
        input_types=input_types,
        moving_averages=MovingAverages(averaged, weights.without_moving_average),
        unused=weights.unused(),
    )


def _signatures(detector: Detector, input_types: Sequence[str]) -> tuple[str, ...]:
    """Returns the input types to write; `image_and_boxes_tensor` is one of them if the model has masks for boxes.

    Raises:
        ConfigError: `image_and_boxes_tensor` is requested, and the model has no masks for boxes.
    """
    types = signatures_to_write(input_types, list(INPUT_TYPES), ["image_tensor"])
    if detector.masks_of_boxes is None and IMAGE_AND_BOXES in types:
        raise ConfigError(
            f"--input-type {IMAGE_AND_BOXES}: this model computes no masks for boxes from the request (only a "
            "CenterNet with deepmac_mask_estimation does); choose another input type"
        )
    if detector.masks_of_boxes is None or len(input_types) > 1:
        return types
    return tuple(dict.fromkeys([*types, IMAGE_AND_BOXES]))
