"""From a trained detection checkpoint to an unfrozen, verified, servable SavedModel.

The public names are looked up when they are first used, so that `import unfreeze` costs nothing: TensorFlow
is imported by what needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unfreeze import errors
from unfreeze.errors import UnfreezeError
from unfreeze.version import __version__

if TYPE_CHECKING:
    from unfreeze.benchmarking.benchmark import benchmark
    from unfreeze.comparison.diff import diff
    from unfreeze.comparison.verify import verify
    from unfreeze.evaluation.evaluate import evaluate
    from unfreeze.exporting.export import export
    from unfreeze.inspection.inspect import inspect
    from unfreeze.loaded_detector import LoadedDetector, load_detector
    from unfreeze.prediction.predict import predict
    from unfreeze.prediction.predict_many import predict_many
    from unfreeze.publishing.labels import labels
    from unfreeze.publishing.prune import prune
    from unfreeze.publishing.publish import publish
    from unfreeze.publishing.rollback import rollback
    from unfreeze.publishing.watch import watch
    from unfreeze.server.serve import serve, start_sagemaker, start_server
    from unfreeze.targets.kserve import package_kserve
    from unfreeze.targets.sagemaker import package_sagemaker
    from unfreeze.targets.tensorflow_serving import package_tensorflow_serving
    from unfreeze.targets.triton import package_triton


__all__ = [
    "LoadedDetector",
    "UnfreezeError",
    "__version__",
    "benchmark",
    "diff",
    "errors",
    "evaluate",
    "export",
    "inspect",
    "labels",
    "load_detector",
    "package_kserve",
    "package_sagemaker",
    "package_tensorflow_serving",
    "package_triton",
    "predict",
    "predict_many",
    "prune",
    "publish",
    "rollback",
    "serve",
    "start_sagemaker",
    "start_server",
    "verify",
    "watch",
]

# Public name -> the module that defines it.
PUBLIC = {
    "benchmark": "unfreeze.benchmarking.benchmark",
    "evaluate": "unfreeze.evaluation.evaluate",
    "diff": "unfreeze.comparison.diff",
    "export": "unfreeze.exporting.export",
    "inspect": "unfreeze.inspection.inspect",
    "LoadedDetector": "unfreeze.loaded_detector",
    "labels": "unfreeze.publishing.labels",
    "load_detector": "unfreeze.loaded_detector",
    "package_kserve": "unfreeze.targets.kserve",
    "package_sagemaker": "unfreeze.targets.sagemaker",
    "package_tensorflow_serving": "unfreeze.targets.tensorflow_serving",
    "package_triton": "unfreeze.targets.triton",
    "predict": "unfreeze.prediction.predict",
    "predict_many": "unfreeze.prediction.predict_many",
    "prune": "unfreeze.publishing.prune",
    "publish": "unfreeze.publishing.publish",
    "rollback": "unfreeze.publishing.rollback",
    "serve": "unfreeze.server.serve",
    "start_sagemaker": "unfreeze.server.serve",
    "start_server": "unfreeze.server.serve",
    "verify": "unfreeze.comparison.verify",
    "watch": "unfreeze.publishing.watch",
}


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(PUBLIC[name]), name)
    raise AttributeError(f"module 'unfreeze' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
