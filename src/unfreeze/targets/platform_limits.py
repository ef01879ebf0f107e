"""The limits of the platforms, and which of them a model exceeds, by the model's own numbers.

What can never work is an error; what may not work is a warning with both numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from unfreeze.errors import OutputError
from unfreeze.export_record import ExportRecord
from unfreeze.formatting import megabytes
from unfreeze.verification.meta_graph import Signature, read_meta_graph

_SAGEMAKER = "docs.aws.amazon.com/sagemaker/latest/dg"


class Kind(Enum):
    """The number of a model that a limit is about."""

    REQUEST = "a request"
    RESPONSE = "a response"
    START = "the start of a server"
    DISK = "The files of the model"
    MEMORY = "The weights in memory"


@dataclass(frozen=True)
class Limit:
    """The most that a platform accepts, in bytes or seconds, and the page that says so."""

    platform: str
    kind: Kind
    most: float
    source: str


REAL_TIME = "a real-time endpoint of SageMaker"
SERVERLESS = "a serverless endpoint of SageMaker"
ASYNCHRONOUS = "an asynchronous endpoint of SageMaker"
MULTI_MODEL = "the first request to a model of a multi-model endpoint"
GRPC_CLIENT = "a gRPC client that does not raise grpc.max_receive_message_length"
KUBERNETES = "the startup probe of kubernetes.yaml"
BODY_BYTES = 6 << 20
SERVERLESS_BYTES = 4 << 20

LIMITS = (
    Limit(REAL_TIME, Kind.REQUEST, BODY_BYTES, "BodyBlob of botocore's data/sagemaker-runtime"),
    Limit(REAL_TIME, Kind.RESPONSE, BODY_BYTES, "BodyBlob of botocore's data/sagemaker-runtime"),
    Limit(REAL_TIME, Kind.START, 480, f"{_SAGEMAKER}/your-algorithms-inference-code.html"),
    Limit(SERVERLESS, Kind.REQUEST, SERVERLESS_BYTES, f"{_SAGEMAKER}/serverless-endpoints-invoke.html"),
    Limit(SERVERLESS, Kind.RESPONSE, SERVERLESS_BYTES, f"{_SAGEMAKER}/serverless-endpoints-invoke.html"),
    Limit(SERVERLESS, Kind.START, 180, f"{_SAGEMAKER}/serverless-endpoints-invoke.html"),
    Limit(SERVERLESS, Kind.DISK, 5 << 30, f"{_SAGEMAKER}/serverless-endpoints.html"),
    Limit(SERVERLESS, Kind.MEMORY, 6144 << 20, "MemorySizeInMB of botocore's data/sagemaker"),
    Limit(ASYNCHRONOUS, Kind.REQUEST, 1 << 30, f"{_SAGEMAKER}/async-inference.html"),
    Limit(MULTI_MODEL, Kind.START, 60, f"{_SAGEMAKER}/invoke-multi-model-endpoint.html"),
    Limit(GRPC_CLIENT, Kind.RESPONSE, 4 << 20, "the default of gRPC's clients"),
    Limit(KUBERNETES, Kind.START, 300, "data/kubernetes.yaml.jinja: 60 x 5 seconds"),
)
# A model may use this part of the memory; the rest is for the server, for images and activations, and for the version
# that is loaded while the one before it still serves.
SAFE_PART_OF_MEMORY = 0.5
SAFE_PART_OF_START = 0.5  # of the time to start, since another machine may be slower, and downloads take time too
BYTES_PER_PIXEL_VALUE = 4.57  # `123, ` in JSON, the mean of the values 0 to 255
BYTES_PER_PIXEL = 2  # its brackets
# The checks of an export that measure `load_s`; TensorFlow Serving loads as the first one does.
LOADERS = ("cpp_loader", "tf1_loader", "tf2_loader")


@dataclass(frozen=True)
class ModelNumbers:
    """The sizes of a model, what one request for an image has, and how long an export measured that it loads.

    `image_size` (height, width) is None if images of any size are accepted, `load_s` if it was not measured.
    """

    files_bytes: int = 0
    weights_bytes: int = 0
    image_size: tuple[int, int] | None = None
    load_s: float | None = None

    @property
    def pixel_request_bytes(self) -> int | None:
        """The size of an image of the model's size as nested lists of numbers in JSON."""
        if self.image_size is None:
            return None
        height, width = self.image_size
        return int(height * width * (3 * BYTES_PER_PIXEL_VALUE + BYTES_PER_PIXEL))


