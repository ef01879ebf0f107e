"""A SavedModel folder, or a function -> trust. Nothing here imports TensorFlow; the worker processes do."""

from unfreeze.proof.detections import Comparison, Difference, Tolerances, compare_detections
from unfreeze.proof.pictures import trial_pictures
from unfreeze.proof.report import Check, Report, Seen
from unfreeze.proof.verification import verify
from unfreeze.proof.weights import Stored, Weight, constant_weight, digest
from unfreeze.proof.workers import Verifiers

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
