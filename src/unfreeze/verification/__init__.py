"""Verifies a SavedModel: loads it with three loaders in worker processes, runs it, and compares the outputs.

No module that the parent process needs imports TensorFlow; only the worker processes do.
"""

from unfreeze.verification.output_comparison import Comparison, Difference, Tolerances, compare_detections
from unfreeze.verification.report import Check, ImageResult, Report, Status
from unfreeze.verification.sample_inputs import sample_images
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
    "Status",
    "TensorDigest",
    "Tolerances",
    "WorkerProcesses",
    "compare_detections",
    "expected_constant",
    "sample_images",
    "tensor_digest",
    "verify_saved_model",
]
