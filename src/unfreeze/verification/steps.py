"""What a worker process can be asked to do."""

from enum import Enum


class WorkerKind(str, Enum):
    """What a worker process loads at its start."""

    TENSORFLOW = "tensorflow"
    C_API = "c_api"


class Step(str, Enum):
    """What a worker process can do; all but CPP_LOADER need TensorFlow's Python package."""

    VARIABLES = "variables"
    CONSTANTS = "constants"
    TF2_LOADER = "tf2_loader"
    TF1_LOADER = "tf1_loader"
    ANY_LOADER = "any_loader"
    GRAPH = "graph"
    OBJECT_DETECTION_GRAPH = "object_detection_graph"
    UNOPTIMIZED_PAIR = "unoptimized_pair"
    CPP_LOADER = "cpp_loader"
