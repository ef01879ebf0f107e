"""The checks, one function each: evidence in, what came of it out."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from unfreeze.export_record import FileDigest, GraphSource
from unfreeze.formatting import megabytes
from unfreeze.verification import file_checks, weight_digests
from unfreeze.verification import sample_inputs as trials
from unfreeze.verification.calls import Answers
from unfreeze.verification.evidence import Evidence, Loaded, calls
from unfreeze.verification.meta_graph import MetaGraph, Signature
from unfreeze.verification.output_comparison import DETECTION, Comparison, Difference, Tolerances, compare_detections
from unfreeze.verification.reference_graph import MIXES_BATCH, largest_difference
from unfreeze.verification.report import FAILED, PASSED, SKIPPED, Check, ImageResult
from unfreeze.verification.sample_inputs import SERVING, Answer, Case
from unfreeze.verification.weight_digests import ExpectedWeight, TensorDigest
from unfreeze.verification.workers import Reply, WorkerProcesses

# One program on one machine: only the order of sums may differ, between batch sizes and loaders.
SAME = Tolerances(boxes=1e-5, scores=1e-5, other=1e-5)
# A model that is noisier than this is not told from one that mixes up its pictures; what it is allowed, of its noise.
LARGEST_NOISE, NOISE_MARGIN = 5e-4, 4.0
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
MIXED = "the frozen graph itself answers otherwise to a batch than to each of its pictures alone"
OTHER_SIZES = "if it takes pictures of other sizes only, export with --no-verify, then unfreeze verify --image"
SHOWN = 4  # problems of one check that are told; the others are counted


def check_files(
    folder: Path, evidence: Evidence, digests: Mapping[str, FileDigest], recorded: Mapping[str, FileDigest]
) -> Check:
    """All files are there and whole, each tensor's checksum holds, and the weights are in the graph only if they are
    meant to be.
    """
    reply = evidence.variables.result()
    problems = file_checks.file_mismatches(folder, digests, recorded, constants=evidence.constants)
    if evidence.constants:
        problems += [f"saved_model.pb cannot be read: {reply.problem}"] if reply.problem else []
    elif not any(problem.startswith("variables/") for problem in problems):  # else that is why they cannot be read
        problems += [f"variables/ cannot be read: {reply.problem}"] if reply.problem else damage(reply)
    variables_bytes = sum(each.size_bytes for each in readable(reply).values())
    if not evidence.constants and not any(file_checks.FROZEN in problem for problem in problems):
        problems += file_checks.frozen_mismatches(evidence.program, variables_bytes)
    size_bytes = sum(file.size_bytes for file in digests.values())
    fingerprint = "with" if "fingerprint.pb" in digests else "without"
    graph_bytes = digests["saved_model.pb"].size_bytes
    return checked(
        "files",
        problems,
        f"{len(digests)} files, {megabytes(size_bytes)}, of these the graph {megabytes(graph_bytes)}; "
        f"{fingerprint} fingerprint{'; as exported' if recorded else ''}",
        {"files": len(digests), "size_bytes": size_bytes, "constants_bytes": evidence.program.constants_bytes},
    )


def check_signature(program: MetaGraph, graph: GraphSource | None = None) -> Check:
    """The serving signature is what clients of the original expect, and every output is batched, in every signature.

    One that was a frozen graph takes and gives what that did.
    """
    serving = program.signatures.get(SERVING)
    problems = [f"there is no {SERVING}"] if serving is None else []
    if serving is not None:
        problems += graph_mismatches(serving, graph) if graph else serving_mismatches(serving)
    for signature in program.signatures.values() if not graph else ():
        problems += batch_mismatches(signature)
    told = {
        name: {
            "inputs": {key: str(tensor) for key, tensor in signature.inputs.items()},
            "outputs": {key: str(tensor) for key, tensor in signature.outputs.items()},
        }
        for name, signature in sorted(program.signatures.items())
    }
    found = ", ".join(f"{key} {tensor}" for key, tensor in (serving.inputs if serving else {}).items())
    others = ", ".join(name for name in told if name != SERVING)
    return checked(
        "signature",
        problems,
        f"{SERVING}: {found} -> {len(serving.outputs) if serving else 0} outputs; also {others or 'no other'}",
        {"signatures": told},
    )


def graph_mismatches(serving: Signature, graph: GraphSource) -> list[str]:
    """Say what is missing of the inputs and outputs of the frozen graph, and what is new."""
    return [
        f"{SERVING} has the {what} {', '.join(sorted(here)) or 'none'}, the frozen graph {', '.join(sorted(there))}"
        for what, here, there in (
            ("inputs", serving.inputs, graph.inputs),
            ("outputs", serving.outputs, graph.outputs),
        )
        if set(here) != set(there)
    ]


def serving_mismatches(serving: Signature) -> list[str]:
    """Say what clients of the original exporter would stumble over."""
    problems = []
    if not serving.inputs or trials.the_input(serving)[0] not in trials.INPUT_KEYS:
        problems.append(
            f"{SERVING} takes {', '.join(serving.inputs) or 'nothing'}, not one of {' or '.join(trials.INPUT_KEYS)}"
        )
    elif not trials.takes_pictures(serving):
        problems.append(f"{SERVING} takes {trials.the_input(serving)[1]}: no form of a picture")
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
    """Name the outputs whose static shape says that they do not have one row for each image."""
    fixed = trials.fixed_batch(signature) if signature.inputs else None
    return [
        f"{signature.name}: {key} is {tensor}, its first dimension is not the batch"
        for key, tensor in signature.outputs.items()
        if tensor.shape is not None and (not tensor.shape or tensor.shape[0] not in (None, fixed))
    ]


def check_weights(evidence: Evidence, weights: Mapping[str, ExpectedWeight]) -> Check:
    """Every weight of the checkpoint is in variables/, byte for byte; or it is a constant, or folded into one."""
    reply = evidence.variables.result()
    stored = {name: found for name, found in readable(reply).items() if name != OBJECT_GRAPH}
    size_bytes = sum(each.size_bytes for each in stored.values())
    damaged = damage(reply)
    if not stored:
        return Check("weights", FAILED, damaged[0] if damaged else f"there are no variables: {file_checks.FROZEN}")
    if evidence.constants:
        problems = weight_digests.weight_mismatches(weights, stored)
        if not weights and not damaged:
            told = "no checkpoint and no export.json to compare with"
            return Check("weights", SKIPPED, f"{told}; {len(stored)} constants in the graph")
        here = [stored[weight.variable] for weight in weights.values() if weight.variable in stored]
        size = megabytes(sum(each.size_bytes for each in here))
        told = (
            f"all {len(weights)} are constants of the graph, byte for byte, folded ones as they were computed: {size}"
        )
        return checked("weights", [*damaged, *problems], told, {"compared": len(weights)})
    largest = max(stored, key=lambda name: stored[name].size_bytes)
    name = largest.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")  # TensorFlow's ending of every key
    sizes = f"{megabytes(size_bytes)}, the largest is {name} ({megabytes(stored[largest].size_bytes)})"
    numbers: dict[str, Any] = {"variables": len(stored), "size_bytes": size_bytes, "largest": largest}
    if not weights and not damaged:
        told = "no checkpoint and no export.json to compare with"
        return Check("weights", SKIPPED, f"{told}; {len(stored)} variables, {sizes}, their checksums hold", numbers)
    mapped = {weight.variable for weight in weights.values()}
    unread = {name for name, found in (reply.result or {}).items() if isinstance(found, str)}
    problems = [
        *damaged,
        *weight_digests.weight_mismatches({k: w for k, w in weights.items() if w.variable not in unread}, stored),
    ]
    numbers |= {"compared": len(weights), "others": sorted(set(stored) - mapped)}
    others = f"; besides: {', '.join(numbers['others'][:SHOWN])}" if numbers["others"] else ""
    return checked("weights", problems, f"all {len(weights)} are equal, byte for byte: {sizes}{others}", numbers)


def check_loader(name: str, evidence: Evidence, loaded: Loaded) -> Check:
    """A loader loads it, it answers, and the answers are those of the TF2 loader."""
    reply = loaded.reply.result()
    if reply.unsupported:
        return Check(name, SKIPPED, reply.problem.removeprefix("UnsupportedError: "))
    if reply.result is None:
        return Check(name, FAILED, reply.problem)
    answers = reply.result
    own = {each.call.signature for each in loaded.asked} & {SERVING}
    problems = [
        f"{len(each.batch)} images: {answer}"
        for each, answer in zip(loaded.asked, answers.answers, strict=True)
        if isinstance(answer, str) and each.call.signature == SERVING
    ]
    seconds = {
        "load_s": round(answers.load_s, 3),
        "first_s": round(answers.first_s, 3),
        "last_s": round(answers.last_s, 3),
    }
    told = f"loads in {answers.load_s:.2f} s"
    if not own:
        return checked(name, problems, f"{told}; {SERVING} cannot be asked", seconds)
    told += f", first answer in {answers.first_s:.2f} s"
    if name == "tf2_loader":
        return checked(name, problems, told, seconds)
    compared = [(case, loaded.first(case), evidence.first(case)) for case in evidence.tried]
    return compare(name, compared, SAME, f"{told}; ", seconds, problems)


def check_batch(folder: Path, evidence: Evidence, workers: WorkerProcesses) -> Check:
    """A batch of two gives, row by row, what each of its pictures gives alone."""
    reply = evidence.tf2_loader.reply.result()
    if reply.result is None or not evidence.tf2_loader.asked:
        return Check("batch", SKIPPED, f"{SERVING} could not be asked")
    problems = [
        problem
        for asked, answer in zip(evidence.tf2_loader.asked, reply.result.answers, strict=True)
        if not isinstance(answer, str)
        for problem in trials.unbatched(asked, answer)
    ]
    if evidence.graph and problems:  # it was made so
        return Check("batch", SKIPPED, f"the frozen graph does not answer row by row: {problems[0]}")
    if evidence.graph and evidence.graph.mixes_batch:
        return Check("batch", SKIPPED, f"{MIXED}, as its export has found")
    fixed = trials.fixed_batch(evidence.program.signatures[SERVING])
    if fixed is not None:
        return checked("batch", problems, f"the batch is fixed to {fixed}", status=SKIPPED)
    compared = [(case, evidence.together(case), evidence.reference(case)) for case in evidence.tried]
    check = compare("batch", compared, SAME, problems=problems)
    if problems or check.status != FAILED:
        return check
    noise = batch_noise(folder, evidence, workers)
    if noise <= SAME.boxes or noise > LARGEST_NOISE:
        if evidence.as_written is None:
            return check
        return Check("batch", SKIPPED, f"{MIXED}: {_first_of(check)}", {MIXES_BATCH: True})
    told = f"the same picture twice in a batch moves by {noise:.1e} from the picture alone; "
    return compare("batch", compared, Tolerances(*[noise * NOISE_MARGIN] * 3), told, {"noise": noise})


def batch_noise(folder: Path, evidence: Evidence, workers: WorkerProcesses) -> float:
    """How far the answer to a picture moves when its batch holds the same picture twice: nothing is there to mix up.
    Networks whose numbers grow from layer to layer amplify the order of a sum, which is another for a batch.
    """
    serving = evidence.program.signatures[SERVING]
    twins = {
        (case.name, place): Case(case.name, case.pictures[[place, place]])
        for case in evidence.tried
        for place in (0, 1)
    }
    asked = trials.questions(serving, list(twins.values()), [(0, 1)], form=evidence.form)
    loaded = Loaded(asked, workers.tf2.ask("tf2_loader", str(folder), calls(asked)))
    largest = 0.0
    for case in evidence.tried:
        alone = evidence.reference(case)
        pairs = [pair for place in (0, 1) if (pair := loaded.pair(twins[case.name, place]))]
        if alone is None or len(pairs) < 2:
            return float("inf")
        rows = [{name: value[[i]] for name, value in pair.items()} for i, pair in enumerate(pairs)]
        largest = max(largest, compare_detections(trials.join(rows), alone, SAME).largest())
    return largest


def check_in_memory(evidence: Evidence) -> Check:
    """What was saved answers as the model in memory did."""
    if evidence.in_memory is None:
        return Check("in_memory", SKIPPED, "only an export can compare with the model in memory")
    if isinstance(evidence.in_memory, str):
        return Check("in_memory", FAILED, f"the model in memory failed: {evidence.in_memory}")
    cases = zip(evidence.tried, evidence.in_memory, strict=True)
    return compare("in_memory", [(case, evidence.reference(case), answer) for case, answer in cases], SAME)


def _comparable(signatures: Mapping[str, Signature], name: str, answer: Answer) -> Answer:
    """The outputs that depend on the picture alone: masks may be those of boxes that one of the signatures takes."""
    if set(trials.side_inputs(signatures[name])) == set(trials.side_inputs(signatures[SERVING])):
        return answer
    return {key: value for key, value in answer.items() if key != "detection_masks"}


def check_other_signatures(folder: Path, evidence: Evidence, workers: WorkerProcesses) -> Check:
    """Every other signature answers the same to the same pixels: as floats, as PNG files, in tf.Examples."""
    name = "other_signatures"
    asked = evidence.others
    signatures = list(dict.fromkeys(each.call.signature for each in asked))
    if not signatures:
        return Check(name, SKIPPED, "there is no other that takes pictures")
    asked_of = [evidence.cpp_loader, evidence.tf1_loader]
    unanswered = [each for each in asked if all(loaded.answer(each) is None for loaded in asked_of)]
    if unanswered:
        asked_of.append(Loaded(unanswered, workers.tf2.ask("tf2_loader", str(folder), calls(unanswered))))
        reply = asked_of[-1].reply.result()
        if reply.result is None:
            return Check(name, FAILED, reply.problem)
    problems: list[str] = []
    numbers: dict[str, Any] = {}
    largest = 0.0
    for each in asked:
        answer = next(answer for loaded in asked_of if (answer := loaded.answer(each)) is not None)
        if isinstance(answer, str):
            problems.append(f"{each.call.signature}: {answer}")
        else:
            problems += trials.unbatched(each, answer) if not evidence.graph else ()
    for signature in signatures:
        for case in evidence.tried:
            given = [found for loaded in asked_of if (found := loaded.first(case, signature)) is not None]
            theirs = evidence.first(case)
            if not given or theirs is None:
                continue
            alike = _comparable(evidence.program.signatures, signature, given[0])
            comparison = compare_detections(alike, theirs, SAME)
            problems += [f"{signature}: {problem}" for problem in comparison.problems]
            numbers.setdefault(signature, {})[case.name] = comparison.to_json()
            largest = max(largest, comparison.largest())
    silent = [signature for signature in signatures if signature not in numbers]
    if silent and not problems:
        problems.append(f"nothing to compare {', '.join(silent)} with")
    unasked = sorted(set(evidence.program.signatures) - {SERVING, *signatures})
    twins = [signature for signature in unasked if evidence.program.is_serving(signature)]
    unasked = [signature for signature in unasked if signature not in twins]
    told = f"{', '.join(signatures)}: largest difference {largest:.1e}, {SAME.boxes:g} allowed"
    told += f"; the tensors of {SERVING}: {', '.join(twins)}" if twins else ""
    return checked(name, problems, told + (f"; not asked: {', '.join(unasked)}" if unasked else ""), numbers)


def check_against(evidence: Evidence, against: object, tolerances: Tolerances) -> Check:
    """Something else answers the same, within the tolerances."""
    name, other = "against", of_the_other(evidence)
    if other is None:
        return Check(name, SKIPPED, "nothing to compare with was given")
    told = "" if callable(against) else f"{against}: "
    told += bit_for_bit(evidence)
    if isinstance(other, str):
        hint = f"it cannot answer either; {OTHER_SIZES}: " if evidence.twin else ""
        return Check(name, FAILED, f"{told}{hint}{other}")
    cases = zip(evidence.tried, other, strict=True)
    compared = [(case, evidence.reference(case), answer) for case, answer in cases]
    check = compare(name, compared, tolerances, told, full=True)
    if check.status != FAILED or (written := evidence.as_written) is None:
        return check
    # The optimizer has moved one of the two. What is served is held against what the frozen graph says.
    asked = evidence.tf2_loader.asked
    told += f"with it the frozen graph moves: {_first_of(check)}; against it as it is written: "
    answers = (
        (case, evidence.reference(case), trials.pair(asked, written, case, singles=True)) for case in evidence.tried
    )
    return compare(name, answers, tolerances, told, full=True)


def _first_of(check: Check) -> str:
    """The first problem of a check that failed, and how many there are."""
    problems = check.numbers["problems"]
    return f"{problems[0]} (1 of {len(problems)})" if len(problems) > 1 else problems[0]


def bit_for_bit(evidence: Evidence) -> str:
    """Tell how far a SavedModel is from its frozen graph where the runtime's optimizer changes neither."""
    if evidence.unoptimized is None:
        return ""
    difference = largest_difference(evidence.unoptimized.result())
    if isinstance(difference, str):
        return f"without the graph optimizer not compared: {difference}; "
    found = f"largest difference {difference:.1e}" if difference else "equal bit for bit"
    return f"without the graph optimizer {found}; "


