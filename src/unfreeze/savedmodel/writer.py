"""Writes a traced detector as a SavedModel: one network, all signatures, the checkpoint's variables.

`tf.saved_model.save` also works, but it traces functions that save and restore each variable separately, and wraps each
signature once more. For a detector that is half of `saved_model.pb`, most of the time to write it and much of the time
to load it. Here one SaveV2 and one RestoreV2 do the same, and the variables keep the names of the checkpoint.

Source: tensorflow/core/protobuf/{saved_model,meta_graph,saver}.proto and python/saved_model/save.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import tensorflow as tf
from tensorflow.core.framework import function_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from unfreeze import protobuf_wire as wire
from unfreeze.input_types import IMAGE_AND_BOXES
from unfreeze.savedmodel.graph import TF2_NAMES, MainGraph, TensorNames
from unfreeze.savedmodel.network import WrittenFunction
from unfreeze.savedmodel.objects import Handle, ObjectGraph, variable_key
from unfreeze.savedmodel.signatures import (
    BOXES,
    Shape,
    signature,
    traced,
    with_boxes,
    with_class_names,
    with_positional_arguments,
)

if TYPE_CHECKING:  # the export of a frozen graph imports no detector
    from unfreeze.detectors import Detector

TF2_INPUT = "input_tensor"  # of detectors of TensorFlow 2
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
INITIALIZER = "__saved_model_init_op"
PART_BYTES = 8 << 20  # how much of variables/ is in memory at once

Values = Callable[[Sequence[str]], Sequence[Any]]  # names of variables -> their values


class Derived(Protocol):
    """A float32 variable `[size]` that is not saved; a loader creates it and runs the initializer."""

    @property
    def handle(self) -> tf.Tensor: ...

    @property
    def size(self) -> int: ...

    @property
    def creator(self) -> Any: ...

    @property
    def initializer(self) -> Any: ...


@dataclass(frozen=True)
class Exportable:
    """A detector whose network is traced, so that all weights that it needs are known."""

    detector: Detector
    detect: Any  # the traced network: preprocessed images and true shapes -> outputs
    masks_of_boxes: Any = None  # the same with boxes -> masks of the boxes; None if the detector has none


def trace(detector: Detector) -> Exportable:
    """Traces the network once, for any number of images; the signatures all call this one function."""
    specs = [tf.TensorSpec([None, *detector.preprocessed_shape]), tf.TensorSpec([None, 3], tf.int32)]
    specs += detector.side_inputs.values()
    if detector.masks_of_boxes is None:
        return Exportable(detector, traced(detector.detect, specs))
    # Two traced functions call one network, which is in the graph once.
    network = traced(detector.predict, specs)
    masks_of_boxes = detector.masks_of_boxes
    return Exportable(
        detector,
        traced(lambda images, shapes: detector.postprocess(network(images, shapes), shapes), specs),
        traced(lambda images, shapes, boxes: masks_of_boxes(network(images, shapes), shapes, boxes), [*specs, BOXES]),
    )


def write_saved_model(
    exportable: Exportable,
    variables: Mapping[str, tf.Variable],
    values: Values,
    derived: Derived | None,
    folder: Path,
    *,
    input_types: Sequence[str],
    input_shape: Shape | None = None,
    label_map: tuple[Path, Mapping[int, str]] | None = None,
) -> None:
    """Writes the SavedModel into `folder`.

    The first of `input_types` is `serving_default` too. `label_map` is a file, which is copied to `assets/`, and the
    class names in it, which the signature `named` adds to the detections. `values` returns those of the variables;
    `derived` is what a loader computes from the variables.
    """
    by_type = {name: _signature(exportable, name, input_shape) for name in input_types}
    serving = by_type[input_types[0]]
    signatures = {"serving_default": serving, **by_type}
    if label_map is not None:
        signatures["named"] = with_class_names(serving, label_map[1])
    serving_boxes = input_types[0] == IMAGE_AND_BOXES
    detector = with_boxes(exportable.detector) if serving_boxes else exportable.detector
    arguments = [detector.input_name, *detector.side_inputs]
    write_signatures(
        signatures,
        arguments,
        variables,
        values,
        folder,
        derived=derived,
        label_map=label_map,
        tensor_names=_tensor_names(detector, input_types[0]),
    )
    write_fingerprint(folder)


def _tensor_names(detector: Detector, input_type: str) -> TensorNames:
    """Returns the names in exports of the Object Detection API: in TensorFlow 1, images are `image_tensor`.

    Source: object_detection/exporter.py (input_placeholder_fn_map).
    """
    if detector.input_name == TF2_INPUT:
        return TF2_NAMES
    inputs = {detector.input_name: input_type, **{name: name for name in detector.side_inputs}}
    return TensorNames(inputs, outputs_by_key=True)


def write_signatures(
    signatures: Mapping[str, Any],
    arguments: Sequence[str],
    variables: Mapping[str, tf.Variable | Handle],
    values: Values | Sequence[str],
    folder: Path,
    *,
    derived: Derived | None = None,
    functions: Callable[[], Iterable[WrittenFunction]] = tuple,
    label_map: tuple[Path, Mapping[int, str]] | None = None,
    tensor_names: TensorNames = TF2_NAMES,
) -> None:
    """Writes traced functions on one set of variables as the signatures of a SavedModel, except its fingerprint.

    Args:
        signatures: must include `serving_default`, which is the model's `__call__` too.
        arguments: the order in which `__call__` takes its inputs.
        variables: by their names in variables/; the signatures have captured their handles.
        values: returns the values of variables by name; or what `save_values` returned.
        derived: a variable that a loader fills after the variables are restored.
        functions: returns functions that the signatures call by name; called last.
        tensor_names: those of `serving_default`.
    """
    objects, graph = ObjectGraph(), MainGraph()
    nodes = _variables(objects, graph, variables)
    concretes = list(signatures.values())
    if derived is not None:
        number = objects.child(0, "derived", objects.computed_variable(derived.handle, derived.size))
        nodes[number] = graph.handle("derived", tf.float32, [derived.size])
        objects.child(0, "initializer", objects.initializer(derived.creator, derived.initializer))
        concretes += [derived.creator, derived.initializer]
    call = with_positional_arguments(signatures["serving_default"], arguments)
    objects.child(0, "__call__", objects.function(call, arguments))
    signature_map = objects.child(0, "signatures", objects.user_object("signature_map"))
    meta_graph = meta_graph_pb2.MetaGraphDef()
    for name, concrete in signatures.items():
        objects.child(signature_map, name, objects.signature(concrete))
        same = next((other for other in meta_graph.signature_def if signatures[other] is concrete), None)
        if same is not None:  # with the same nodes, a session prepares both at once
            meta_graph.signature_def[name].CopyFrom(meta_graph.signature_def[same])
            continue
        captured = [nodes[number] for number in objects.captured(concrete)]
        names = tensor_names if concrete is signatures["serving_default"] else TensorNames()
        meta_graph.signature_def[name].CopyFrom(graph.signature(name, concrete, captured, names))
    if derived is not None:
        graph.initializer(derived.initializer, [nodes[number] for number in objects.captured(derived.initializer)])
        _declare_initializer(meta_graph)
    _add_label_map(objects, graph, meta_graph, folder, label_map)
    if variables:
        _write_variables(folder, objects, variables, values)
    else:  # as in exports of the Object Detection API: without an object graph it is loaded as a TensorFlow 1 model
        (folder / "variables").mkdir(parents=True, exist_ok=True)
        objects.saved.Clear()
    distinct = {id(concrete): concrete for concrete in (call, *concretes)}
    _finish(meta_graph, graph, objects, list(distinct.values()), functions(), folder / "saved_model.pb")


def _signature(exportable: Exportable, input_type: str, input_shape: Shape | None) -> Any:
    if input_type == IMAGE_AND_BOXES:
        return signature(with_boxes(exportable.detector), exportable.masks_of_boxes, "image_tensor", input_shape)
    return signature(exportable.detector, exportable.detect, input_type, input_shape)


def _variables(objects: ObjectGraph, graph: MainGraph, variables: Mapping[str, tf.Variable | Handle]) -> dict[int, str]:
    """Adds each variable as an object and as a node of the graph; returns the nodes by object number."""
    weights = objects.child(0, "weights", objects.user_object("trackable_list_wrapper"))
    nodes = {}
    for i, (name, variable) in enumerate(variables.items()):
        number = objects.child(weights, str(i), objects.variable(name, variable))
        nodes[number] = graph.handle(name, variable.dtype, variable.shape)
    if variables:
        graph.saver(
            {variable_key(name): (graph.node_name(name), variable.dtype) for name, variable in variables.items()}
        )
    return nodes


def _add_label_map(
    objects: ObjectGraph,
    graph: MainGraph,
    meta_graph: Any,
    folder: Path,
    label_map: tuple[Path, Mapping[int, str]] | None,
) -> None:
    if label_map is None:
        return
    path, _ = label_map
    (folder / "assets").mkdir(parents=True)
    shutil.copyfile(path, folder / "assets" / path.name)
    objects.child(0, "label_map", objects.asset())
    asset = meta_graph.asset_file_def.add(filename=path.name)
    asset.tensor_info.name = graph.placeholder("label_map", tf.string, []) + ":0"


def _finish(
    meta_graph: Any,
    graph: MainGraph,
    objects: ObjectGraph,
    concretes: Sequence[Any],
    functions: Iterable[WrittenFunction],
    path: Path,
) -> None:
    """Completes the meta graph, and writes it with the functions that it does not contain."""
    others = list(functions)
    small = graph.to_graph_def(concretes)
    own = len(small.library.function)
    operations = {op for function in others for op in function.operations} - {function.name for function in others}
    small.library.function.append(_one_node_each(operations))
    # export_meta_graph lists the operations; by this list an older runtime recognizes attributes newer than itself.
    with tf.Graph().as_default():
        exported = tf.compat.v1.train.export_meta_graph(graph_def=small, strip_default_attrs=True)
    del exported.graph_def.library.function[own:]
    meta_graph.meta_info_def.CopyFrom(exported.meta_info_def)
    meta_graph.meta_info_def.tags.append("serve")
    meta_graph.graph_def.CopyFrom(exported.graph_def)
    if objects.saved.nodes:
        meta_graph.saver_def.CopyFrom(graph.saver_def)
        meta_graph.object_graph_def.CopyFrom(objects.saved)
    _write_graph(path, meta_graph, others)


def _one_node_each(operations: Iterable[str]) -> Any:
    """Returns a function with a node of each operation, since the list of operations is made from nodes."""
    function = function_pb2.FunctionDef()
    function.signature.name = "operations_of_other_functions"
    for operation in sorted(operations):
        function.node_def.add(name=operation, op=operation)
    return function


def _declare_initializer(meta_graph: Any) -> None:
    name = MainGraph.INITIALIZER
    meta_graph.collection_def["saved_model_main_op"].node_list.value.append(name)
    meta_graph.signature_def[INITIALIZER].outputs[INITIALIZER].name = name
    meta_graph.signature_def[INITIALIZER].outputs[INITIALIZER].tensor_shape.unknown_rank = True


def save_values(
    folder: Path,
    variables: Mapping[str, tf.Variable | Handle],
    values: Values,
    besides: Mapping[str, tf.Tensor] | None = None,
) -> list[str]:
    """Writes the values of variables in parts of about PART_BYTES, one of which is in memory; returns their prefixes.

    The largest values come first, so that each fits into the memory that the one before it has released. The first part
    contains the tensors in `besides` too, by key.
    """
    (folder / "variables").mkdir(parents=True, exist_ok=True)
    sizes_bytes = {name: variable.dtype.size * variable.shape.num_elements() for name, variable in variables.items()}
    prefixes: list[str] = []
    for names in _parts(sizes_bytes, PART_BYTES):
        tensors = dict(zip(map(variable_key, names), values(names), strict=True))
        if not prefixes:
            tensors |= besides or {}
        prefixes.append(str(folder / "variables" / f"variables_part_{len(prefixes)}"))
        save_tensors(prefixes[-1], tensors)
        del tensors  # frees them before the next are read
    return prefixes


def _write_variables(
    folder: Path, objects: ObjectGraph, variables: Mapping[str, tf.Variable | Handle], values: Values | Sequence[str]
) -> None:
    """Writes the object graph and the values under one prefix."""
    prefix = str(folder / "variables" / "variables")
    object_graph = {OBJECT_GRAPH: tf.constant(objects.trackable.SerializeToString(deterministic=True))}
    if callable(values):
        parts = save_values(folder, variables, values, besides=object_graph)
    else:
        parts = [*values, f"{prefix}_objects"]
        save_tensors(parts[-1], object_graph)
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=prefix, delete_old_dirs=False)


def _parts(sizes_bytes: Mapping[str, int], part_bytes: int) -> list[list[str]]:
    """Returns names of variables, the largest first, in lists of at most `part_bytes` together, or of one name."""
    parts: list[list[str]] = [[]]
    total_bytes = 0
    for name in sorted(sizes_bytes, key=lambda name: -sizes_bytes[name]):
        if parts[-1] and total_bytes + sizes_bytes[name] > part_bytes:
            parts.append([])
            total_bytes = 0
        parts[-1].append(name)
        total_bytes += sizes_bytes[name]
    return parts


def save_tensors(prefix: str, tensors: Mapping[str, Any]) -> None:
    """Writes a checkpoint of tensors by key."""
    keys = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=keys, shape_and_slices=[""] * len(keys), tensors=[tensors[key] for key in keys]
    )


def _write_graph(path: Path, meta_graph: Any, others: Sequence[WrittenFunction]) -> None:
    """Writes a SavedModel message in pieces; as one message it would be in memory several times."""
    library = [meta_graph.graph_def.library.SerializeToString(deterministic=True)]
    for function in others:
        library += wire.nested(1, function.pieces)
    meta_graph.graph_def.ClearField("library")
    graph = [meta_graph.graph_def.SerializeToString(deterministic=True), *wire.nested(2, library)]
    meta_graph.ClearField("graph_def")
    meta_graph_pieces = [meta_graph.SerializeToString(deterministic=True), *wire.nested(2, graph)]
    version = saved_model_pb2.SavedModel(saved_model_schema_version=1).SerializeToString()
    with path.open("wb") as file:
        file.writelines([version, *wire.nested(2, meta_graph_pieces)])


def write_fingerprint(folder: Path) -> None:
    """Writes fingerprint.pb; TensorFlow parses saved_model.pb for it, in several times the memory of its size."""
    from tensorflow.python.saved_model import fingerprinting_utils  # no public name for it

    fingerprinting_utils.write_fingerprint(str(folder))
