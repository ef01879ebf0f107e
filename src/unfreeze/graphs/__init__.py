"""A frozen graph of any architecture -> the same graph on variables."""

from unfreeze.graphs.endpoints import Ends, find_ends
from unfreeze.graphs.files import FrozenGraph, read_frozen
from unfreeze.graphs.operations import require_harmless
from unfreeze.graphs.parameters import Kept, Parameter, Parameters, find_parameters
from unfreeze.graphs.pruning import prune
from unfreeze.graphs.variables import Unfrozen, unfrozen

__all__ = [
    "Ends",
    "FrozenGraph",
    "Kept",
    "Parameter",
    "Parameters",
    "Unfrozen",
    "find_ends",
    "find_parameters",
    "prune",
    "read_frozen",
    "require_harmless",
    "unfrozen",
]