def of_the_other(evidence: Evidence) -> list[Answer] | str | None:
    """What it is compared with answered to each case, or what went wrong; None where there is nothing."""
    other = evidence.against
    if isinstance(other, Future):
        return of_frozen_graph(evidence.tried, other.result())
    if isinstance(other, Loaded):
        reply = other.reply.result()
        failed = [answer for answer in reply.result.answers if isinstance(answer, str)] if reply.result else []
        answers = [other.pair(case, singles=True) for case in evidence.tried]
        return reply.problem or (failed[0] if failed else [answer or {} for answer in answers])
    return other


def pictures_seen(evidence: Evidence) -> tuple[ImageResult, ...]:
    """The first picture of each case, with the answers of both sides to it."""
    other = of_the_other(evidence)
    theirs = other if isinstance(other, list) else [None] * len(evidence.tried)
    return tuple(
        ImageResult(case.name, case.pictures[0], _first_row(evidence.first(case)), _first_row(answer), case.artificial)
        for case, answer in zip(evidence.tried, theirs, strict=True)
    )


def _first_row(answer: Answer | None) -> Answer | None:
    return {name: value[0] for name, value in answer.items() if value.ndim} if answer else None


def of_frozen_graph(tried: Sequence[Case], reply: Reply[Answers]) -> list[Answer] | str:
    """Put the answers to single pictures, two for each case, together."""
    if reply.result is None:
        return reply.problem
    answers = reply.result.answers
    failed = [answer for answer in answers if isinstance(answer, str)]
    whole = [answer for answer in answers if not isinstance(answer, str)]
    return failed[0] if failed else [trials.join(whole[2 * place : 2 * place + 2]) for place in range(len(tried))]


