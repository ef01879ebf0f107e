"""Inspects a SavedModel or a frozen graph, without running it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from unfreeze.errors import UnfreezeError
from unfreeze.export_record import ExportRecord, read_record
from unfreeze.formatting import amount, first_line, megabytes
from unfreeze.graphs import (
    Constant,
    Parameter,
    Parameters,
    find_parameters,
    read_frozen_graph,
    read_graph_def,
    reporting_damage,
)
from unfreeze.inspection.inspection import SERVING_FINDINGS, Field, Inspection, field
from unfreeze.inspection.records import exported_file_report, record_fields
from unfreeze.targets.serving_responses import expected_bytes, size_findings
from unfreeze.verification import file_checks
from unfreeze.verification.meta_graph import MetaGraph, Signature, TensorInfo, read_meta_graph
from unfreeze.verification.signature_checks import batch_mismatches
from unfreeze.weights import read_index
from unfreeze.weights.bindings import BINDING_DESCRIPTIONS

SHOWN = 12  # constants of each kind in the report; the JSON has all
DETECTION = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
VARIABLES = ("Variable", "VariableV2", "VarHandleOp")
# Nodes without consumers that are not outputs.
NOT_OUTPUTS = ("Assert", "Const", "NoOp", "Placeholder", *VARIABLES)


@reporting_damage
def inspect_saved_model(folder: Path) -> Inspection:
    """Inspects a SavedModel folder: its signatures, how it stores its weights, and which program wrote it."""
    kind = "SavedModel"
    try:
        meta_graph = read_meta_graph(folder)
        record = read_record(folder) or ExportRecord()
    except UnfreezeError as error:
        return Inspection(folder, kind, (), [str(error)])
    unknown, nodes = _operations(folder / "saved_model.pb")
    variables, variables_bytes, problems = _variables(folder)
    missing = file_checks.file_mismatches(
        folder,
        file_checks.file_digests(folder) if record.files else {},
        record.files,
        constants=record.has_constant_weights,
    )
    problems = [*missing, *(problems if not missing else [])]
    frozen = not variables and meta_graph.constants_bytes > 0
    problems += file_checks.frozen_mismatches(meta_graph, variables_bytes) if variables else []
    fields = [
        _signatures_field(meta_graph),
        field("frozen", frozen, "yes: the weights are constants in saved_model.pb" if frozen else "no"),
        field(
            "variables",
            {"count": variables, "bytes": variables_bytes},
            f"{variables}, {megabytes(variables_bytes)}",
        ),
        *_weights_field(record),
        field("constants_bytes", meta_graph.constants_bytes, ""),
        field("graph", {"nodes": nodes, "bytes": meta_graph.path.stat().st_size}, _format_graph(meta_graph, nodes)),
        *_response_fields(meta_graph),
        field("written_by", _writer(meta_graph, record)),
        field("tensorflow_version", meta_graph.tensorflow_version or None, meta_graph.tensorflow_version),
        *record_fields(record),
    ]
    return Inspection(folder, kind, fields, [*problems, *_signature_problems(meta_graph), *_unknown_problems(unknown)])


@reporting_damage
def inspect_graph(path: Path) -> Inspection:
    """Inspects a GraphDef in a file: a frozen graph, or one whose variables have no values.

    Raises: SavedModelError if the file is not a GraphDef.
    """
    graph_def = read_graph_def(path)
    operations = {node.op for node in graph_def.node}
    unknown = _unknown(operations, {function.signature.name for function in graph_def.library.function})
    variables = sum(node.op in VARIABLES for node in graph_def.node)
    constants_bytes = sum(node.attr["value"].tensor.ByteSize() for node in graph_def.node if node.op == "Const")
    problems = _unknown_problems(unknown)
    inputs, outputs = _inputs_and_outputs(graph_def, problems)
    if variables:
        problems.append(
            f"{amount(variables, 'variable')} without values; export the checkpoint that belongs to the graph"
        )
    absent = [name for name in DETECTION if name not in outputs]
    if absent:
        problems.append(f"not a detector of the Object Detection API: no output {', '.join(absent)}")
    fields = [
        field("inputs", {name: str(tensor) for name, tensor in inputs.items()}),
        field("outputs", {name: str(tensor) for name, tensor in outputs.items()}),
        field("frozen", not variables, "no" if variables else "yes: the weights are constants"),
        field("constants_bytes", constants_bytes, megabytes(constants_bytes)),
        field(
            "graph", {"nodes": len(graph_def.node), "bytes": path.stat().st_size}, amount(len(graph_def.node), "node")
        ),
        field("graph_version", graph_def.versions.producer, str(graph_def.versions.producer or "")),
        *(_constant_fields_of(path) if not variables else []),
    ]
    exported_fields, exported_problems = exported_file_report(path)
    return Inspection(
        path,
        "graph with variables" if variables else "frozen graph",
        [*fields, *exported_fields],
        [*problems, *exported_problems],
    )


def _constant_fields_of(path: Path) -> list[Field]:
    return constant_fields(find_parameters(read_frozen_graph(path)))


def _inputs_and_outputs(graph_def: Any, problems: list[str]) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """Returns inputs and outputs of a graph with inferred shapes; adds a problem if TensorFlow rejects the graph."""
    used = {name.lstrip("^").split(":")[0] for node in graph_def.node for name in node.input}
    inputs = [node.name for node in graph_def.node if node.op == "Placeholder"]
    outputs = [node.name for node in graph_def.node if node.name not in used and node.op not in NOT_OUTPUTS]
    if problems:  # with an unknown operation no shape can be inferred
        unknown = {name: TensorInfo(name, "?", None) for name in (*inputs, *outputs)}
        return {name: unknown[name] for name in inputs}, {name: unknown[name] for name in outputs}
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.graph_util.import_graph_def(graph_def, name="")
    except ValueError as error:
        problems.append(f"this TensorFlow ({tf.__version__}) rejects the graph: {first_line(error)}")
        return {}, {}
    return {name: _tensor(graph, name) for name in inputs}, {name: _tensor(graph, name) for name in sorted(outputs)}


def _tensor(graph: tf.Graph, name: str) -> TensorInfo:
    outputs = graph.get_operation_by_name(name).outputs
    if not outputs:
        return TensorInfo(name, "none", None)
    shape = tuple(outputs[0].shape.as_list()) if outputs[0].shape.rank is not None else None
    return TensorInfo(name, outputs[0].dtype.name, shape)


def _operations(path: Path) -> tuple[list[str], int]:
    """Returns the operations of a SavedModel that this TensorFlow does not know, and the number of its nodes."""
    meta_graph = saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs[0]
    functions = meta_graph.graph_def.library.function
    nodes = [*meta_graph.graph_def.node, *(node for function in functions for node in function.node_def)]
    return _unknown({node.op for node in nodes}, {function.signature.name for function in functions}), len(nodes)


def _unknown(operations: Iterable[str], functions: Collection[str]) -> list[str]:
    return sorted(
        op for op in operations if op not in functions and not op.startswith("_") and not hasattr(tf.raw_ops, op)
    )


def _unknown_problems(unknown: Collection[str]) -> list[str]:
    return [f"this TensorFlow ({tf.__version__}) does not know {', '.join(unknown)}"] if unknown else []


def _variables(folder: Path) -> tuple[int, int, list[str]]:
    """Returns the number of variables, their size in bytes, and the problems of their files."""
    prefix = folder / "variables" / "variables"
    if not prefix.with_name("variables.index").is_file():
        return 0, 0, []
    try:
        stored = read_index(prefix)
    except UnfreezeError as error:
        return 0, 0, [str(error)]
    tensors = [tensor for tensor in stored.tensors.values() if tensor.dtype != "string"]
    missing = stored.missing_data()
    return len(tensors), sum(tensor.size_bytes for tensor in tensors), [f"variables/: {missing}"] if missing else []


def _signatures_field(meta_graph: MetaGraph) -> Field:
    signatures = {name: _describe(signature) for name, signature in meta_graph.signatures.items()}
    return field("signatures", signatures, _format_signatures(meta_graph))


def _describe(signature: Signature) -> dict[str, Any]:
    def describe_tensors(tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
        return {
            key: {
                "dtype": tensor.dtype,
                "shape": None if tensor.shape is None else list(tensor.shape),
                "tensor": tensor.name,
            }
            for key, tensor in tensors.items()
        }

    return {"inputs": describe_tensors(signature.inputs), "outputs": describe_tensors(signature.outputs)}


def _format_signatures(meta_graph: MetaGraph) -> str:
    """Returns a line for each signature; outputs that several signatures share are listed once."""
    lines: list[str] = []
    first_with: dict[str, str] = {}  # outputs -> the first signature that has them
    for name in sorted(meta_graph.signatures, key=lambda name: (name != "serving_default", name)):
        signature = meta_graph.signatures[name]
        inputs = ", ".join(f"{key}: {tensor}, tensor {tensor.name}" for key, tensor in signature.inputs.items())
        outputs = "\n".join(f"  {key}: {tensor}" for key, tensor in signature.outputs.items())
        same = first_with.get(outputs)
        returned = f"the same as {same}" if same else amount(len(signature.outputs), "output")
        lines.append(f"{name}({inputs}) -> {returned}")
        if not same:
            lines += [f"  {key}: {tensor}, tensor {tensor.name}" for key, tensor in signature.outputs.items()]
            first_with[outputs] = name
    return "\n".join(lines) or "none"


def _response_fields(meta_graph: MetaGraph) -> list[Field]:
    """Returns the size of a response to one image, and which servers and clients do not accept that size."""
    serving = meta_graph.signatures.get("serving_default")
    if serving is None:
        return []
    size = expected_bytes({name: (tensor.dtype, tensor.shape) for name, tensor in serving.outputs.items()})
    if size is None:
        text = "unknown from the shapes; `unfreeze publish` measures it"
        return [field("response_bytes_per_image", None, text), field(SERVING_FINDINGS, [])]
    return [
        field("response_bytes_per_image", size.to_dict(), f"about {size}"),
        field(SERVING_FINDINGS, size_findings(size)),
    ]


def _format_graph(meta_graph: MetaGraph, nodes: int) -> str:
    constants, size = megabytes(meta_graph.constants_bytes), megabytes(meta_graph.path.stat().st_size)
    return f"{amount(nodes, 'node')}, {size}, of these {constants} are constants"


def _writer(meta_graph: MetaGraph, record: ExportRecord) -> str:
    """Returns the program that wrote a SavedModel, by export.json or by the tensor names of the OD API's exporters."""
    if record.unfreeze:
        return f"unfreeze {record.unfreeze}"
    serving = meta_graph.signatures.get("serving_default")
    if serving is None or not set(DETECTION) <= set(serving.outputs):
        return "unknown"
    if serving.outputs["detection_boxes"].name == "detection_boxes:0":
        return "export_inference_graph of the Object Detection API (TensorFlow 1)"
    if "input_tensor" in serving.inputs:
        return "exporter_main_v2 of the Object Detection API (TensorFlow 2)"
    return "unknown"


