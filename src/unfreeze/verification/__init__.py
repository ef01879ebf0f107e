"""A SavedModel folder, or a function -> trust. Nothing here imports TensorFlow; the worker processes do."""

from unfreeze.verification.detections import Comparison, Difference, Tolerances, compare_detections
from unfreeze.verification.images import trial_pictures
from unfreeze.verification.report import Check, Report, Seen
from unfreeze.verification.verification import verify
from unfreeze.verification.weights import Stored, Weight, constant_weight, digest
from unfreeze.verification.workers import Verifiers

__all__ = [
    "Check",
    "Comparison",
    "Difference",
    "Report",
    "Seen",
    "Stored",
    "Tolerances",
    "Verifiers",
    "Weight",
    "compare_detections",
    "constant_weight",
    "digest",
    "trial_pictures",
    "verify",
]
