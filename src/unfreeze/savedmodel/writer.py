"""A traced detector to a SavedModel folder: one network, all signatures, the checkpoint's variables.

`tf.saved_model.save` would do, but it traces functions that save and restore each variable by itself, and wraps each
signature once more. For a detector that is half of `saved_model.pb`, most of the time to write it and much of the time
to load it. Here one SaveV2 and one RestoreV2 do the same, and the variables keep the checkpoint's names.

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
from unfreeze.savedmodel.graph import MainGraph
from unfreeze.savedmodel.network import WrittenFunction
from unfreeze.savedmodel.objects import Handle, ObjectGraph, variable_key
from unfreeze.savedmodel.signatures import BOXES, IMAGE_AND_BOXES, Shape, called, named, signature, with_boxes

if TYPE_CHECKING:  # a graph that is unfrozen needs no detector
    from unfreeze.detectors import Detector

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
INITIALIZER = "__saved_model_init_op"
PART_BYTES = 8 << 20  # of variables/, of which no more is in memory at once

Values = Callable[[Sequence[str]], Sequence[Any]]  # names of variables to their values


class Derived(Protocol):
    """A float32 variable `[size]` that is not saved: a loader creates a resource, and runs the initializer."""

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
    """A detector whose network is traced: from here on every weight that it needs has been asked for."""

    detector: Detector
    detect: Any  # the traced network, preprocessed images and true shapes to outputs
    masks_of_boxes: Any = None  # the same with boxes, to their masks; None where the detector has none


def trace(detector: Detector) -> Exportable:
    """Traces the network once, for any number of images; the signatures all call this one function."""
    specs = [tf.TensorSpec([None, *detector.preprocessed_shape]), tf.TensorSpec([None, 3], tf.int32)]
    specs += detector.side_inputs.values()
    if detector.masks_of_boxes is None:
        return Exportable(detector, _traced(detector.detect, specs))
    # Two ends of one network: it is in the graph once.
    network = _traced(detector.predict, specs)
    masks_of_boxes = detector.masks_of_boxes
    return Exportable(
        detector,
        _traced(lambda images, shapes: detector.postprocess(network(images, shapes), shapes), specs),
        _traced(lambda images, shapes, boxes: masks_of_boxes(network(images, shapes), shapes, boxes), [*specs, BOXES]),
    )


def _traced(call: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> Any:
    return tf.function(call, input_signature=specs, autograph=False).get_concrete_function()


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

    The first of `input_types` is `serving_default` as well. `label_map` is a file, which goes to `assets/`, and the
    class names in it, which the signature `named` adds to the detections. `values` are those of the variables,
    `derived` are the tensors that a loader computes from the variables.
    """
    made = {name: _signature(exportable, name, input_shape) for name in input_types}
    serving = made[input_types[0]]
    signatures = {"serving_default": serving, **made}
    if label_map is not None:
        signatures["named"] = named(serving, label_map[1])
    serving_boxes = input_types[0] == IMAGE_AND_BOXES
    detector = with_boxes(exportable.detector) if serving_boxes else exportable.detector
    arguments = [detector.input_name, *detector.side_inputs]
    write_signatures(signatures, arguments, variables, values, folder, derived=derived, label_map=label_map)
    write_fingerprint(folder)


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
) -> None:
    """Writes traced functions on one set of variables as the signatures of a SavedModel, all but its fingerprint.

    Args:
        signatures: `serving_default` among them, which is the model's `__call__` too.
        arguments: the order in which `__call__` takes its inputs.
        variables: by the name that each has in variables/; the signatures have captured their handles.
        values: gives what is saved for some of the variables, by their names; or what `save_values` has returned.
        derived: a variable that a loader fills once the variables are restored.
        functions: gives functions that the signatures call by name; asked for last.
    """
    objects, graph = ObjectGraph(), MainGraph()
    nodes = _variables(objects, graph, variables)
    concretes = list(signatures.values())
    if derived is not None:
        number = objects.child(0, "derived", objects.computed_variable(derived.handle, derived.size))
        nodes[number] = graph.handle("derived", tf.float32, [derived.size])
        objects.child(0, "initializer", objects.initializer(derived.creator, derived.initializer))
        concretes += [derived.creator, derived.initializer]
    call = called(signatures["serving_default"], arguments)
    objects.child(0, "__call__", objects.function(call, arguments))
    signature_map = objects.child(0, "signatures", objects.user_object("signature_map"))
    meta_graph = meta_graph_pb2.MetaGraphDef()
    for name, concrete in signatures.items():
        objects.child(signature_map, name, objects.signature(concrete))
        twin = next((other for other in meta_graph.signature_def if signatures[other] is concrete), None)
        if twin is not None:  # the same nodes: a session that has run the one need not prepare for the other
            meta_graph.signature_def[name].CopyFrom(meta_graph.signature_def[twin])
            continue
        captured = [nodes[each] for each in objects.captured(concrete)]
        meta_graph.signature_def[name].CopyFrom(graph.signature(name, concrete, captured))
    if derived is not None:
        graph.initializer(derived.initializer, [nodes[each] for each in objects.captured(derived.initializer)])
        _tell_initializer(meta_graph)
    _add_label_map(objects, graph, meta_graph, folder, label_map)
    if variables:
        _write_variables(folder, objects, variables, values)
    else:  # as the Object Detection API leaves it: what has no object graph is loaded as a model of TensorFlow 1
        (folder / "variables").mkdir(parents=True, exist_ok=True)
        objects.saved.Clear()
    distinct = {id(each): each for each in (call, *concretes)}
    _finish(meta_graph, graph, objects, list(distinct.values()), functions(), folder / "saved_model.pb")


