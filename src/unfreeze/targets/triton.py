"""Packages a model for NVIDIA Triton: a model repository with config.pbtxt, and compose.yaml.

Source: docs/user_guide/model_repository.md of triton-inference-server/server; README.md of
triton-inference-server/tensorflow_backend; the README of release 26.07 for the image of ONNX files.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import OutputError, SavedModelError, UnsupportedError
from unfreeze.prediction.class_names import class_names
from unfreeze.runtimes import ModelFile, find_model, load_file
from unfreeze.staging import staged
from unfreeze.targets.gpus import Gpus, require_gpus
from unfreeze.targets.kubernetes import render_manifest, require_kubernetes_name
from unfreeze.targets.packaged import Packaged, ServedModel, read_served_model, require_version_number
from unfreeze.targets.server_versions import ServerVersion
from unfreeze.targets.triton_config import Backend, Tensor, TritonModel, format_config, has_batch_dimension
from unfreeze.verification.meta_graph import TensorInfo, read_meta_graph

TARGET = "triton"
COMPOSE = "triton-compose.yaml"
ENTRIES = ("models", "compose.yaml")
CONFIG = "config.pbtxt"
DEFAULT_SIGNATURE = "serving_default"
USUAL_BATCH_SIZE = 8
ONNX_TAG = "26.07-py3"
BACKEND_REMOVED = (
    "Triton removed its TensorFlow backend in release 25.03; compose.yaml uses 25.02, the last one with it. For newer "
    "releases, export with --format onnx and package model.onnx."
)


@dataclass(frozen=True)
class _Source:
    """A model to package: its tensors, the file or folder to copy, and the server that runs it."""

    backend: Backend
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    file_name: str
    served: ServedModel


def package_triton(
    model: str | Path,
    output_directory: str | Path = TARGET,
    *,
    name: str = "detector",
    server: str = TARGET,
    version: int = 1,
    signature: str = DEFAULT_SIGNATURE,
    label_map: str | Path | None = None,
    max_batch_size: int | None = None,
    instances: int = 1,
    gpus: int = 0,
    gpu_memory_fraction: float | None = None,
    overwrite: bool = False,
    on_warning: OnMessage = ignore,
) -> Packaged:
    """Writes a model repository of Triton for a SavedModel or an ONNX file, and compose.yaml.

    Args:
        model: the folder with saved_model.pb, the folder of the export above it, or an .onnx file.
        output_directory: the folder to write.
        name: the name of the model.
        server: the version of Triton by its TensorFlow, for a SavedModel: `triton:2.17` is release 25.02.
        version: the version number of the model.
        signature: the signature of a SavedModel that is served.
        label_map: class names (.pbtxt), which config.pbtxt has as the parameter `class_names`; by default the label
            map in the SavedModel's assets/.
        max_batch_size: how many images Triton may combine into one batch; 0 for none. By default 8 if every input and
            output has a batch dimension, else 0.
        instances: how many copies of the model run at once, on each GPU or on the CPU.
        gpus: how many NVIDIA GPUs the server gets.
        gpu_memory_fraction: the part of each GPU's memory that TensorFlow may use, up to 1; by default it grows.
        overwrite: whether to replace existing files.

    Raises:
        UnsupportedError: the file is of another kind, or an option does not fit its backend.
        SavedModelError: there is no model, it cannot be loaded, or it has no such signature.
        OutputError: an argument is not valid, or the output exists or cannot be written.
    """
    require_kubernetes_name(name)
    require_version_number(version)
    if instances < 1:
        raise OutputError(f"--instances {instances}: must be at least 1")
    file = find_model(model)
    gpu_settings = require_gpus(gpus, gpu_memory_fraction)
    if file.runtime.name == "ONNX":
        _require_onnx_options(file.path, server, signature, gpu_memory_fraction)
        source = _onnx(file)
    elif file.runtime.name == "SavedModel":
        source = _saved_model(model, server, signature, gpu_settings)
        on_warning(BACKEND_REMOVED)
    else:
        raise UnsupportedError(
            f"not supported: {file.path} is a file of {file.runtime.name}, and unfreeze package triton takes "
            "SavedModels and ONNX files. Export with --format onnx."
        )
    names = class_names(None if label_map is None else Path(label_map), _label_map_folder(file.path))
    config = TritonModel(
        name=name,
        backend=source.backend,
        inputs=source.inputs,
        outputs=source.outputs,
        max_batch_size=_batch_size(file.path, source, max_batch_size, on_warning),
        instances=instances,
        gpu=gpu_settings.count > 0,
        signature="" if signature == DEFAULT_SIGNATURE else signature,
        class_names={str(class_id): class_name for class_id, class_name in names.items()},
    )
    image = source.served.server.image(hardware=gpu_settings.hardware)
    flags = [
        "--model-repository=/models",
        *([f"--backend-config=tensorflow,gpu-memory-fraction={gpu_memory_fraction:g}"] if gpu_memory_fraction else []),
    ]
    texts = {
        f"models/{name}/{CONFIG}": format_config(config),
        "compose.yaml": render_manifest(
            COMPOSE, source.served.environment, gpu_settings, name=name, image=image, flags=flags
        ),
    }
    with staged(Path(output_directory), ENTRIES, overwrite=overwrite) as folder:
        _copy(source.served.folder, folder / "models" / name / str(version) / source.file_name)
        for file_name, text in texts.items():
            (folder / file_name).write_text(text, encoding="utf-8")
    return Packaged(Path(output_directory), ENTRIES, image, source.served)


def _saved_model(model: str | Path, server: str, signature: str, gpus: Gpus) -> _Source:
    served = read_served_model(model, server, target=TARGET, hardware=gpus.hardware)
    signatures = read_meta_graph(served.folder).signatures
    if signature not in signatures:
        raise SavedModelError(
            f"{served.folder}: has no signature {signature} (found: {', '.join(signatures)}). Pass one of these to "
            "--signature."
        )
    inputs = tuple(_tensor(served.folder, *item) for item in signatures[signature].inputs.items())
    outputs = tuple(_tensor(served.folder, *item) for item in signatures[signature].outputs.items())
    return _Source(Backend.TENSORFLOW, inputs, outputs, "model.savedmodel", served)


def _onnx(file: ModelFile) -> _Source:
    loaded = load_file(file)
    tensors = [
        tuple(Tensor(spec.name, spec.dtype.name, _known(file.path, spec.name, spec.shape)) for spec in specs)
        for specs in (loaded.inputs, loaded.outputs)
    ]
    server = ServerVersion(TARGET, "", ONNX_TAG)  # it is not built from a TensorFlow
    return _Source(Backend.ONNX_RUNTIME, tensors[0], tensors[1], "model.onnx", ServedModel(file.path, server, {}))


def _require_onnx_options(path: Path, server: str, signature: str, gpu_memory_fraction: float | None) -> None:
    """Raises UnsupportedError if an option is for SavedModels only."""
    for option, is_used in (
        (f"--for {server}", server != TARGET),
        (f"--signature {signature}", signature != DEFAULT_SIGNATURE),
        (f"--gpu-memory-fraction {gpu_memory_fraction}", gpu_memory_fraction is not None),
    ):
        if is_used:
            raise UnsupportedError(f"not supported: {option} with the ONNX file {path}. Omit the option.")


def _batch_size(path: Path, source: _Source, requested: int | None, on_warning: OnMessage) -> int:
    """Returns the max_batch_size of config.pbtxt.

    Raises: OutputError if it is not valid, or the model has no batch dimension.
    """
    tensors = [*source.inputs, *source.outputs]
    batched = has_batch_dimension(tensors)
    if requested is None:
        if not batched:
            on_warning(f"{path}: not every tensor has a batch dimension, so Triton does not combine requests")
        return USUAL_BATCH_SIZE if batched else 0
    if requested < 0:
        raise OutputError(f"--max-batch-size {requested}: must be 0 or more")
    if requested and not batched:
        fixed = next(tensor.name for tensor in tensors if not has_batch_dimension([tensor]))
        raise OutputError(
            f"--max-batch-size {requested}: the first dimension of {fixed} in {path} is not that of a batch. Export "
            "without a fixed batch, or pass --max-batch-size 0."
        )
    return requested


def _label_map_folder(model: Path) -> Path:
    """Returns the SavedModel whose label map is the default: for a file, the one beside it in an export."""
    return model if model.is_dir() else model.parent / "saved_model"


def _tensor(path: Path, name: str, info: TensorInfo) -> Tensor:
    return Tensor(name, info.dtype, _known(path, name, info.shape))


def _known(path: Path, name: str, shape: tuple[int | None, ...] | None) -> tuple[int | None, ...]:
    if shape is None:
        raise UnsupportedError(
            f"not supported: {name} in {path} has no fixed rank, which Triton needs. Export it again."
        )
    return shape


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        target.parent.mkdir(parents=True)
        shutil.copyfile(source, target)
