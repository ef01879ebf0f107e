"""Checks of a model file that its own runtime has run: that it runs, what it returns, and a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from unfreeze.child_process import ModuleError
from unfreeze.errors import SavedModelError
from unfreeze.runtimes import find_model
from unfreeze.runtimes.process import ProcessRun, run_in_process
from unfreeze.verification.calls import Outputs
from unfreeze.verification.detection_agreement import detection_agreement
from unfreeze.verification.failures import Failure
from unfreeze.verification.loader_run import concatenated
from unfreeze.verification.output_comparison import Tolerances
from unfreeze.verification.report import Check, ImageResult, Status, check_result
from unfreeze.verification.run_checks import OutputPair, compare, first_row
from unfreeze.verification.sample_inputs import SampleInput

# In another runtime, sums have another order in a batch than for one image: as far as another model may differ.
BATCH_TOLERANCES = Tolerances()
NOISE = 1e-5  # by how much a score or a coordinate may be outside 0 to 1


@dataclass(frozen=True)
class FileRun:
    """A model that was run on sample inputs: on each image alone, and on both as a batch unless `batch_size` is 1.

    `batch_size` is None if the model takes any number of images. A run that failed as a whole is a Failure.
    """

    path: Path
    library: str
    samples: Sequence[SampleInput]
    batch_size: int | None
    results: ProcessRun | Failure

    def singles(self, sample: SampleInput) -> Outputs | None:
        """Returns the outputs `[2, …]` for each image alone; None if one of them failed."""
        first, second = self._outputs(sample)[:2]
        return None if first is None or second is None else concatenated([first, second])

    def together(self, sample: SampleInput) -> Outputs | None:
        """Returns the outputs `[2, …]` for both images, in one batch if the model takes it; None if that failed."""
        outputs = self._outputs(sample)
        return self.singles(sample) if len(outputs) < 3 else outputs[2]

    def failures(self) -> Iterator[str]:
        """Yields a line for each batch that failed."""
        if isinstance(self.results, ProcessRun):
            for index, outputs in enumerate(self.results.outputs):
                if isinstance(outputs, str):
                    yield f"batch of {(1, 1, 2)[index % self._count]}: {outputs}"

    @property
    def _count(self) -> int:
        return 2 if self.batch_size == 1 else 3

    def _outputs(self, sample: SampleInput) -> list[Outputs | None]:
        if isinstance(self.results, Failure):
            return [None] * self._count
        start = self._count * next(index for index, own in enumerate(self.samples) if own is sample)
        results = self.results.outputs[start : start + self._count]
        return [None if isinstance(outputs, str) else dict(outputs) for outputs in results]


# The model to compare with: another one that was run, or the expected outputs for each sample input.
Reference: TypeAlias = "FileRun | Sequence[Mapping[str, np.ndarray]] | None"


def run_file(path: Path, samples: Sequence[SampleInput], *, batch_size: int | None = None) -> FileRun:
    """Runs a model by its runtime, in a process of its own.

    Raises: SavedModelError: there is no model at the path.
    """
    model = find_model(path)
    batches = [batch for sample in samples for batch in batches_of(sample, batch_size)]
    results: ProcessRun | Failure
    try:
        results = run_in_process(model.path, batches)
    except ModuleError as error:
        results = Failure(str(error))
    return FileRun(model.path, model.runtime.library, samples, batch_size, results)


def function_of(path: Path) -> Callable[[np.ndarray], Mapping[str, np.ndarray]]:
    """Returns a function that runs a model by its runtime, in a process of its own."""

    def run(images: np.ndarray) -> Mapping[str, np.ndarray]:
        (outputs,) = run_in_process(path, [images]).outputs
        if isinstance(outputs, str):
            raise SavedModelError(outputs)
        return outputs

    return run


def batches_of(sample: SampleInput, batch_size: int | None) -> list[np.ndarray]:
    """Returns each image alone, and both."""
    singles = [sample.images[:1], sample.images[1:]]
    return singles if batch_size == 1 else [*singles, sample.images]


def check_runtime(run: FileRun) -> Check:
    """Checks that the runtime loads the file and runs it."""
    if isinstance(run.results, Failure):
        return Check("runtime", Status.FAILED, run.results.message)
    seconds = run.results.seconds
    times = {
        "load_s": round(run.results.load_s, 3),
        "first_s": round(seconds[0], 3),
        "last_s": round(seconds[-1], 3),
    }
    detail = f"{run.library}: loaded in {run.results.load_s:.2f} s, first outputs in {seconds[0]:.2f} s"
    return check_result("runtime", list(run.failures()), detail, times)


def check_batch(run: FileRun) -> Check:
    """Checks that a batch of two returns, row by row, what each of its images returns alone."""
    if isinstance(run.results, Failure):
        return Check("batch", Status.SKIPPED, "the model does not run")
    if run.batch_size is not None:
        one = "it is run on one image at a time"
        return Check("batch", Status.SKIPPED, one if run.batch_size == 1 else f"the batch size is {run.batch_size}")
    if any(run.failures()):
        return Check("batch", Status.SKIPPED, "not every batch runs")
    pairs = [OutputPair(sample, run.together(sample), run.singles(sample)) for sample in run.samples]
    return compare("batch", pairs, BATCH_TOLERANCES)


def check_outputs(run: FileRun, reference: Reference, *, clipped: bool = True) -> Check:
    """Checks that the outputs are finite, that scores and boxes are from 0 to 1, and that counts are consistent.

    What the reference does too is not a problem: a model may return logits as scores. `clipped`: whether boxes end at
    the borders of the image.
    """
    problems, count = [], 0
    for sample, expected in zip(run.samples, outputs_of_reference(reference, run.samples), strict=True):
        outputs = run.together(sample)
        if outputs is None:
            continue
        count += len(outputs)
        allowed = {kind for kind, _ in invalid_values(expected)} if expected else set()
        allowed |= set() if clipped else {"detection_boxes"}
        problems += [f"{sample.name}: {text}" for kind, text in invalid_values(outputs) if kind not in allowed]
    if not count:
        return Check("outputs", Status.SKIPPED, "there are no outputs")
    return check_result("outputs", problems, "finite, in their range, and consistent")


def invalid_values(outputs: Outputs) -> Iterator[tuple[str, str]]:
    """Yields the kind and the description of everything that outputs of a detector cannot be."""
    for name, value in outputs.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            yield f"{name} is not finite", f"{name} has NaN or infinite values"
            return
    rows = {name: value.shape[1] for name, value in outputs.items() if name.startswith("detection_") and value.ndim > 1}
    if len(set(rows.values())) > 1:
        yield "rows", f"outputs have different numbers of detections ({rows})"
    if "num_detections" in outputs and rows:
        counts, most = outputs["num_detections"], max(rows.values())
        if (counts != np.round(counts)).any() or counts.min() < 0 or counts.max() > most:
            yield "count", f"num_detections is {counts.ravel().tolist()} (expected: whole numbers from 0 to {most})"
    for name in ("detection_scores", "detection_boxes"):
        if name in outputs and outputs[name].size:
            low, high = float(outputs[name].min()), float(outputs[name].max())
            if low < -NOISE or high > 1 + NOISE:
                yield name, f"{name} is from {low:.3g} to {high:.3g} (expected: from 0 to 1)"
    boxes = outputs.get("detection_boxes")
    if boxes is not None and boxes.shape[-1] == 4 and (boxes[..., :2] > boxes[..., 2:] + NOISE).any():
        yield "box", "detection_boxes has boxes whose ymin or xmin is above ymax or xmax"


def check_against(
    run: FileRun, reference: Reference, name: str, reason: str = "", *, list_outputs: bool = True
) -> Check:
    """Checks that the reference returns the same outputs; skipped for `reason` if there is no reference."""
    if reference is None:
        return Check("against", Status.SKIPPED, reason)
    if isinstance(run.results, Failure):
        return Check("against", Status.SKIPPED, f"{name}: not compared, since the model does not run")
    problems = []
    if isinstance(reference, FileRun):
        if isinstance(reference.results, Failure):
            return Check("against", Status.FAILED, f"{name}: {reference.results}")
        problems = [f"{name}: {failure}" for failure in reference.failures()]
    pairs = [
        OutputPair(sample, run.together(sample), expected)
        for sample, expected in zip(run.samples, outputs_of_reference(reference, run.samples), strict=True)
    ]
    return compare("against", pairs, Tolerances(), f"{name}: ", problems=problems, list_outputs=list_outputs)


def check_agreement(run: FileRun, reference: Reference, name: str, reason: str, min_share: float) -> Check:
    """Checks that a file of lower precision has the clear detections of the reference; skipped without a reference."""
    if reference is None:
        return Check("against", Status.SKIPPED, reason)
    if isinstance(run.results, Failure):
        return Check("against", Status.SKIPPED, f"{name}: not compared, since the model does not run")
    pairs = []
    for sample, expected in zip(run.samples, outputs_of_reference(reference, run.samples), strict=True):
        outputs = run.together(sample)
        if outputs is None or expected is None:
            return Check("against", Status.FAILED, f"{name}: not every batch runs")
        for i in range(len(sample.images)):
            pairs.append(tuple({key: value[i : i + 1] for key, value in side.items()} for side in (expected, outputs)))
    agreement = detection_agreement((first, second) for first, second in pairs)
    if not agreement.detections:
        return Check("against", Status.SKIPPED, f"{name}: not compared, since it detects nothing on these images")
    numbers = {"matched": agreement.matched, "detections": agreement.detections, "min_share": min_share}
    problems = [] if agreement.share >= min_share else [f"{name}: {agreement} (at least {min_share:.0%} must match)"]
    return check_result("against", problems, f"{name}: {agreement}", numbers)


def image_results(run: FileRun, reference: Reference) -> tuple[ImageResult, ...]:
    """Returns the first image of each sample input, with the outputs of both models for it."""
    return tuple(
        ImageResult(
            sample.name,
            sample.images[0],
            first_row(run.together(sample)),
            first_row(expected),
            sample.generated,
        )
        for sample, expected in zip(run.samples, outputs_of_reference(reference, run.samples), strict=True)
    )


def outputs_of_reference(reference: Reference, samples: Sequence[SampleInput]) -> list[Outputs | None]:
    """Returns the outputs `[2, …]` of the reference for each sample input; None where there are none."""
    if isinstance(reference, FileRun):
        return [reference.together(sample) for sample in samples]
    return [None] * len(samples) if reference is None else [dict(outputs) for outputs in reference]
