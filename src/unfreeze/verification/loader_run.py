"""The results of one loaded model, by sample input."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unfreeze.verification.calls import Batch, Call, Outputs, Results
from unfreeze.verification.failures import Failure
from unfreeze.verification.sample_calls import SERVING
from unfreeze.verification.sample_inputs import SampleInput


@dataclass(frozen=True)
class LoaderRun:
    """The calls of one loaded model; `results` waits for what they return."""

    calls: Sequence[Call]
    results: Callable[[], Results | Failure]

    def outputs_of(self, call: Call) -> Outputs | Failure | None:
        """Returns what one call returned; None if it is not among the calls, or the model could not be loaded."""
        return next((outputs for own, outputs in self._outputs() if own is call), None)

    def first(self, sample: SampleInput, signature: str = SERVING) -> Outputs | None:
        """Returns the outputs `[1, …]` for the first image, of the smallest batch that starts with it."""
        by_batch = self._by_batch(sample, signature)
        smallest = min((batch for batch in by_batch if batch[0] == 0), key=len, default=None)
        return None if smallest is None else _first_rows(by_batch[smallest], 1)

    def together(self, sample: SampleInput, signature: str = SERVING) -> Outputs | None:
        """Returns the outputs `[2, …]` for both images of one batch, or of each alone if there is no such batch."""
        by_batch = self._by_batch(sample, signature)
        batches = [outputs for batch, outputs in by_batch.items() if len(batch) > 1]
        return _first_rows(batches[0], 2) if batches else _concatenated_singles(by_batch)

    def singles(self, sample: SampleInput, signature: str = SERVING) -> Outputs | None:
        """Returns the outputs `[2, …]` for each image alone, or for both in one batch if it was not run alone."""
        singles = _concatenated_singles(self._by_batch(sample, signature))
        return self.together(sample, signature) if singles is None else singles

    def _by_batch(self, sample: SampleInput, signature: str) -> dict[Batch, Outputs]:
        return {
            call.batch: outputs
            for call, outputs in self._outputs()
            if (call.sample, call.signature) == (sample.name, signature) and not isinstance(outputs, Failure)
        }

    def _outputs(self) -> list[tuple[Call, Outputs | Failure]]:
        results = self.results()
        return [] if isinstance(results, Failure) else list(zip(self.calls, results.outputs, strict=True))


def concatenated(singles: Sequence[Mapping[str, np.ndarray]]) -> Outputs:
    """Joins the outputs for single images to those of a batch; omits an output whose shapes differ."""
    return {
        name: np.concatenate([np.atleast_1d(single[name]) for single in singles])
        for name in singles[0]
        if len({single[name].shape for single in singles}) == 1
    }


def unbatched_outputs(call: Call, outputs: Outputs) -> list[str]:
    """Describes the outputs that do not have one row for each image."""
    return [
        f"{call.signature}: {name} is {list(value.shape)} for {len(call.batch)} images"
        for name, value in outputs.items()
        if value.shape[:1] != (len(call.batch),)
    ]


def _concatenated_singles(by_batch: Mapping[Batch, Outputs]) -> Outputs | None:
    singles = [by_batch[batch] for batch in ((0,), (1,)) if batch in by_batch]
    return concatenated(singles) if len(singles) == 2 else None


def _first_rows(outputs: Outputs, count: int) -> Outputs:
    """Returns the first rows of every output that has as many; a scalar is one row."""
    rows = {name: np.atleast_1d(value) for name, value in outputs.items()}
    return {name: value[:count] for name, value in rows.items() if len(value) >= count}
