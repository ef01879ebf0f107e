"""A SavedModel and everything that a place where it serves wants beside it, in one folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unfreeze.errors import OutputError, SavedModelError
from unfreeze.export_record import has_constant_weights
from unfreeze.model_paths import saved_model_folder
from unfreeze.onednn import server_environment
from unfreeze.prediction.class_names import find_label_map
from unfreeze.staging import staged
from unfreeze.targets import kubernetes, sagemaker
from unfreeze.targets.server_versions import ServerVersion, parse_server_version, require_known_operations
from unfreeze.verification.file_checks import file_digests, file_mismatches
from unfreeze.verification.meta_graph import Signature, read_meta_graph

Say = Callable[[str], None]
ENCODED = ("encoded_image_string_tensor",)
PIXELS = ("image_tensor", "float_image_tensor")


@dataclass(frozen=True)
class Packaged:
    """What was written, and for which runtime."""

    folder: Path
    runtime: ServerVersion
    files: tuple[str, ...]
    image: str
    environment: Mapping[str, str] = field(default_factory=dict)  # the server's variables for oneDNN
    note: str | None = None  # why one of them is left out

    def to_dict(self) -> dict[str, Any]:
        return {
            "output_directory": str(self.folder),
            "runtime": str(self.runtime),
            "image": self.image,
            "files": list(self.files),
            "environment": dict(self.environment),
            **({"note": self.note} if self.note else {}),
        }

    def __str__(self) -> str:
        packaged = f"packaged for {self.runtime} ({self.image}) in {self.folder}: {', '.join(self.files)}"
        return f"{packaged}\n{self.note}" if self.note else packaged


def package_tensorflow_serving(
    saved_model: str | Path,
    output_directory: str | Path,
    *,
    name: str = "detector",
    server: str = "tensorflow-serving",
    version: int = 1,
    cpus: int = 2,
    memory: str = "4Gi",
    batching: bool | None = None,
    overwrite: bool = False,
) -> Packaged:
    """The model with TensorFlow Serving's configs, a compose file and a Kubernetes manifest.

    Args:
        name: of the model, and of what Kubernetes makes.
        server: which version, as for `--for`: `tensorflow-serving:2.19`.
        cpus: of each server; memory: as Kubernetes writes it.
        batching: whether requests are joined; by default where serving_default takes pictures that always fit together.
    """
    kubernetes.name_of(name)
    folder, target = _checked(saved_model, _runtime(server, "tensorflow-serving"))
    joined = _joins(folder) if batching is None else batching
    environment, note = server_environment(folder)
    options = kubernetes.Options(
        kubernetes.name_of(name), _version(version), cpus, _memory(memory), joined, environment=environment
    )
    entries = (
        "models",
        "models.config",
        "batching_parameters.txt",
        "monitoring.config",
        "compose.yaml",
        "kubernetes.yaml",
    )
    with staged(Path(output_directory), entries, overwrite=overwrite) as staging:
        names = kubernetes.write_tensorflow_serving(staging, folder, target, options)
    return Packaged(Path(output_directory), target, tuple(names), target.image(), environment, note)


def package_kserve(
    saved_model: str | Path,
    output_directory: str | Path,
    *,
    name: str = "detector",
    server: str = "kserve",
    storage_uri: str = "",
    cpus: int = 2,
    memory: str = "4Gi",
    overwrite: bool = False,
) -> Packaged:
    """An InferenceService for a model that lies, or will lie, at `storage_uri`, a folder of versions.

    Args:
        server: the version of TensorFlow Serving that KServe runs: `kserve` is its default, `kserve:2.19` another.
        storage_uri: such as s3://bucket/models/NAME; by default a path of the volume claim NAME-models.
    """
    options = kubernetes.Options(kubernetes.name_of(name), cpus=cpus, memory=_memory(memory), storage_uri=storage_uri)
    folder, target = _checked(saved_model, _runtime(server, "kserve"))
    environment, note = server_environment(folder)
    options = replace(options, environment=environment)
    with staged(Path(output_directory), ("inference-service.yaml",), overwrite=overwrite) as staging:
        names = kubernetes.write_kserve(staging, target, options)
    return Packaged(Path(output_directory), target, tuple(names), target.image(), environment, note)


def package_sagemaker(
    saved_model: str | Path,
    output_directory: str | Path,
    *,
    name: str = "detector",
    server: str = "sagemaker",
    version: int = 1,
    label_map: str | Path | None = None,
    min_score: float = 0.5,
    region: str = "us-east-1",
    role: str | None = None,
    bucket: str | None = None,
    instance_type: str = "ml.m5.xlarge",
    overwrite: bool = False,
) -> Packaged:
    """A model.tar.gz with code/inference.py, the documents of SageMaker's interface, and deploy.py.

    Args:
        label_map: names of the classes; by default the label map in the SavedModel's assets/.
        min_score: what the endpoint answers scores no less.
        region: whose image is named; role, bucket: put into the documents, or given to deploy.py later.
    """
    if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", region):
        raise OutputError(f"--region {region}: a region of AWS, such as eu-west-1")
    options = sagemaker.Options(
        sagemaker.name_of(name),
        _version(version),
        min_score,
        region,
        role or sagemaker.Options.role,
        bucket or sagemaker.Options.bucket,
        instance_type,
    )
    folder, target = _checked(saved_model, _runtime(server, "sagemaker"))
    environment, note = server_environment(folder)
    options = replace(options, environment=environment)
    model = {"min_score": min_score, "labels": _labels(folder, label_map), **_signatures(folder)}
    entries = (
        *(sagemaker.ARCHIVE, "create-model.json", "endpoint-config-real-time.json", "endpoint-config-serverless.json"),
        *("endpoint-config-async.json", "endpoint.json", "transform-job.json", "deploy.py"),
    )
    with staged(Path(output_directory), entries, overwrite=overwrite) as staging:
        names = sagemaker.write_package(staging, folder, model, target, options)
    return Packaged(Path(output_directory), target, tuple(names), target.image(region), environment, note)


def _checked(saved_model: str | Path, target: ServerVersion) -> tuple[Path, ServerVersion]:
    """The folder of a SavedModel that is whole, and that the runtime loads."""
    folder = saved_model_folder(saved_model)
    problems = file_mismatches(folder, file_digests(folder), {}, constants=has_constant_weights(folder))
    if problems:
        raise SavedModelError(f"{folder}: {problems[0]}")
    require_known_operations(folder, (target,))
    return folder, target


def _runtime(text: str, name: str) -> ServerVersion:
    """`2.19` or `NAME:2.19` -> the runtime of that name."""
    return parse_server_version(text if text.startswith(name) else f"{name}:{text}")


def _version(version: int) -> int:
    if version < 1:
        raise OutputError(f"--version {version}: a number from 1 on")
    return version


def _memory(memory: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?([KMGT]i?)?", memory):
        raise OutputError(f"--memory {memory}: as Kubernetes writes it, such as 4Gi")
    return memory


def _signatures(folder: Path) -> dict[str, str | None]:
    """The signatures that take encoded pictures and pixels, with the outputs that detections are made of."""
    signatures = read_meta_graph(folder).signatures
    encoded = _signature(signatures, ENCODED, "string")
    pixels = _signature(signatures, PIXELS, "uint8")
    if encoded is None:
        raise SavedModelError(
            f"{folder} has no signature that takes encoded pictures, as application/x-image brings them: export with "
            "encoded_image_string_tensor among the --input-type"
        )
    absent = [name for name in sagemaker.NEEDED if name not in signatures[encoded].outputs]
    if absent:
        raise SavedModelError(f"{folder}: {encoded} gives no {', '.join(absent)}: export it with these outputs")
    return {"encoded_signature": encoded, "pixel_signature": pixels}


def _signature(signatures: Mapping[str, Signature], names: tuple[str, ...], dtype: str) -> str | None:
    """The first of the names that is there, else serving_default if it takes this."""
    for name in names:
        if name in signatures:
            return name
    serving = signatures.get("serving_default")
    fits = serving is not None and [tensor.dtype for tensor in serving.inputs.values()] == [dtype]
    return "serving_default" if fits and "tf_example" not in signatures else None


def _joins(folder: Path) -> bool:
    """Whether any two requests to serving_default fit into one batch: strings do, pixels of one size do."""
    serving = read_meta_graph(folder).signatures.get("serving_default")
    if serving is None:
        return False
    return all(tensor.shape is not None and None not in tensor.shape[1:] for tensor in serving.inputs.values())


def _labels(folder: Path, label_map: str | Path | None) -> dict[str, str]:
    """Class number -> name."""
    labels = find_label_map(Path(label_map) if label_map is not None else None, folder)
    return {str(number): labels.text(number) for number in labels.names} if labels else {}
