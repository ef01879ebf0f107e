"""A SavedModel folder, or a function -> trust. Nothing here imports TensorFlow; the worker processes do."""

from unfreeze.verification.images import sample_images
from unfreeze.verification.output_comparison import Comparison, Difference, Tolerances, compare_detections
from unfreeze.verification.report import Check, ImageResult, Report
from unfreeze.verification.verification import verify_saved_model
from unfreeze.verification.weight_digests import ExpectedWeight, TensorDigest, expected_constant, tensor_digest
from unfreeze.verification.workers import WorkerProcesses

__all__ = [
    "Check",
    "Comparison",
    "Difference",
    "ExpectedWeight",
    "ImageResult",
    "Report",
    "TensorDigest",
    "Tolerances",
    "WorkerProcesses",
    "compare_detections",
    "digest",
    "expected_constant",
    "sample_images",
    "tensor_digest",
    "verify_saved_model",
]