def model_numbers(saved_model: Path, record: ExportRecord | None) -> ModelNumbers:
    """Returns the numbers of a SavedModel; the time to load comes from the checks in its export.json."""
    sizes = {path.relative_to(saved_model): path.stat().st_size for path in saved_model.rglob("*") if path.is_file()}
    weights = sum(size for path, size in sizes.items() if path.parts[0] == "variables" or path.name == "saved_model.pb")
    return ModelNumbers(
        files_bytes=sum(sizes.values()),
        weights_bytes=weights,
        image_size=_image_size(read_meta_graph(saved_model).signatures),
        load_s=_measured_load_s(record),
    )


def memory_findings(numbers: ModelNumbers, memory_bytes: int, where: str) -> Iterator[str]:
    """Yields a warning if a model may need more memory than `where` has.

    Raises: OutputError if its weights alone need more.
    """
    weights = numbers.weights_bytes
    if weights >= memory_bytes:
        raise OutputError(
            f"{where}: the weights of the model ({megabytes(weights)}) do not fit into this memory "
            f"({megabytes(memory_bytes)}). Choose more."
        )
    if weights > SAFE_PART_OF_MEMORY * memory_bytes:
        yield (
            f"{where}: the weights of the model ({megabytes(weights)}) take more than half of this memory "
            f"({megabytes(memory_bytes)}), and images, activations and the next version need memory too"
        )


def findings(
    numbers: ModelNumbers, platforms: Mapping[str, str], *, pixels: bool, response_bytes: int | None = None
) -> Iterator[str]:
    """Yields a warning for each limit that a model may exceed.

    Args:
        numbers: the numbers of the model.
        platforms: the platforms of LIMITS to check, and for each what to do if the time to start is too short.
        pixels: whether requests may have pixels as JSON numbers.
        response_bytes: the size of the largest response to one image; None if it is not known.
    """
    for limit in LIMITS:
        if limit.platform not in platforms:
            continue
        if limit.kind is Kind.REQUEST and pixels and numbers.image_size is not None:
            yield from _request_finding(numbers, numbers.image_size, limit)
        if limit.kind is Kind.RESPONSE and response_bytes is not None and response_bytes > limit.most:
            yield (
                f"a response with every detection of an image has about {megabytes(response_bytes)}; the limit of "
                f"{limit.platform} is {megabytes(int(limit.most))}. Export with --max-detections, or raise --min-score."
            )
        if limit.kind is Kind.START and numbers.load_s is not None:
            yield from _start_finding(numbers.load_s, limit, platforms[limit.platform])


def exceeds(numbers: ModelNumbers, platform: str) -> str | None:
    """Returns why a model can never run on a platform, by its size in memory and on disk; None if it can."""
    values = {Kind.MEMORY: numbers.weights_bytes, Kind.DISK: numbers.files_bytes}
    for limit in LIMITS:
        if limit.platform == platform and limit.kind in values and values[limit.kind] >= limit.most:
            return (
                f"{limit.kind.value} need {megabytes(values[limit.kind])}; the limit of {platform} is "
                f"{megabytes(int(limit.most))}."
            )
    return None


def _request_finding(numbers: ModelNumbers, image_size: tuple[int, int], limit: Limit) -> Iterator[str]:
    size = numbers.pixel_request_bytes
    if size is not None and size > limit.most:
        height, width = image_size
        yield (
            f"an image of {height} x {width} pixels as JSON numbers has about {megabytes(size)}; the limit of "
            f"{limit.platform} is {megabytes(int(limit.most))}. Send JPEG or PNG files instead."
        )


def _start_finding(load_s: float, limit: Limit, advice: str) -> Iterator[str]:
    if load_s > SAFE_PART_OF_START * limit.most:
        yield (
            f"the model took {load_s:.0f} s to load when it was exported; the limit of {limit.platform} is "
            f"{limit.most:.0f} s. {advice}"
        )


def _image_size(signatures: Mapping[str, Signature]) -> tuple[int, int] | None:
    """Returns the fixed (height, width) of the images that a model accepts as pixels."""
    for name in ("image_tensor", "serving_default"):
        for tensor in signatures[name].inputs.values() if name in signatures else ():
            if tensor.shape is not None and len(tensor.shape) == 4:
                height, width = tensor.shape[1:3]
                return None if height is None or width is None else (height, width)
    return None


def _measured_load_s(record: ExportRecord | None) -> float | None:
    """Returns the time to load that the verification of an export measured, by the first of LOADERS that ran."""
    checks = {check.name: check.numbers for check in record.checks} if record else {}
    times = (checks[name].get("load_s") for name in LOADERS if name in checks)
    return next((time for time in times if isinstance(time, int | float)), None)