def compare(
    name: str,
    compared: Iterable[tuple[Case, Answer | None, Answer | None]],
    tolerances: Tolerances,
    told: str = "",
    numbers: Mapping[str, Any] | None = None,
    problems: Sequence[str] = (),
    *,
    full: bool = False,
) -> Check:
    """Make a check of answers to several cases; `full` tells every output's difference."""
    comparisons: dict[str, Comparison] = {}
    found = list(problems)
    for case, ours, theirs in compared:
        if ours is None or theirs is None:
            if not problems:
                found.append(f"{case.name}: there is no answer to compare")
            continue
        comparisons[case.name] = compare_detections(ours, theirs, tolerances)
        found += [f"{case.name}: {problem}" for problem in comparisons[case.name].problems]
    detections = sum(each.detections for each in comparisons.values())
    matched = sum(each.matched for each in comparisons.values())
    largest = max((each.largest() for each in comparisons.values()), default=0.0)
    told += f"{matched} of {detections} detections matched, " if detections else ""
    told += f"largest difference {largest:.1e}, "
    told += f"{tolerances.boxes:.2g} allowed"
    lines = output_lines(comparisons.values()) if full else []
    cases = {case: comparison.to_json() for case, comparison in comparisons.items()}
    check = checked(name, found, "\n".join([told, *lines]), {**(numbers or {}), "cases": cases})
    if check.status == FAILED and full:
        return Check(name, FAILED, "\n".join([check.detail, *lines]), check.numbers)
    return check


