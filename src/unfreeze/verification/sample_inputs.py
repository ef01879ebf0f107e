"""What to ask of a SavedModel, and how to read what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unfreeze.export_record import GraphSource
from unfreeze.verification.calls import Answers, Call
from unfreeze.verification.images import (
    feeds,
    lone_or_numbers,
    numbers,
    read_picture,
    sample_images,
    side_feeds,
    with_mirror,
)
from unfreeze.verification.meta_graph import MetaGraph, Signature, TensorInfo

SERVING = "serving_default"
INPUT_KEYS = ("inputs", "input_tensor")  # what clients of the TF1 and of the TF2 exporter send
SIDE_DTYPES = ("float32", "float64", "float16", "int32", "int64")
NUMBERS = (*SIDE_DTYPES, "uint8", "int8", "int16", "uint16", "bool")
FORMS = ("encoded_image_string_tensor", "tf_example")

# Heights and widths of an artificial picture: of a detector, which resizes it, and of any graph, which may insist on
# what its strides divide.
USUAL_SIZE, STRIDED_SIZE = (240, 320), (256, 384)

Answer = dict[str, np.ndarray]
Batch = tuple[int, ...]  # places of pictures in a pair


@dataclass(frozen=True)
class Case:
    """A pair of pictures of one size, `[2, H, W, 3]` uint8."""

    name: str
    pictures: np.ndarray
    artificial: bool = False


@dataclass(frozen=True)
class Asked:
    """A call together with what it is about: of which case, and which of its pictures are in the batch."""

    case: Case
    batch: Batch
    call: Call


def cases(
    programs: Sequence[MetaGraph],
    images: Sequence[str | Path | np.ndarray],
    usual: tuple[int, int] = USUAL_SIZE,
) -> list[Case]:
    """Give the pairs to try: the given pictures with their mirror images, or an artificial pair of the usual size."""
    height, width = picture_size(programs)
    if not images:
        artificial = sample_images(height or usual[0], width or usual[1])
        return [Case("an artificial picture", artificial, artificial=True)]
    size = (height, width) if height and width else None
    return [
        Case(f"image {place}", with_mirror(image))
        if isinstance(image, np.ndarray)
        else Case(str(image), with_mirror(read_picture(Path(image), size)))
        for place, image in enumerate(images)
    ]


def picture_size(programs: Sequence[MetaGraph]) -> tuple[int | None, int | None]:
    """Give the height and width that a signature of one of the programs insists on."""
    for program in programs:
        for signature in program.signatures.values():
            for tensor in signature.inputs.values():
                if tensor.shape is not None and len(tensor.shape) == 4 and None not in tensor.shape[1:3]:
                    return tensor.shape[1], tensor.shape[2]
    return None, None


def takes_pictures(signature: Signature) -> bool:
    """Whether a picture can be put into one of its inputs, and numbers into the others."""
    if not signature.inputs or any(tensor.dtype not in SIDE_DTYPES for tensor in side_inputs(signature).values()):
        return False
    return bool(feeds(np.zeros((1, 1, 1, 3), np.uint8), the_input(signature)[1], None))


def takes_numbers(signature: Signature) -> bool:
    """Whether something can be put into every one of its inputs: pictures, or made-up numbers of its shape."""
    return bool(signature.inputs) and all(
        tensor.dtype in NUMBERS or feeds(np.zeros((1, 1, 1, 3), np.uint8), tensor, None)
        for tensor in signature.inputs.values()
    )


def of_graph(call: Call, graph: GraphSource) -> Call:
    """The same question to the frozen graph that a SavedModel was: its tensors are told by the same keys."""
    side = {key: (graph.inputs[key], feed) for key, (_, feed) in call.side.items()}
    return Call("", call.input, graph.inputs[call.input], graph.outputs, call.feeds, side)


def the_input(signature: Signature) -> tuple[str, TensorInfo]:
    """Give key and tensor of the input for pictures: by its key, or the only one."""
    key = next((key for key in INPUT_KEYS if key in signature.inputs), next(iter(signature.inputs)))
    return key, signature.inputs[key]


def side_inputs(signature: Signature) -> dict[str, TensorInfo]:
    """Give the other inputs by key."""
    picture, _ = the_input(signature)
    return {key: tensor for key, tensor in signature.inputs.items() if key != picture}


def fixed_batch(signature: Signature) -> int | None:
    """Give the number of images it insists on."""
    shape = the_input(signature)[1].shape
    return shape[0] if shape else None


def alone_and_together(signature: Signature) -> list[Batch]:
    """Each picture of a pair alone, and both; just what fits where the batch is fixed."""
    fixed = fixed_batch(signature)
    if fixed is None:
        return [(0,), (1,), (0, 1)]
    return [(0,), (1,)] if fixed == 1 else [tuple(np.arange(fixed) % 2)]


def first_alone(signature: Signature) -> list[Batch]:
    """The first picture of a pair, or what fits where the batch is fixed: an answer may take seconds."""
    return alone_and_together(signature)[:1]


def questions(
    signature: Signature, tried: Sequence[Case], batches: Sequence[Batch], *, form: str | None = None
) -> list[Asked]:
    """Put every case into calls of a signature that takes pictures, one for each batch.

    Args:
        form: what its strings are, one of `FORMS`, where that is known.
    """
    key, tensor = the_input(signature)
    known = (form, signature.name, *(name for name in FORMS if name in tensor.name))
    form = next((name for name in known if name in FORMS), None)
    outputs = {name: output.name for name, output in signature.outputs.items()}

    def call(case: Case, batch: Batch) -> Call:
        given = feeds(case.pictures[list(batch)], tensor, form)
        make = numbers if given else lone_or_numbers
        side = side_feeds(side_inputs(signature), batch, make)
        return Call(signature.name, key, tensor.name, outputs, given or [make(tensor, batch)], side)

    return [Asked(case, batch, call(case, batch)) for case in tried for batch in batches]


def unbatched(asked: Asked, answer: Answer) -> list[str]:
    """Name the outputs whose first dimension is not the number of images."""
    return [
        f"{asked.call.signature}: {name} is {list(value.shape)} for {len(asked.batch)} images"
        for name, value in answer.items()
        if value.shape[:1] != (len(asked.batch),)
    ]


def first(asked: Sequence[Asked], given: Answers, case: Case, signature: str = SERVING) -> Answer | None:
    """Give a signature's answer to the first picture of a case, `[1, …]`, from the smallest batch with it in front."""
    found = _answers(asked, given, case, signature)
    smallest = min((batch for batch in found if batch[0] == 0), key=len, default=None)
    return None if smallest is None else _rows(found[smallest], 1)