def _weights_field(record: ExportRecord) -> list[Field]:
    """Returns how an export stores its weights."""
    description = BINDING_DESCRIPTIONS.get(record.binding or "")
    return [field("weights", record.binding, description)] if description else []


def _signature_problems(meta_graph: MetaGraph) -> list[str]:
    if not meta_graph.signatures:
        return ["no signature: no server can call this model"]
    serving = meta_graph.signatures.get("serving_default")
    if serving is None:
        return [f"no signature serving_default; the signatures are {', '.join(meta_graph.signatures)}"]
    absent = [name for name in DETECTION if name not in serving.outputs]
    if absent:
        return [f"not a detector of the Object Detection API: serving_default does not return {', '.join(absent)}"]
    return batch_mismatches(serving)


def constant_fields(parameters: Parameters) -> list[Field]:
    """Returns which constants are weights and which are not, and why; the report lists the largest first."""
    variables, constants = parameters.variables, parameters.constants
    variable_rows = [
        {"name": p.name, "node": p.place[1], "function": p.place[0], "shape": list(p.shape), "dtype": p.dtype.name,
         "reason": p.reason}
        for p in variables
    ]  # fmt: skip
    constant_rows = [
        {"node": c.place[1], "function": c.place[0], "shape": list(c.shape), "dtype": c.dtype.name, "reason": c.reason}
        for c in sorted(constants, key=lambda constant: -constant.size_bytes)
    ]
    return [
        field("variables", variable_rows, "\n".join([_count_and_size(variables), *_largest(variable_rows)])),
        field("constants", constant_rows, "\n".join([_count_and_size(constants), *_largest(constant_rows)])),
    ]


def _count_and_size(constants: Sequence[Parameter | Constant]) -> str:
    return f"{amount(len(constants))}, {megabytes(sum(constant.size_bytes for constant in constants))}"


def _largest(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    largest = sorted(rows, key=lambda row: -math.prod(row["shape"]))[:SHOWN]
    lines = [f"{row.get('name', row['node'])} {row['dtype']} {row['shape']}: {row['reason']}" for row in largest]
    return [*lines, *([f"… and {len(rows) - SHOWN} smaller ones (--json lists all)"] if len(rows) > SHOWN else [])]
