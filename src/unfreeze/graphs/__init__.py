"""Reads a frozen graph of any architecture, and turns the constants that were weights into variables."""

from unfreeze.graphs.endpoints import Endpoint, Endpoints, find_endpoints
from unfreeze.graphs.files import FrozenGraph, read_frozen_graph, read_graph_def, reporting_damage
from unfreeze.graphs.operations import require_harmless
from unfreeze.graphs.parameters import Constant, Parameter, Parameters, find_parameters
from unfreeze.graphs.pruning import prune
from unfreeze.graphs.variables import GraphWithVariables, constants_to_variables

__all__ = [
    "Constant",
    "Endpoint",
    "Endpoints",
    "FrozenGraph",
    "GraphWithVariables",
    "Parameter",
    "Parameters",
    "constants_to_variables",
    "find_endpoints",
    "find_parameters",
    "prune",
    "read_frozen_graph",
    "read_graph_def",
    "reporting_damage",
    "require_harmless",
]