def _signature(exportable: Exportable, input_type: str, input_shape: Shape | None) -> Any:
    if input_type == IMAGE_AND_BOXES:
        return signature(with_boxes(exportable.detector), exportable.masks_of_boxes, "image_tensor", input_shape)
    return signature(exportable.detector, exportable.detect, input_type, input_shape)


def _variables(objects: ObjectGraph, graph: MainGraph, variables: Mapping[str, tf.Variable | Handle]) -> dict[int, str]:
    """Each variable as an object and as a node of the graph; objects to nodes."""
    held = objects.child(0, "weights", objects.user_object("trackable_list_wrapper"))
    nodes = {}
    for i, (name, variable) in enumerate(variables.items()):
        number = objects.child(held, str(i), objects.variable(name, variable))
        nodes[number] = graph.handle(name, variable.dtype, variable.shape)
    if variables:
        graph.saver({variable_key(name): (graph.safe(name), variable.dtype) for name, variable in variables.items()})
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
    """Fills the meta graph with all but the other functions, and writes it with these."""
    others = list(functions)
    small = graph.finished(concretes)
    own = len(small.library.function)
    operations = {operation for other in others for operation in other.operations} - {other.name for other in others}
    small.library.function.append(_one_node_each(operations))
    # For the list of operations: with it, an older runtime knows which attributes are newer than itself.
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
    """A function that has a node of each of these operations: the list of operations is made from nodes."""
    function = function_pb2.FunctionDef()
    function.signature.name = "operations_of_other_functions"
    for operation in sorted(operations):
        function.node_def.add(name=operation, op=operation)
    return function


def _tell_initializer(meta_graph: Any) -> None:
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
    """Writes the values of variables in parts of about PART_BYTES, of which one at a time is in memory.

    Returns the prefixes of the parts. The largest values come first: room that one leaves in memory fits the next. The
    first part holds the tensors in `besides` too, by their keys.
    """
    (folder / "variables").mkdir(parents=True, exist_ok=True)
    sizes_bytes = {name: each.dtype.size * each.shape.num_elements() for name, each in variables.items()}
    written: list[str] = []
    for names in _parts(sizes_bytes, PART_BYTES):
        tensors = dict(zip(map(variable_key, names), values(names), strict=True))
        if not written:
            tensors |= besides or {}
        written.append(str(folder / "variables" / f"variables_part_{len(written)}"))
        save_tensors(written[-1], tensors)
        del tensors  # before the next are made
    return written


def _write_variables(
    folder: Path, objects: ObjectGraph, variables: Mapping[str, tf.Variable | Handle], values: Values | Sequence[str]
) -> None:
    """The object graph and the values under one prefix."""
    prefix = str(folder / "variables" / "variables")
    held = {OBJECT_GRAPH: tf.constant(objects.trackable.SerializeToString(deterministic=True))}
    if callable(values):
        parts = save_values(folder, variables, values, besides=held)
    else:
        parts = [*values, f"{prefix}_objects"]
        save_tensors(parts[-1], held)
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=prefix, delete_old_dirs=False)


def _parts(sizes_bytes: Mapping[str, int], part_bytes: int) -> list[list[str]]:
    """Names of variables, the largest first, in lists of `part_bytes` together, or of one."""
    parts: list[list[str]] = [[]]
    held_bytes = 0
    for name in sorted(sizes_bytes, key=lambda name: -sizes_bytes[name]):
        if parts[-1] and held_bytes + sizes_bytes[name] > part_bytes:
            parts.append([])
            held_bytes = 0
        parts[-1].append(name)
        held_bytes += sizes_bytes[name]
    return parts


def save_tensors(prefix: str, tensors: Mapping[str, Any]) -> None:
    """Writes a checkpoint of tensors by key."""
    keys = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=keys, shape_and_slices=[""] * len(keys), tensors=[tensors[key] for key in keys]
    )


def _write_graph(path: Path, meta_graph: Any, others: Sequence[WrittenFunction]) -> None:
    """The message of saved_model.proto in pieces, innermost first: whole, it would be in memory several times."""
    library = [meta_graph.graph_def.library.SerializeToString(deterministic=True)]
    for other in others:
        library += wire.nested(1, other.pieces)
    meta_graph.graph_def.ClearField("library")
    graph = [meta_graph.graph_def.SerializeToString(deterministic=True), *wire.nested(2, library)]
    meta_graph.ClearField("graph_def")
    whole = [meta_graph.SerializeToString(deterministic=True), *wire.nested(2, graph)]
    version = saved_model_pb2.SavedModel(saved_model_schema_version=1).SerializeToString()
    with path.open("wb") as file:
        file.writelines([version, *wire.nested(2, whole)])


def write_fingerprint(folder: Path) -> None:
    """Writes fingerprint.pb; TensorFlow parses saved_model.pb for it, which takes several times its size in memory."""
    from tensorflow.python.saved_model import fingerprinting_utils  # no public name for it

    fingerprinting_utils.write_fingerprint(str(folder))
