"""A folder of versions -> answers on this machine: TensorFlow Serving's REST and gRPC without its container.

Sees only SavedModel folders. Needs the extra `serve`.
"""

from unfreeze.server.process import Server, wait_for_signal
from unfreeze.server.rest import alive
from unfreeze.server.sagemaker import SageMakerServer
from unfreeze.server.settings import (
    METRICS_PATH,
    Batching,
    ModelServerConfig,
    Settings,
    read_batching,
    read_metrics_path,
    read_models,
    single_model,
)

__all__ = [
    "METRICS_PATH",
    "Batching",
    "ModelServerConfig",
    "SageMakerServer",
    "Server",
    "Settings",
    "alive",
    "read_batching",
    "read_metrics_path",
    "read_models",
    "single_model",
    "wait_for_signal",
]
