"""Checks that a signature is what clients of the Object Detection API, or of its source graph, expect."""

from unfreeze.export_record import GraphSource
from unfreeze.verification.meta_graph import Signature
from unfreeze.verification.output_comparison import DETECTION
from unfreeze.verification.sample_calls import (
    INPUT_KEYS,
    SERVING,
    fixed_batch_size,
    image_input,
    takes_images,
)


def source_graph_mismatches(serving: Signature, graph: GraphSource) -> list[str]:
    """Describes inputs and outputs that differ from those of the source graph."""
    return [
        f"{SERVING} has the {kind} {', '.join(sorted(ours)) or 'none'} (source graph: {', '.join(sorted(theirs))})"
        for kind, ours, theirs in (
            ("inputs", serving.inputs, graph.inputs),
            ("outputs", serving.outputs, graph.outputs),
        )
        if set(ours) != set(theirs)
    ]


def serving_mismatches(serving: Signature) -> list[str]:
    """Describes what clients of the Object Detection API's exports do not expect."""
    problems = []
    if not serving.inputs or image_input(serving)[0] not in INPUT_KEYS:
        inputs = ", ".join(serving.inputs) or "nothing"
        problems.append(f"{SERVING} takes {inputs} (expected: {' or '.join(INPUT_KEYS)})")
    elif not takes_images(serving):
        problems.append(f"{SERVING} takes {image_input(serving)[1]}, which cannot be images")
    missing = [name for name in DETECTION if name not in serving.outputs]
    if missing:
        problems.append(f"{SERVING} has no {', '.join(missing)}")
    problems += [
        f"{SERVING}: {key} is {tensor.dtype}, not float32"
        for key, tensor in serving.outputs.items()
        if tensor.dtype != "float32"
    ]
    return problems


def batch_mismatches(signature: Signature) -> list[str]:
    """Describes the outputs whose static shape does not have one row for each image."""
    fixed = fixed_batch_size(signature) if signature.inputs else None
    return [
        f"{signature.name}: {key} is {tensor}, its first dimension is not the batch"
        for key, tensor in signature.outputs.items()
        if tensor.shape is not None and (not tensor.shape or tensor.shape[0] not in (None, fixed))
    ]