def pair(
    asked: Sequence[Asked], given: Answers, case: Case, signature: str = SERVING, *, singles: bool
) -> Answer | None:
    """Put a signature's answers to both pictures of a case into one answer `[2, …]`; from the singles, if preferred."""
    found = _answers(asked, given, case, signature)
    alone = [found[batch] for batch in ((0,), (1,)) if batch in found]
    together = [answer for batch, answer in found.items() if len(batch) > 1]
    if together and not (singles and len(alone) == 2):
        return _rows(together[0], 2)
    return join(alone) if len(alone) == 2 else None


def _answers(asked: Sequence[Asked], given: Answers, case: Case, signature: str) -> dict[Batch, Answer]:
    return {
        each.batch: answer
        for each, answer in zip(asked, given.answers, strict=True)
        if each.case is case and each.call.signature == signature and not isinstance(answer, str)
    }


def _rows(answer: Answer, count: int) -> Answer:
    """The first rows; leave out what has fewer. A single number is one row."""
    rows = {name: np.atleast_1d(value) for name, value in answer.items()}
    return {name: value[:count] for name, value in rows.items() if len(value) >= count}


def join(singles: Sequence[Mapping[str, np.ndarray]]) -> Answer:
    """Put answers to single pictures one below the other; leave out what does not fit together."""
    return {
        name: np.concatenate([np.atleast_1d(single[name]) for single in singles])
        for name in singles[0]
        if len({single[name].shape for single in singles}) == 1
    }
