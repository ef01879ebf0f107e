"""From a trained detection checkpoint to an unfrozen, verified, servable SavedModel.

The public names are looked up when they are first used, so that `import unfreeze` costs nothing: TensorFlow
is imported by what needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unfreeze import errors
from unfreeze.errors import UnfreezeError

if TYPE_CHECKING:
    from unfreeze.verbs.diff import diff
    from unfreeze.verbs.evaluate import evaluate
    from unfreeze.verbs.export import export
    from unfreeze.verbs.inspect import inspect
    from unfreeze.verbs.load_detector import LoadedDetector, load_detector
    from unfreeze.verbs.package import package_kserve, package_sagemaker, package_tensorflow_serving
    from unfreeze.verbs.predict import predict
    from unfreeze.verbs.predict_many import predict_many
    from unfreeze.verbs.publish import labels, prune, publish, rollback
    from unfreeze.verbs.serve import serve, start_server
    from unfreeze.verbs.verify import verify
    from unfreeze.verbs.watch import watch

__version__ = "0.2.0"

__all__ = [
    "LoadedDetector",
    "UnfreezeError",
    "__version__",
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
    "predict",
    "predict_many",
    "prune",
    "publish",
    "rollback",
    "serve",
    "start_server",
    "verify",
    "watch",
]

# Public name -> the module that has it.
VERBS = {
    "evaluate": "unfreeze.verbs.evaluate",
    "diff": "unfreeze.verbs.diff",
    "export": "unfreeze.verbs.export",
    "inspect": "unfreeze.verbs.inspect",
    "LoadedDetector": "unfreeze.verbs.load_detector",
    "labels": "unfreeze.verbs.publish",
    "load_detector": "unfreeze.verbs.load_detector",
    "package_kserve": "unfreeze.verbs.package",
    "package_sagemaker": "unfreeze.verbs.package",
    "package_tensorflow_serving": "unfreeze.verbs.package",
    "predict": "unfreeze.verbs.predict",
    "predict_many": "unfreeze.verbs.predict_many",
    "prune": "unfreeze.verbs.publish",
    "publish": "unfreeze.verbs.publish",
    "rollback": "unfreeze.verbs.publish",
    "serve": "unfreeze.verbs.serve",
    "start_server": "unfreeze.verbs.serve",
    "verify": "unfreeze.verbs.verify",
    "watch": "unfreeze.verbs.watch",
}


def __getattr__(name: str) -> Any:
    if name in VERBS:
        return getattr(import_module(VERBS[name]), name)
    raise AttributeError(f"module 'unfreeze' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
