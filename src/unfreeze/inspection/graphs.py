"""What a SavedModel or a frozen graph is, and what is wrong with it, without running it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from unfreeze.errors import UnfreezeError
from unfreeze.export_record import ExportRecord, read_record
from unfreeze.formatting import amount, megabytes
from unfreeze.graphs import find_parameters, read_frozen_graph, read_graph_def
from unfreeze.inspection.inspection import Field, Inspection, field
from unfreeze.targets.serving_responses import expected_bytes, size_findings
from unfreeze.verification import file_checks
from unfreeze.verification.meta_graph import MetaGraph, Signature, TensorInfo, read_meta_graph
from unfreeze.verification.signature_checks import batch_mismatches
from unfreeze.weights import read_index
from unfreeze.weights.bindings import BINDING_DESCRIPTIONS

SHOWN = 12  # constants of each kind that are told one by one
DETECTION = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
VARIABLES = ("Variable", "VariableV2", "VarHandleOp")
# Nodes that end a graph without being an answer.
NO_ANSWERS = ("Assert", "Const", "NoOp", "Placeholder", *VARIABLES)


def inspect_saved_model(folder: Path) -> Inspection:
    """A SavedModel folder: signatures, whether its weights are variables or constants, and who wrote it."""
    kind = "SavedModel"
    try:
        program = read_meta_graph(folder)
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
    frozen = not variables and program.constants_bytes > 0
    problems += file_checks.frozen_mismatches(program, variables_bytes) if variables else []
    fields = [
        field("signatures", {name: _described(each) for name, each in program.signatures.items()}, _told(program)),
        field("frozen", frozen, "yes: the weights are constants in saved_model.pb" if frozen else "no"),
        field(
            "variables",
            {"count": variables, "bytes": variables_bytes},
            f"{variables}, {megabytes(variables_bytes)}",
        ),
        *_weights_field(record),
        field("constants_bytes", program.constants_bytes, ""),
        field("graph", {"nodes": nodes, "bytes": program.path.stat().st_size}, _graph_told(program, nodes)),
        *_response(program),
        field("written_by", _writer(program, record)),
        field("tensorflow_version", program.tensorflow_version or None, program.tensorflow_version),
        *_record_fields(record),
    ]
    return Inspection(folder, kind, fields, [*problems, *_signature_problems(program), *_unknown_told(unknown)])


def inspect_graph(path: Path) -> Inspection:
    """A GraphDef in a file: a frozen graph, or one whose variables have no values.

    Raises: SavedModelError when it is not one.
    """
    graph_def = read_graph_def(path)
    operations = {node.op for node in graph_def.node}
    unknown = _unknown(operations, {function.signature.name for function in graph_def.library.function})
    variables = sum(node.op in VARIABLES for node in graph_def.node)
    constants_bytes = sum(node.attr["value"].tensor.ByteSize() for node in graph_def.node if node.op == "Const")
    problems = _unknown_told(unknown)
    inputs, outputs = _ends(graph_def, problems)
    if variables:
        problems.append(
            f"{amount(variables, 'variable')} without values: export the checkpoint that belongs to the graph"
        )
    absent = [name for name in DETECTION if name not in outputs]
    if absent:
        problems.append(f"no detector of the Object Detection API: it gives no {', '.join(absent)}")
    fields = [
        field("inputs", {name: str(each) for name, each in inputs.items()}),
        field("outputs", {name: str(each) for name, each in outputs.items()}),
        field("frozen", not variables, "no" if variables else "yes: the weights are constants"),
        field("constants_bytes", constants_bytes, megabytes(constants_bytes)),
        field(
            "graph", {"nodes": len(graph_def.node), "bytes": path.stat().st_size}, amount(len(graph_def.node), "node")
        ),
        field("graph_version", graph_def.versions.producer, str(graph_def.versions.producer or "")),
        *(_verdicts(path) if not variables else []),
    ]
    return Inspection(path, "graph with variables" if variables else "frozen graph", fields, problems)


def _verdicts(path: Path) -> list[Field]:
    """Which constants were variables, and why the others were not."""
    found = find_parameters(read_frozen_graph(path))
    return constant_fields(found.found, found.kept)


def _ends(graph_def: Any, problems: list[str]) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """Inputs and outputs of a graph, as TensorFlow infers them; a graph that it refuses is a problem."""
    used = {name.lstrip("^").split(":")[0] for node in graph_def.node for name in node.input}
    takes = [node.name for node in graph_def.node if node.op == "Placeholder"]
    gives = [node.name for node in graph_def.node if node.name not in used and node.op not in NO_ANSWERS]
    if problems:  # an unknown operation: no shape is inferred
        return {name: TensorInfo(name, "?", None) for name in takes}, {
            name: TensorInfo(name, "?", None) for name in gives
        }
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.graph_util.import_graph_def(graph_def, name="")
    except ValueError as error:
        problems.append(f"this TensorFlow ({tf.__version__}) refuses the graph: {str(error).splitlines()[0]}")
        return {}, {}
    return {name: _tensor(graph, name) for name in takes}, {name: _tensor(graph, name) for name in sorted(gives)}


def _tensor(graph: tf.Graph, name: str) -> TensorInfo:
    outputs = graph.get_operation_by_name(name).outputs
    if not outputs:
        return TensorInfo(name, "none", None)
    shape = tuple(outputs[0].shape.as_list()) if outputs[0].shape.rank is not None else None
    return TensorInfo(name, outputs[0].dtype.name, shape)


def _operations(path: Path) -> tuple[list[str], int]:
    """The operations of a SavedModel that this TensorFlow does not know, and how many nodes it has."""
    meta_graph = saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs[0]
    functions = meta_graph.graph_def.library.function
    nodes = [*meta_graph.graph_def.node, *(node for function in functions for node in function.node_def)]
    return _unknown({node.op for node in nodes}, {function.signature.name for function in functions}), len(nodes)


def _unknown(operations: Iterable[str], functions: Collection[str]) -> list[str]:
    return sorted(
        op for op in operations if op not in functions and not op.startswith("_") and not hasattr(tf.raw_ops, op)
    )


def _unknown_told(unknown: Collection[str]) -> list[str]:
    return [f"this TensorFlow ({tf.__version__}) does not know {', '.join(unknown)}"] if unknown else []


def _variables(folder: Path) -> tuple[int, int, list[str]]:
    """How many variables, their bytes, and what is wrong with the files that hold them."""
    prefix = folder / "variables" / "variables"
    if not prefix.with_name("variables.index").is_file():
        return 0, 0, []
    try:
        stored = read_index(prefix)
    except UnfreezeError as error:
        return 0, 0, [str(error)]
    tensors = [tensor for tensor in stored.tensors.values() if tensor.dtype != "string"]
    fault = stored.missing_data()
    return len(tensors), sum(tensor.size_bytes for tensor in tensors), [f"variables/: {fault}"] if fault else []


def _described(signature: Signature) -> dict[str, Any]:
    def of(tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
        return {
            key: {"dtype": tensor.dtype, "shape": None if tensor.shape is None else list(tensor.shape)}
            for key, tensor in tensors.items()
        }

    return {"inputs": of(signature.inputs), "outputs": of(signature.outputs)}


def _told(program: MetaGraph) -> str:
    """Every signature; the outputs of those that answer the same are told once."""
    lines: list[str] = []
    told: dict[str, str] = {}
    for name, signature in sorted(program.signatures.items(), key=lambda each: (each[0] != "serving_default", each[0])):
        taken = ", ".join(f"{key}: {tensor}" for key, tensor in signature.inputs.items())
        outputs = "\n".join(f"  {key}: {tensor}" for key, tensor in signature.outputs.items())
        same = told.get(outputs)
        lines.append(
            f"{name}({taken}) -> {f'the same as {same}' if same else amount(len(signature.outputs), 'output')}"
        )
        if not same:
            lines += outputs.splitlines()
            told[outputs] = name
    return "\n".join(lines) or "none"


def _response(program: MetaGraph) -> list[Field]:
    """How large an answer to one picture is by the shapes of its outputs, and who does not take that."""
    serving = program.signatures.get("serving_default")
    if serving is None:
        return []
    size = expected_bytes({name: (tensor.dtype, tensor.shape) for name, tensor in serving.outputs.items()})
    if size is None:
        told = "not known from the shapes; `unfreeze publish` measures it"
        return [field("response_bytes_per_picture", None, told), field("serving_findings", [])]
    return [
        field("response_bytes_per_picture", size.to_dict(), f"about {size}"),
        field("serving_findings", size_findings(size)),
    ]


def _graph_told(program: MetaGraph, nodes: int) -> str:
    constants, size = megabytes(program.constants_bytes), megabytes(program.path.stat().st_size)
    return f"{amount(nodes, 'node')}, {size}, of these {constants} are constants"


def _writer(program: MetaGraph, record: ExportRecord) -> str:
    """Who wrote it: from export.json, or by the names that the two original exporters give their tensors."""
    if record.unfreeze:
        return f"unfreeze {record.unfreeze}"
    serving = program.signatures.get("serving_default")
    if serving is None or not set(DETECTION) <= set(serving.outputs):
        return "unknown"
    if serving.outputs["detection_boxes"].name == "detection_boxes:0":
        return "export_inference_graph of the Object Detection API (TensorFlow 1)"
    if "input_tensor" in serving.inputs:
        return "exporter_main_v2 of the Object Detection API (TensorFlow 2)"
    return "unknown"


def _weights_field(record: ExportRecord) -> list[Field]:
    """How the weights of an export reach its network."""
    description = BINDING_DESCRIPTIONS.get(record.binding or "")
    return [field("weights", record.binding, description)] if description else []


def _record_fields(record: ExportRecord) -> list[Field]:
    """The summary of export.json, of which a graph's has less than a checkpoint's."""
    if record == ExportRecord():
        return []
    passed = sum(check.status == "passed" for check in record.checks)
    verified = f"yes, {amount(passed, 'check')} passed" if record.verified else "no: run `unfreeze verify`"
    fields = [
        field("model", record.model),
        field("feature_extractor", record.feature_extractor),
        field("num_classes", record.num_classes),
        field("checkpoint", record.checkpoint and record.checkpoint.prefix),
        field("step", record.checkpoint and record.checkpoint.step, str(record.checkpoint and record.checkpoint.step)),
        field("from_graph", record.graph and record.graph.path),
        field("exported_at", record.exported_at),
    ]
    return [*(each for each in fields if each.value is not None), field("verified", record.verified, verified)]


def _signature_problems(program: MetaGraph) -> list[str]:
    if not program.signatures:
        return ["it has no signature, so that no server can call it"]
    serving = program.signatures.get("serving_default")
    if serving is None:
        return [f"it has no serving_default; its signatures: {', '.join(program.signatures)}"]
    absent = [name for name in DETECTION if name not in serving.outputs]
    if absent:
        return [f"no detector of the Object Detection API: serving_default gives no {', '.join(absent)}"]
    return batch_mismatches(serving)


def constant_fields(found: Sequence[Any], kept: Sequence[Any]) -> list[Field]:
    """Which constants are weights and which are not, and why, the largest first."""
    size, kept_size = (sum(each.size_bytes for each in some) for some in (found, kept))
    rows = [
        {"name": p.name, "node": p.place[1], "function": p.place[0], "shape": list(p.shape), "dtype": p.dtype.name,
         "reason": p.reason}
        for p in found
    ]  # fmt: skip
    rest = [
        {"node": k.place[1], "function": k.place[0], "shape": list(k.shape), "dtype": k.dtype.name, "reason": k.reason}
        for k in sorted(kept, key=lambda each: -each.size_bytes)
    ]
    return [
        field("variables", rows, "\n".join([f"{amount(len(found))}, {megabytes(size)}", *_lines(rows, found)])),
        field("constants", rest, "\n".join([f"{amount(len(kept))}, {megabytes(kept_size)}", *_lines(rest, kept)])),
    ]


def _lines(rows: Sequence[Mapping[str, Any]], each: Sequence[Any]) -> list[str]:
    ordered = sorted(zip(rows, each, strict=False), key=lambda pair: -math.prod(pair[0]["shape"]))[:SHOWN]
    told = [f"{row.get('name', row['node'])} {row['dtype']} {row['shape']}: {row['reason']}" for row, _ in ordered]
    return [*told, *([f"… and {len(rows) - SHOWN} smaller ones (--json tells all)"] if len(rows) > SHOWN else [])]
