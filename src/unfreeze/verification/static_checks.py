"""The checks that need no run of the model: files, signatures and weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from unfreeze.export_record import FileDigest
from unfreeze.formatting import megabytes
from unfreeze.verification import file_checks
from unfreeze.verification.failures import Failure
from unfreeze.verification.report import SHOWN, Check, Status, check_result
from unfreeze.verification.runs import Runs, Subject
from unfreeze.verification.sample_calls import SERVING
from unfreeze.verification.signature_checks import batch_mismatches, serving_mismatches, source_graph_mismatches
from unfreeze.verification.weight_digests import VALUE, ExpectedWeight, TensorDigest, weight_mismatches

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def check_files(runs: Runs, files: Mapping[str, FileDigest], recorded: Mapping[str, FileDigest]) -> Check:
    """Checks that files are complete, tensors match their checksums, and weights are where the export put them."""
    subject, tensors = runs.subject, runs.tensors.result()
    problems = file_checks.file_mismatches(subject.folder, files, recorded, constants=subject.constants)
    has_frozen_problem = any(file_checks.FROZEN in problem for problem in problems)
    if subject.constants:
        problems += [f"saved_model.pb cannot be read: {tensors}"] if isinstance(tensors, Failure) else []
    elif not any(problem.startswith("variables/") for problem in problems):  # these problems already explain why
        problems += [f"variables/ cannot be read: {tensors}"] if isinstance(tensors, Failure) else damage(tensors)
    variables_bytes = sum(tensor.size_bytes for tensor in readable(tensors).values())
    if not subject.constants and not has_frozen_problem:
        problems += file_checks.frozen_mismatches(subject.meta_graph, variables_bytes)
    size_bytes = sum(file.size_bytes for file in files.values())
    fingerprint = "with" if "fingerprint.pb" in files else "without"
    return check_result(
        "files",
        problems,
        f"{len(files)} files, {megabytes(size_bytes)}, of which {megabytes(files['saved_model.pb'].size_bytes)} are "
        f"the graph; {fingerprint} a fingerprint{'; equal to export.json' if recorded else ''}",
        {"files": len(files), "size_bytes": size_bytes, "constants_bytes": subject.meta_graph.constants_bytes},
    )


def check_signature(subject: Subject) -> Check:
    """Checks that inputs and outputs are those that clients expect, or those of the source graph."""
    meta_graph, graph = subject.meta_graph, subject.source_graph
    serving = meta_graph.signatures.get(SERVING)
    problems = [f"there is no {SERVING}"] if serving is None else []
    if serving is not None:
        problems += source_graph_mismatches(serving, graph) if graph else serving_mismatches(serving)
    for signature in meta_graph.signatures.values() if not graph else ():
        problems += batch_mismatches(signature)
    signatures = {
        name: {
            "inputs": {key: str(tensor) for key, tensor in signature.inputs.items()},
            "outputs": {key: str(tensor) for key, tensor in signature.outputs.items()},
        }
        for name, signature in sorted(meta_graph.signatures.items())
    }
    inputs = ", ".join(f"{key} {tensor}" for key, tensor in (serving.inputs if serving else {}).items())
    others = ", ".join(name for name in signatures if name != SERVING)
    return check_result(
        "signature",
        problems,
        f"{SERVING}: {inputs} -> {len(serving.outputs) if serving else 0} outputs; others: {others or 'none'}",
        {"signatures": signatures},
    )


def check_weights(runs: Runs, weights: Mapping[str, ExpectedWeight]) -> Check:
    """Checks that every weight of the checkpoint is stored byte for byte: in variables/, or as a constant."""
    tensors = runs.tensors.result()
    stored = {name: tensor for name, tensor in readable(tensors).items() if name != OBJECT_GRAPH}
    damaged = damage(tensors)
    if not stored:
        return Check(
            "weights", Status.FAILED, damaged[0] if damaged else f"there are no variables: {file_checks.FROZEN}"
        )
    if runs.subject.constants:
        return _check_constants(weights, stored, damaged)
    return _check_variables(weights, stored, damaged, unreadable(tensors))


def _check_constants(
    weights: Mapping[str, ExpectedWeight], stored: Mapping[str, TensorDigest], damaged: Sequence[str]
) -> Check:
    if not weights and not damaged:
        return _not_compared(f"{len(stored)} constants in the graph")
    compared = [stored[weight.variable] for weight in weights.values() if weight.variable in stored]
    size = megabytes(sum(tensor.size_bytes for tensor in compared))
    return check_result(
        "weights",
        [*damaged, *weight_mismatches(weights, stored)],
        f"all {len(weights)} weights are constants of the graph, equal byte for byte; folded ones equal the computed "
        f"values: {size}",
        {"compared": len(weights)},
    )


def _check_variables(
    weights: Mapping[str, ExpectedWeight],
    stored: Mapping[str, TensorDigest],
    damaged: Sequence[str],
    unread: Mapping[str, Failure],
) -> Check:
    size_bytes = sum(tensor.size_bytes for tensor in stored.values())
    largest = max(stored, key=lambda name: stored[name].size_bytes)
    largest_size = megabytes(stored[largest].size_bytes)
    sizes = f"{megabytes(size_bytes)}, the largest is {largest.removesuffix(VALUE)} ({largest_size})"
    numbers: dict[str, Any] = {"variables": len(stored), "size_bytes": size_bytes, "largest": largest}
    if not weights and not damaged:
        return _not_compared(f"{len(stored)} variables with correct checksums: {sizes}", numbers)
    others = sorted(set(stored) - {weight.variable for weight in weights.values()})
    readable_weights = {key: weight for key, weight in weights.items() if weight.variable not in unread}
    return check_result(
        "weights",
        [*damaged, *weight_mismatches(readable_weights, stored)],
        f"all {len(weights)} weights are equal byte for byte: {sizes}"
        + (f"; further variables: {', '.join(others[:SHOWN])}" if others else ""),
        {**numbers, "compared": len(weights), "others": others},
    )


def _not_compared(counted: str, numbers: Mapping[str, Any] | None = None) -> Check:
    detail = f"not compared: there is no checkpoint and no export.json; {counted}"
    return Check("weights", Status.SKIPPED, detail, numbers or {})


Tensors = Mapping[str, TensorDigest | Failure] | Failure


def readable(tensors: Tensors) -> dict[str, TensorDigest]:
    """Returns the tensors that could be read."""
    if isinstance(tensors, Failure):
        return {}
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, TensorDigest)}


def unreadable(tensors: Tensors) -> dict[str, Failure]:
    """Returns why each of the other tensors could not be read."""
    if isinstance(tensors, Failure):
        return {}
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Failure)}


def damage(tensors: Tensors) -> list[str]:
    """Describes the first tensor that could not be read, and counts the others."""
    damaged = unreadable(tensors)
    if not damaged or isinstance(tensors, Failure):
        return []
    name, failure = next(iter(damaged.items()))
    more = f" (and {len(damaged) - 1} of the other {len(tensors) - 1})" if len(damaged) > 1 else ""
    return [f"{name} is damaged{more}: {failure}"]
