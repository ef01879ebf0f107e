"""Measures models in turn and compares their detections."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from unfreeze.benchmarking.model_process import ModelProcess, ModelProcessError, model_process
from unfreeze.benchmarking.requests import Cost, EvaluateRequest
from unfreeze.benchmarking.results import Agreement, ModelResult, Timing
from unfreeze.callbacks import OnMessage
from unfreeze.runtimes import ModelFile
from unfreeze.runtimes.model import Outputs
from unfreeze.verification.detection_agreement import detection_agreement
from unfreeze.verification.output_comparison import compare_detections

WARM_UPS, MIN_ROUNDS = 3, 10
PAUSE_S = 0.01  # between the calls of two models: threads of a runtime may spin for a while after a call
BOXES, SCORES = "detection_boxes", "detection_scores"


@dataclass
class Subject:
    """A model that is measured, its result so far, and its detections for each sample image."""

    file: ModelFile
    result: ModelResult
    detections: list[Outputs] = field(default_factory=list)


def measure_batch(
    subjects: Sequence[Subject],
    samples: Sequence[np.ndarray],
    size: int,
    threads: int | None,
    seconds: float,
    on_progress: OnMessage,
) -> None:
    """Measures every model that has not failed with one batch size, in new processes.

    A kernel of oneDNN keeps its reordered weights only in the layout that suits its first batch size, so a process that
    ran another batch size before would be slower.
    """
    images = batch_of(samples, size)
    with ExitStack() as stack:
        running: list[tuple[Subject, ModelProcess]] = []
        for subject in subjects:
            if subject.result.failure is not None:
                continue
            process = stack.enter_context(model_process(threads))
            with recorded_failure(subject, f"batch {size}: " if subject.result.timings else ""):
                start(subject, process, images, threads)
                running.append((subject, process))
        on_progress(f"batch {size}: measuring")
        costs = run_rounds(running, seconds)
        for (subject, process), model_costs in zip(running, costs, strict=True):
            if subject.result.failure is not None:
                continue
            wall_s, cpu_s = (tuple(getattr(cost, name) for cost in model_costs) for name in ("wall_s", "cpu_s"))
            subject.result.timings = (*subject.result.timings, Timing(size, wall_s, cpu_s))
            with recorded_failure(subject):
                peak_bytes = process.peak_bytes()
                subject.result.peak_bytes = max(peak_bytes, subject.result.peak_bytes or 0)
                if not subject.detections:
                    subject.detections = [process.run(image[np.newaxis]) for image in samples]


def start(subject: Subject, process: ModelProcess, images: np.ndarray, threads: int | None) -> None:
    """Loads a model and runs it until it is warm; records the first times. Raises: ModelProcessError."""
    load = process.load(subject.file, threads)
    first_response = process.time(images)
    if subject.result.load_s is None:
        subject.result.load_s, subject.result.first_response_s = load.wall_s, first_response.wall_s
    for _ in range(WARM_UPS):
        process.time()


def run_rounds(running: Sequence[tuple[Subject, ModelProcess]], seconds: float) -> list[list[Cost]]:
    """Returns the costs of each model, measured in rounds in which each is called once.

    Each round begins with another model, so that none is always called after the same one.
    """
    costs: list[list[Cost]] = [[] for _ in running]
    end = time.monotonic() + seconds
    for number in itertools.count():
        active = [index for index, (subject, _) in enumerate(running) if subject.result.failure is None]
        if not active or (number >= MIN_ROUNDS and time.monotonic() > end):
            return costs
        first = number % len(active)
        for index in active[first:] + active[:first]:
            subject, process = running[index]
            time.sleep(PAUSE_S)
            with recorded_failure(subject):
                costs[index].append(process.time())
    raise AssertionError("the rounds end")


def compare_with_first(subjects: Sequence[Subject]) -> None:
    """Compares times and detections with those of the first model that ran."""
    measured = [subject for subject in subjects if subject.detections]
    for subject in measured[1:]:
        subject.result.timings = subject.result.compared_with(measured[0].result)
        subject.result.agreement = agreement(measured[0].detections, subject.detections)


def compare_scores(subjects: Sequence[Subject]) -> None:
    """Records how much mAP each model loses against the first one that has a mAP."""
    scored = [subject.result for subject in subjects if subject.result.mean_average_precision is not None]
    for result in scored[1:]:
        result.map_loss = (scored[0].mean_average_precision or 0) - (result.mean_average_precision or 0)


def agreement(firsts: Sequence[Outputs], others: Sequence[Outputs]) -> Agreement:
    """Returns how the detections of two models for the same images agree."""
    comparisons = [
        compare_detections(with_count(first), with_count(other)) for first, other in zip(firsts, others, strict=True)
    ]
    clear = detection_agreement(zip(firsts, others, strict=True))
    return Agreement(
        matched=sum(comparison.matched for comparison in comparisons),
        detections=sum(comparison.detections for comparison in comparisons),
        box=max(comparison.largest(BOXES) for comparison in comparisons),
        score=max(comparison.largest(SCORES) for comparison in comparisons),
        clear_matched=clear.matched,
        clear=clear.detections,
    )


def with_count(outputs: Outputs) -> Outputs:
    """Returns the outputs with `num_detections`; without it, every row with a score is a detection."""
    if "num_detections" in outputs:
        return outputs
    return {**outputs, "num_detections": (outputs[SCORES] > 0).sum(axis=1).astype(np.float32)}


def evaluate_subject(subject: Subject, request: EvaluateRequest) -> None:
    """Evaluates a model that has not failed, in a new process."""
    if subject.result.failure is None:
        with model_process(None) as process, recorded_failure(subject, "evaluation: "):
            subject.result.mean_average_precision = process.evaluate(request)


@contextmanager
def recorded_failure(subject: Subject, step: str = "") -> Iterator[None]:
    """Records a failure of the model in the block as its status."""
    try:
        yield
    except ModelProcessError as failure:
        subject.result.failure = f"{step}{failure}"


def batch_of(samples: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Returns `[size, H, W, 3]`: the images in turn, all in the size of the first one."""
    height, width = samples[0].shape[:2]
    images = itertools.islice(itertools.cycle(samples), size)
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in images])
