"""The kinds of worker processes, and the steps that they run."""

from enum import Enum


class WorkerKind(str, Enum):
    """The kind of a worker process: what it loads when it starts."""

    TENSORFLOW = "tensorflow"
    C_API = "c_api"


class Step(str, Enum):
    """A step that a worker process runs; all but CPP_LOADER need TensorFlow's Python package."""

    VARIABLES = "variables"
    CONSTANTS = "constants"
    TF2_LOADER = "tf2_loader"
    TF1_LOADER = "tf1_loader"
    ANY_LOADER = "any_loader"
    GRAPH = "graph"
    OBJECT_DETECTION_GRAPH = "object_detection_graph"
    UNOPTIMIZED_PAIR = "unoptimized_pair"
    CPP_LOADER = "cpp_loader"
