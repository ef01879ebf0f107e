"""The checks that compare outputs: between loaders, batches and signatures, and with a reference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unfreeze.verification.calls import Outputs
from unfreeze.verification.failures import Failure
from unfreeze.verification.loader_run import LoaderRun, concatenated, unbatched_outputs
from unfreeze.verification.meta_graph import MetaGraph, Signature
from unfreeze.verification.output_comparison import (
    Comparison,
    Difference,
    Tolerances,
    compare_detections,
)
from unfreeze.verification.reference import unoptimized_difference
from unfreeze.verification.report import MIXES_BATCH, Check, ImageResult, Status, check_result
from unfreeze.verification.runs import Runs
from unfreeze.verification.sample_calls import (
    SERVING,
    calls_of,
    fixed_batch_size,
    side_inputs,
)
from unfreeze.verification.sample_inputs import SampleInput

# One model on one machine: between batch sizes and loaders only the order of sums may differ.
SAME = Tolerances(boxes=1e-5, scores=1e-5, other=1e-5)
# If a model is noisier than LARGEST_NOISE, noise cannot be distinguished from mixed-up images. Otherwise the outputs of
# a batch may differ by NOISE_MARGIN times the noise.
LARGEST_NOISE, NOISE_MARGIN = 5e-4, 4.0
MIXED = "the source graph itself returns other outputs for a batch than for each image alone"
OTHER_SIZES = "if it takes images of other sizes only, export with --no-verify, then run unfreeze verify --image"


def check_loader(name: str, runs: Runs) -> Check:
    """Checks that a loader loads and runs the model, with the same outputs as the TF2 loader."""
    run = runs.loaders[name]
    results = run.results()
    if isinstance(results, Failure):
        return Check(name, Status.SKIPPED if results.unsupported else Status.FAILED, results.message)
    problems = [
        f"batch of {len(call.batch)}: {outputs}"
        for call, outputs in zip(run.calls, results.outputs, strict=True)
        if isinstance(outputs, Failure) and call.signature == SERVING
    ]
    seconds = {
        "load_s": round(results.load_s, 3),
        "first_s": round(results.first_s, 3),
        "last_s": round(results.last_s, 3),
    }
    detail = f"loaded in {results.load_s:.2f} s"
    if all(call.signature != SERVING for call in run.calls):
        return check_result(name, problems, f"{detail}; {SERVING} cannot be run on images", seconds)
    detail += f", first outputs in {results.first_s:.2f} s"
    if run is runs.tf2:
        return check_result(name, problems, detail, seconds)
    pairs = [OutputPair(sample, run.first(sample), runs.tf2.first(sample)) for sample in runs.samples]
    return compare(name, pairs, SAME, f"{detail}; ", seconds, problems)


def check_batch(runs: Runs) -> Check:
    """Checks that a batch of two returns, row by row, what each of its images returns alone."""
    run, graph = runs.tf2, runs.subject.source_graph
    results = run.results()
    if isinstance(results, Failure) or not run.calls:
        return Check("batch", Status.SKIPPED, f"{SERVING} could not be run")
    problems = [
        problem
        for call, outputs in zip(run.calls, results.outputs, strict=True)
        if not isinstance(outputs, Failure)
        for problem in unbatched_outputs(call, outputs)
    ]
    if graph and problems:  # the source graph is the same
        return Check("batch", Status.SKIPPED, f"the source graph does not return one row for each image: {problems[0]}")
    if graph and graph.mixes_batch:
        return Check("batch", Status.SKIPPED, f"{MIXED}, as the export recorded")
    fixed = fixed_batch_size(runs.subject.meta_graph.signatures[SERVING])
    if fixed is not None:
        return check_result("batch", problems, f"the batch size is fixed at {fixed}", status=Status.SKIPPED)
    pairs = [OutputPair(sample, runs.tf2.together(sample), runs.tf2.singles(sample)) for sample in runs.samples]
    check = compare("batch", pairs, SAME, problems=problems)
    if problems or check.status is not Status.FAILED:
        return check
    noise = batch_noise(runs)
    if noise <= SAME.boxes or noise > LARGEST_NOISE:
        if runs.unoptimized_source is None:
            return check
        return Check("batch", Status.SKIPPED, f"{MIXED}: {_first_problem(check)}", {MIXES_BATCH: True})
    detail = f"the model's own noise is {noise:.1e} (the same image twice in a batch, and alone); "
    return compare("batch", pairs, Tolerances(*[noise * NOISE_MARGIN] * 3), detail, {"noise": noise})


def batch_noise(runs: Runs) -> float:
    """Returns how far the outputs for an image move when its batch has the same image twice: none can be mixed up.

    A network whose numbers grow from layer to layer amplifies the order of a sum, which differs in a batch.
    """
    twice = {
        (sample.name, index): SampleInput(f"{sample.name}, image {index} twice", sample.images[[index, index]])
        for sample in runs.samples
        for index in (0, 1)
    }
    serving = runs.subject.meta_graph.signatures[SERVING]
    calls = calls_of(serving, list(twice.values()), [(0, 1)], input_type=runs.subject.input_type)
    run = runs.run_again(calls)
    largest = 0.0
    for sample in runs.samples:
        singles = runs.tf2.singles(sample)
        outputs = [run.together(twice[sample.name, index]) for index in (0, 1)]
        rows = [
            {name: value[[index]] for name, value in pair.items()}
            for index, pair in enumerate(outputs)
            if pair is not None
        ]
        if singles is None or len(rows) < 2:
            return float("inf")
        largest = max(largest, compare_detections(concatenated(rows), singles, SAME).largest())
    return largest


def check_in_memory(runs: Runs) -> Check:
    """Checks that the saved model returns what the model in memory returned."""
    outputs = runs.in_memory
    if outputs is None:
        return Check("in_memory", Status.SKIPPED, "only an export can compare with the model in memory")
    if isinstance(outputs, Failure):
        return Check("in_memory", Status.FAILED, f"the model in memory failed: {outputs}")
    return compare("in_memory", _pairs_with(runs, outputs), SAME)


def check_other_signatures(runs: Runs) -> Check:
    """Checks that other signatures return the same for the same pixels: floats, PNG files, tf.Examples."""
    name = "other_signatures"
    signatures = list(dict.fromkeys(call.signature for call in runs.other_calls))
    if not signatures:
        return Check(name, Status.SKIPPED, "no other signature takes images")
    loader_runs = _runs_of_other_signatures(runs)
    if isinstance(loader_runs, Failure):
        return Check(name, Status.FAILED, loader_runs.message)
    problems = _problems_of_other_calls(runs, loader_runs)
    numbers: dict[str, dict[str, Any]] = {}
    largest = 0.0
    for signature in signatures:
        for sample in runs.samples:
            outputs = next((first for run in loader_runs if (first := run.first(sample, signature)) is not None), None)
            serving_outputs = runs.tf2.first(sample)
            if outputs is None or serving_outputs is None:
                continue
            comparable = _comparable_outputs(runs.subject.meta_graph.signatures, signature, outputs)
            comparison = compare_detections(comparable, serving_outputs, SAME)
            problems += [f"{signature}: {problem}" for problem in comparison.problems]
            numbers.setdefault(signature, {})[sample.name] = comparison.to_json()
            largest = max(largest, comparison.largest())
    missing = [signature for signature in signatures if signature not in numbers]
    if missing and not problems:
        problems.append(f"no outputs to compare {', '.join(missing)} with")
    return check_result(
        name,
        problems,
        f"{', '.join(signatures)}: largest difference {largest:.1e} (allowed: {SAME.boxes:g})"
        + _signatures_not_run(runs.subject.meta_graph, signatures),
        numbers,
    )


def _runs_of_other_signatures(runs: Runs) -> list[LoaderRun] | Failure:
    """Returns the runs of the other signatures; the TF2 loader runs those that no other loader could run."""
    loader_runs = [runs.loaders["cpp_loader"], runs.loaders["tf1_loader"]]
    not_run = [call for call in runs.other_calls if all(run.outputs_of(call) is None for run in loader_runs)]
    if not_run:
        loader_runs.append(runs.run_again(not_run))
        results = loader_runs[-1].results()
        if isinstance(results, Failure):
            return results
    return loader_runs


def _problems_of_other_calls(runs: Runs, loader_runs: Sequence[LoaderRun]) -> list[str]:
    problems: list[str] = []
    for call in runs.other_calls:
        outputs = next(outputs for run in loader_runs if (outputs := run.outputs_of(call)) is not None)
        if isinstance(outputs, Failure):
            problems.append(f"{call.signature}: {outputs}")
        elif not runs.subject.source_graph:
            problems += unbatched_outputs(call, outputs)
    return problems


def _comparable_outputs(signatures: Mapping[str, Signature], name: str, outputs: Outputs) -> Outputs:
    """Returns the outputs that depend on the image alone; masks may be those of boxes that are another input."""
    if set(side_inputs(signatures[name])) == set(side_inputs(signatures[SERVING])):
        return outputs
    return {key: value for key, value in outputs.items() if key != "detection_masks"}


def _signatures_not_run(meta_graph: MetaGraph, run: Sequence[str]) -> str:
    others = sorted(set(meta_graph.signatures) - {SERVING, *run})
    same = [name for name in others if meta_graph.is_serving(name)]
    not_run = [name for name in others if name not in same]
    return (f"; same tensors as {SERVING}: {', '.join(same)}" if same else "") + (
        f"; not run: {', '.join(not_run)}" if not_run else ""
    )


def check_against(runs: Runs, reference_name: str, tolerances: Tolerances) -> Check:
    """Checks that the reference returns the same outputs, within the tolerances."""
    name, outputs = "against", runs.reference_outputs
    if outputs is None:
        return Check(name, Status.SKIPPED, "not run: pass --against to compare with another model")
    detail = f"{reference_name}: " if reference_name else ""
    detail += _bit_for_bit(runs)
    if isinstance(outputs, Failure):
        hint = f"the source graph cannot be run on them either ({OTHER_SIZES}): " if runs.reference_graph else ""
        return Check(name, Status.FAILED, f"{detail}{hint}{outputs}")
    check = compare(name, _pairs_with(runs, outputs), tolerances, detail, list_outputs=True)
    if check.status is not Status.FAILED or (source := runs.unoptimized_source) is None:
        return check
    # The graph optimizer has changed one of the two. The SavedModel, as it is served, is compared with what the source
    # graph returns without the optimizer.
    detail += f"with it: {_first_problem(check)}; compared with the source graph without it: "
    pairs = [OutputPair(sample, runs.tf2.singles(sample), source.singles(sample)) for sample in runs.samples]
    return compare(name, pairs, tolerances, detail, list_outputs=True)


def _bit_for_bit(runs: Runs) -> str:
    """Returns how far the SavedModel is from its source graph where the graph optimizer changes neither."""
    if runs.unoptimized is None:
        return ""
    difference = unoptimized_difference(runs.unoptimized.result())
    if isinstance(difference, Failure):
        return f"without the graph optimizer: not compared ({difference}); "
    result = f"largest difference {difference:.1e}" if difference else "equal bit for bit"
    return f"without the graph optimizer: {result}; "


def image_results(runs: Runs) -> tuple[ImageResult, ...]:
    """Returns the first image of each sample input, with the outputs of both models for it."""
    outputs = runs.reference_outputs
    reference = outputs if isinstance(outputs, list) else [None] * len(runs.samples)
    return tuple(
        ImageResult(
            sample.name, sample.images[0], first_row(runs.tf2.first(sample)), first_row(theirs), sample.generated
        )
        for sample, theirs in zip(runs.samples, reference, strict=True)
    )


def first_row(outputs: Outputs | None) -> Outputs | None:
    """Returns the outputs for the first image, without the batch dimension."""
    return {name: value[0] for name, value in outputs.items() if value.ndim} if outputs else None


@dataclass(frozen=True)
class OutputPair:
    """The outputs of two models, or of two runs, for one sample input."""

    sample: SampleInput
    ours: Outputs | None
    theirs: Outputs | None


def _pairs_with(runs: Runs, outputs: Sequence[Outputs]) -> list[OutputPair]:
    return [
        OutputPair(sample, runs.tf2.singles(sample), theirs)
        for sample, theirs in zip(runs.samples, outputs, strict=True)
    ]


def compare(
    name: str,
    pairs: Iterable[OutputPair],
    tolerances: Tolerances,
    prefix: str = "",
    numbers: Mapping[str, Any] | None = None,
    problems: Sequence[str] = (),
    *,
    list_outputs: bool = False,
) -> Check:
    """Returns a check of outputs for several sample inputs; with `list_outputs` the detail has a line for each output.

    Args:
        prefix: begins the detail of a check that passes.
        problems: other problems that the check has, because of which outputs may be missing.
    """
    comparisons: dict[str, Comparison] = {}
    all_problems = list(problems)
    for pair in pairs:
        if pair.ours is None or pair.theirs is None:
            if not problems:
                all_problems.append(f"{pair.sample.name}: there are no outputs to compare")
            continue
        comparison = comparisons[pair.sample.name] = compare_detections(pair.ours, pair.theirs, tolerances)
        all_problems += [f"{pair.sample.name}: {problem}" for problem in comparison.problems]
    detections = sum(comparison.detections for comparison in comparisons.values())
    matched = sum(comparison.matched for comparison in comparisons.values())
    largest = max((comparison.largest() for comparison in comparisons.values()), default=0.0)
    detail = f"{matched} of {detections} detections match, " if detections else ""
    detail += f"largest difference {largest:.1e} (allowed: {tolerances.boxes:.2g})"
    lines = output_lines(comparisons.values()) if list_outputs else []
    samples = {sample: comparison.to_json() for sample, comparison in comparisons.items()}
    check = check_result(name, all_problems, prefix + detail, {**(numbers or {}), "samples": samples})
    return Check(name, check.status, "\n".join([check.detail, *lines]), check.numbers)


def output_lines(comparisons: Iterable[Comparison]) -> list[str]:
    """Returns a line for each output with its differences and what is allowed, and which outputs only one model has."""
    worst: dict[str, Difference] = {}
    only: dict[str, set[str]] = {"only in this model": set(), "only in the reference": set()}
    for comparison in comparisons:
        only["only in this model"] |= set(comparison.only_ours)
        only["only in the reference"] |= set(comparison.only_theirs)
        for difference in comparison.differences:
            previous = worst.get(difference.output)
            if previous is None or not difference.largest <= previous.largest:  # NaN is the worst
                worst[difference.output] = difference
    lines = [
        f"{difference.output}: largest {difference.largest:.1e}, mean {difference.mean:.1e}, "
        f"allowed {difference.tolerance:.1e}"
        for difference in worst.values()
    ]
    return lines + [f"{where}: {', '.join(sorted(names))}" for where, names in only.items() if names]


def _first_problem(check: Check) -> str:
    problems: list[str] = check.numbers["problems"]
    return f"{problems[0]} (1 of {len(problems)})" if len(problems) > 1 else problems[0]
