"""A checkpoint and its pipeline.config to an unfrozen SavedModel that has been proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from unfreeze import verification
from unfreeze.config import (
    PipelineConfig,
    format_pipeline_config,
    read_pipeline_config,
    with_keypoint_labels,
)
from unfreeze.detectors import Detector, Forms, build_detector
from unfreeze.detectors.build import feature_extractor, suppression_form
from unfreeze.detectors.mismatch_diagnosis import likely_causes
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.export_record import RECORD
from unfreeze.exporting.record import (
    Exported,
    Labels,
    Say,
    checkpoint_record,
    labels_of,
    require_report,
    sha256,
    types_to_write,
    verification_record,
    worker_processes,
    write_record,
    written_by,
)
from unfreeze.exporting.side_inputs import SideInput, with_side_inputs
from unfreeze.memory import release_memory
from unfreeze.model_paths import CONFIG, find_pipeline_config
from unfreeze.savedmodel import IMAGE_AND_BOXES, INPUT_TYPES, Exportable, trace, variable_key, write_saved_model
from unfreeze.savedmodel.slimming import Slimming, slimmed
from unfreeze.staging import not_written, staged
from unfreeze.targets.server_versions import parse_server_version, require_known_operations
from unfreeze.targets.warmup import write_warmup
from unfreeze.weights import Checkpoint, Weights, open_checkpoint

ENTRIES = ("saved_model", CONFIG, RECORD)


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
    verify: bool = True,
    report_path: str | Path | None = None,
    workers: verification.WorkerProcesses | None = None,
    on_progress: Say | None = None,
    on_warning: Say | None = None,
) -> Exported:
    """Write a checkpoint as an unfrozen, servable SavedModel, and prove it before it is put in place.

    Args:
        checkpoint: a prefix, one of its files, a `checkpoint` state file, or a training folder (its newest complete
            one).
        pipeline_config_path: by default the pipeline.config beside the checkpoint, or in the folder above.
        output_directory: where saved_model/, pipeline.config and export.json go; by default `exported-STEP`.
        input_types: what `serving_default` takes; without it image_tensor, and a signature for each other type.
        input_shape: (images, height, width, channels) of the input, None where it is open.
        side_inputs: dtype and shape of what a Context R-CNN takes besides pictures; by default as its config says,
            for any number of images.
        label_map: goes to assets/, and adds the signature `named`, which tells class names; CenterNet's keypoints are
            its, if the config's keypoint_label_map_path is not on this machine.
        weights: how the weights reach the network (weights/bindings.py): as `variables`, as `constants` of the graph
            (then variables/ is empty), or as `trainable` variables, all of which gradients and assignments reach.
        suppression: the form of non-maximum suppression: `kernel`, TensorFlow's own operation, or `operations`, plain
            tensor operations for converters that do not know it; the detections are the same.
        kept_outputs: which of the outputs stay, besides the four that a detection is made of; by default all.
        score_threshold, max_detections: rows below and beyond are taken out in the graph (savedmodel/slimming.py).
        runtimes: such as `tensorflow-serving:2.6`: refused if one of them does not know an operation of the graph.
        verify: whether the result is loaded again, run and compared before it is in place.
        report_path: an HTML file of all that was exported and proved (verbs/html_report.py), also if a check fails.
        workers: the processes that verify, if they were started earlier.

    Raises:
        UnfreezeError: of the kind that fits (errors.py); nothing is left behind. VerificationError: a check failed.
    """
    say, warn = on_progress or (lambda line: None), on_warning or (lambda line: None)
    html = require_report(report_path, verify=verify, overwrite=overwrite)
    slimming = Slimming(tuple(kept_outputs), score_threshold, max_detections)
    types, servers = _input_types(input_types), tuple(map(parse_server_version, runtimes))
    forms = Forms(suppression_form(suppression))
    found = open_checkpoint(checkpoint, step)
    for note in found.notes:
        warn(note)
    config_path = find_pipeline_config(found, pipeline_config_path)
    config = read_pipeline_config(
        config_path, allow_unknown_fields=allow_unknown_fields, override=config_override, on_warning=warn
    )
    labels = labels_of(label_map)
    bound_config = with_keypoint_labels(config, config_path.parent, label_map, warn)
    target = (
        Path(output_directory)
        if output_directory is not None
        else Path(f"exported-{found.step}" if found.step is not None else "exported")
    )
    with (
        staged(target, ENTRIES, overwrite=overwrite) as staging,
        worker_processes(verify, workers) as processes,
    ):
        say(f"reading {found.prefix} with {config_path}")
        bound = Weights(found, weights, moving_averages=config.eval_config.use_moving_averages)
        detector = with_side_inputs(build_detector(bound_config, bound, forms), side_inputs, input_shape)
        types = _types_of(detector, input_types, types)
        exportable = _bound(slimmed(detector, slimming), config, bound, warn)
        say(f"writing {len(bound.sources)} {weights if weights == 'constants' else 'variables'}")
        _write(exportable, bound, staging / "saved_model", types, input_shape, labels)
        require_known_operations(staging / "saved_model", servers)
        release_memory()
        _write_config(config, staging / CONFIG)
        report = None if processes is None else _prove(staging / "saved_model", bound, weights, types, processes, say)
        record = _record(found, config_path, config, bound, types, report)
        record |= {"binding": weights, "suppression": suppression}
        record |= {"input_shape": list(input_shape) if input_shape else None, "config_override": config_override}
        record |= {"side_inputs": side_inputs, "slimming": asdict(slimming)}
        write_record(staging, record, report, target, html)
        say("putting it in place")
    return Exported(target, record, report)


def _bound(detector: Detector, config: PipelineConfig, weights: Weights, warn: Say) -> Exportable:
    """The traced detector, every weight of it found; what is left over or was not averaged is told."""
    exportable = trace(detector)
    weights.require_fit(likely_causes(config))
    if weights.without_moving_average:
        warn(
            "use_moving_averages is true, but the checkpoint has no moving average of "
            f"{len(weights.without_moving_average)} variables ({weights.without_moving_average[0]}, …): "
            "their own values are used"
        )
    if weights.checkpoint.format == "tf2" and config.eval_config.use_moving_averages:
        warn(
            "use_moving_averages is true, but an export of TensorFlow 2 never reads it, the original's neither: the "
            "variables' own values are used"
        )
    ranges = weights.ranges()
    if ranges and not weights.quantized:
        warn(
            f"the checkpoint was trained quantization-aware (it has the ranges of {len(ranges) // 2} operations), but "
            "the config has no graph_rewriter: the model is exported without quantization, as the original does it"
        )
    unused = weights.unused()
    if unused:
        shown = ", ".join([*unused[:5], *(["…"] if len(unused) > 5 else [])])
        warn(f"{len(unused)} tensors of the checkpoint are not used by this config: {shown}")
    return exportable


def _write(
    exportable: Exportable,
    weights: Weights,
    folder: Path,
    types: Sequence[str],
    input_shape: Sequence[int | None] | None,
    labels: Labels | None,
) -> None:
    try:
        write_saved_model(
            exportable,
            weights.variables,
            weights.values,
            weights.derived,
            folder,
            input_types=types,
            input_shape=input_shape,
            label_map=labels,
        )
        # Of the two ways that clients send a picture; more would only make servers load longer.
        encoded = [name for name in types[1:] if name == "encoded_image_string_tensor"]
        asked = {"serving_default": types[0], **{name: name for name in encoded}}
        write_warmup(folder, asked, exportable.detector.input_name)
    except (OSError, tf.errors.OpError) as error:
        raise not_written(folder.parent.parent, error) from None


def _prove(
    saved_model: Path,
    weights: Weights,
    binding: str,
    types: Sequence[str],
    workers: verification.WorkerProcesses,
    say: Say,
) -> verification.Report:
    return verification.verify_saved_model(
        saved_model,
        weights=_exported_weights(weights),
        record={"input_type": types[0], "binding": binding},
        workers=workers,
        on_progress=say,
    )


def _exported_weights(weights: Weights) -> dict[str, verification.ExpectedWeight]:
    """Key of the checkpoint, or name of a derived constant -> its variable or constant, and value."""
    if weights.constants:
        constants = {weights.sources.get(name, name): array for name, array in weights.constants.items()}
        return {key: verification.expected_constant(array) for key, array in constants.items()}
    read = weights.checkpoint.read
    return {
        source: verification.ExpectedWeight(variable_key(name), partial(read, source))
        for name, source in weights.sources.items()
    }


def _write_config(config: PipelineConfig, path: Path) -> None:
    """The config as exported: once the moving averages are the variables, it no longer asks for them."""
    exported = type(config)()
    exported.CopyFrom(config)
    exported.eval_config.use_moving_averages = False
    path.write_text(format_pipeline_config(exported))


def _record(
    checkpoint: Checkpoint,
    config_path: Path,
    config: PipelineConfig,
    weights: Weights,
    types: Sequence[str],
    report: verification.Report | None,
) -> dict[str, Any]:
    """What was exported from what, and what was proved: export.json."""
    return {
        **written_by(),
        "checkpoint": checkpoint_record(checkpoint),
        "pipeline_config": {"path": str(config_path), "sha256": sha256(config_path)},
        "model": config.model.WhichOneof("model"),
        "feature_extractor": feature_extractor(config).type,
        "num_classes": getattr(config.model, config.model.WhichOneof("model")).num_classes,
        "input_type": types[0],
        "input_types": list(types),
        "moving_averages": {
            "used": sum(source != name for name, source in weights.sources.items()),
            "missing": weights.without_moving_average,
        },
        "unused": weights.unused(),
        **verification_record(report, _exported_weights(weights)),
    }


def _input_types(given: Sequence[str]) -> tuple[str, ...]:
    for name in given:
        if name not in (*INPUT_TYPES, IMAGE_AND_BOXES):
            raise UnsupportedError(
                f"not supported yet: --input-type {name}; supported: {', '.join([*INPUT_TYPES, IMAGE_AND_BOXES])}"
            )
    return types_to_write(given, list(INPUT_TYPES), ["image_tensor"])


def _types_of(detector: Detector, given: Sequence[str], types: tuple[str, ...]) -> tuple[str, ...]:
    """The types to write, with `image_and_boxes_tensor` where the model has it and no fewer types were asked for."""
    if detector.masks_of_boxes is None and IMAGE_AND_BOXES in types:
        raise ConfigError(
            f"--input-type {IMAGE_AND_BOXES}: this model has no masks for boxes that it is given; take another "
            "(only a CenterNet with deepmac_mask_estimation has them)"
        )
    if detector.masks_of_boxes is None or len(given) > 1:
        return types
    return tuple(dict.fromkeys([*types, IMAGE_AND_BOXES]))
