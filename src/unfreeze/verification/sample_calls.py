"""The calls that run a signature on sample inputs."""

from collections.abc import Sequence

from unfreeze.export_record import GraphSource
from unfreeze.verification.calls import Batch, Call
from unfreeze.verification.feeds import (
    NUMBER_DTYPES,
    SIDE_INPUT_DTYPES,
    STRING_INPUT_TYPES,
    can_take_images,
    image_feeds,
    numbers,
    side_feeds,
    single_image_or_numbers,
)
from unfreeze.verification.meta_graph import Signature, TensorInfo
from unfreeze.verification.sample_inputs import SampleInput

SERVING = "serving_default"
INPUT_KEYS = ("inputs", "input_tensor")  # what clients of the TF1 and of the TF2 exporter send


def takes_images(signature: Signature) -> bool:
    """Returns whether one input can take images, and all others numbers."""
    if not signature.inputs or any(tensor.dtype not in SIDE_INPUT_DTYPES for tensor in side_inputs(signature).values()):
        return False
    return can_take_images(image_input(signature)[1])


def takes_images_or_numbers(signature: Signature) -> bool:
    """Returns whether every input can take images or numbers."""
    return bool(signature.inputs) and all(
        tensor.dtype in NUMBER_DTYPES or can_take_images(tensor) for tensor in signature.inputs.values()
    )


def image_input(signature: Signature) -> tuple[str, TensorInfo]:
    """Returns key and tensor of the input for images: the one with a usual key, otherwise the first."""
    key = next((key for key in INPUT_KEYS if key in signature.inputs), next(iter(signature.inputs)))
    return key, signature.inputs[key]


def side_inputs(signature: Signature) -> dict[str, TensorInfo]:
    """Returns the inputs besides the images, by key."""
    image_key, _ = image_input(signature)
    return {key: tensor for key, tensor in signature.inputs.items() if key != image_key}


def fixed_batch_size(signature: Signature) -> int | None:
    """Returns the number of images that the signature requires; None if it takes any number."""
    shape = image_input(signature)[1].shape
    return shape[0] if shape else None


def all_batches(signature: Signature) -> list[Batch]:
    """Returns each image of a sample input alone, and both together; one batch that fits where the size is fixed."""
    fixed = fixed_batch_size(signature)
    if fixed is None:
        return [(0,), (1,), (0, 1)]
    return [(0,), (1,)] if fixed == 1 else [tuple(index % 2 for index in range(fixed))]


def smallest_batch(signature: Signature) -> list[Batch]:
    """Returns the first image alone, or the batch that fits where the size is fixed: a call may take seconds."""
    return all_batches(signature)[:1]


def calls_of(
    signature: Signature,
    samples: Sequence[SampleInput],
    batches: Sequence[Batch],
    *,
    input_type: str | None = None,
) -> list[Call]:
    """Returns a call of the signature for each batch of each sample input.

    Args:
        input_type: what the strings of the input are, one of `STRING_INPUT_TYPES`, if that is known.
    """
    key, tensor = image_input(signature)
    candidates = (input_type, signature.name, *(name for name in STRING_INPUT_TYPES if name in tensor.name))
    string_type = next((name for name in candidates if name in STRING_INPUT_TYPES), None)
    outputs = {name: output.name for name, output in signature.outputs.items()}

    def call(sample: SampleInput, batch: Batch) -> Call:
        feeds = image_feeds(sample.images[list(batch)], tensor, string_type)
        values = numbers if feeds else single_image_or_numbers
        return Call(
            signature=signature.name,
            input=key,
            input_tensor=tensor.name,
            outputs=outputs,
            feeds=feeds or [values(tensor, batch)],
            side_inputs=side_feeds(side_inputs(signature), batch, values),
            sample=sample.name,
            batch=batch,
        )

    return [call(sample, batch) for sample in samples for batch in batches]


def call_of_source_graph(call: Call, graph: GraphSource) -> Call:
    """Returns the same call for the frozen graph that the SavedModel was exported from."""
    return Call(
        signature="",
        input=call.input,
        input_tensor=graph.inputs[call.input],
        outputs=graph.outputs,
        feeds=call.feeds,
        side_inputs={key: (graph.inputs[key], feed) for key, (_, feed) in call.side_inputs.items()},
        sample=call.sample,
        batch=call.batch,
    )
