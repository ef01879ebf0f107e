"""Whatever a command can do, the library function of its name can do, by the same names."""

from __future__ import annotations

import inspect
from importlib import import_module

import click
import pytest

import unfreeze
from unfreeze import cli
from unfreeze.cli.options import RenamedOption
from unfreeze.cli.package import package
from unfreeze.cli.serve import SAGEMAKER_OPTIONS

# Command -> the public function that it calls.
FUNCTIONS = {
    **{name: name for name in ("benchmark", "diff", "evaluate", "export", "inspect", "labels", "predict")},
    **{name: name for name in ("prune", "publish", "rollback", "verify", "watch")},
    "package kserve": "package_kserve",
    "package sagemaker": "package_sagemaker",
    "package tensorflow-serving": "package_tensorflow_serving",
    "package triton": "package_triton",
}
# How a result is printed is not a matter of the function.
PRINTING = {"as_json", "quiet", "traceback", "log_level", "exit_code"}
COMMAND_ONLY = {
    "predict": {
        "endpoint",  # the same as saved_model="sagemaker://NAME"
    },
}
# Functions, and objects that a command line cannot have.
CALLBACKS = {"on_progress", "on_warning", "on_advance", "on_failure", "on_published", "on_decision"}
FUNCTION_ONLY = {
    "export": {
        "side_inputs",  # the typed form of --side-input-shapes, -names and -types
        "workers",  # processes that a caller has started already
    },
    "watch": {  # options of each export, which a training that is watched seldom changes
        *("input_shape", "side_inputs", "config_override", "allow_unknown_fields", "weights", "suppression"),
        *("kept_outputs", "score_threshold", "max_detections"),
    },
}


def command_of(name: str) -> click.Command:
    context = click.Context(cli.unfreeze)
    first, _, second = name.partition(" ")
    command = package.commands[second] if second else cli.unfreeze.get_command(context, first)
    assert command is not None
    return command


@pytest.mark.parametrize("name", FUNCTIONS)
def test_command_and_function_have_the_same_parameters(name: str) -> None:
    options = {param.name for param in command_of(name).params if not isinstance(param, RenamedOption)}
    parameters = set(inspect.signature(getattr(unfreeze, FUNCTIONS[name])).parameters)
    assert options - PRINTING - COMMAND_ONLY.get(name, set()) == parameters - CALLBACKS - FUNCTION_ONLY.get(name, set())


# `serve` has two functions, since a SageMaker archive decides itself most of what the options of a server are about: in
# one function, these arguments would have no effect beside an archive.
SERVE_ONLY = {"model_base_path_flag"}  # the same as the argument MODEL_BASE_PATH
SAGEMAKER_ONLY = {"sagemaker", "sagemaker_port", "multi_model"}
SAGEMAKER_NAMES = {"archive": "model_base_path", "port": "sagemaker_port"}  # where the two differ


def parameters_of(function: str) -> set[str]:
    return set(inspect.signature(getattr(unfreeze, function)).parameters) - CALLBACKS


def test_serve_has_the_parameters_of_its_two_functions() -> None:
    options = {param.name for param in command_of("serve").params} - PRINTING - SERVE_ONLY
    assert parameters_of("start_server") == parameters_of("serve") == options - SAGEMAKER_ONLY

    of_archive = {SAGEMAKER_NAMES.get(name, name) for name in parameters_of("start_sagemaker")}
    assert of_archive <= options
    assert of_archive == SAGEMAKER_OPTIONS - PRINTING - SERVE_ONLY - {"sagemaker"}


def test_demo_has_the_same_parameters() -> None:
    options = {param.name for param in command_of("demo").params}
    parameters = set(inspect.signature(import_module("unfreeze.demo").demo).parameters)
    assert options - PRINTING - {"serve"} == parameters - CALLBACKS