def output_lines(comparisons: Iterable[Comparison]) -> list[str]:
    """Tell each output's differences beside what is allowed, and which outputs are on one side only."""
    worst: dict[str, Difference] = {}
    only: dict[str, set[str]] = {"only here": set(), "only there": set()}
    for comparison in comparisons:
        only["only here"] |= set(comparison.only_ours)
        only["only there"] |= set(comparison.only_theirs)
        for each in comparison.differences:
            if each.output not in worst or not each.largest <= worst[each.output].largest:
                worst[each.output] = each
    lines = [
        f"{each.output}: largest {each.largest:.1e}, mean {each.mean:.1e}, allowed {each.tolerance:.1e}"
        for each in worst.values()
    ]
    return lines + [f"{where}: {', '.join(sorted(names))}" for where, names in only.items() if names]


def checked(
    name: str, problems: Sequence[str], told: str, numbers: Mapping[str, Any] | None = None, status: str = PASSED
) -> Check:
    """Make a check: failed with its problems, or else what is told."""
    if not problems:
        return Check(name, status, told, numbers or {})
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return Check(name, FAILED, "; ".join(problems[:SHOWN]) + more, {**(numbers or {}), "problems": list(problems)})


def damage(reply: Reply[dict[str, TensorDigest | str]]) -> list[str]:
    """Name the first tensor that could not be read, and count them."""
    damaged = {name: found for name, found in (reply.result or {}).items() if isinstance(found, str)}
    if not damaged:
        return []
    first, why = next(iter(damaged.items()))
    more = f", and {len(damaged) - 1} of the other {len(reply.result or {}) - 1}" if len(damaged) > 1 else ""
    return [f"{first} is damaged{more}: {why}"]


def readable(reply: Reply[dict[str, TensorDigest | str]]) -> dict[str, TensorDigest]:
    """Give the variables that could be read."""
    return {name: found for name, found in (reply.result or {}).items() if isinstance(found, TensorDigest)}
