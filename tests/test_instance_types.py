"""The instance types of SageMaker: each has a processor, and the processor decides which container image is used."""

from __future__ import annotations

import pytest

from unfreeze.errors import UnsupportedError
from unfreeze.targets.instance_types import Hardware, find_instance_type, instance_type_names
from unfreeze.targets.server_versions import parse_server_version


def names_in_api(shape: str) -> set[str]:
    session = pytest.importorskip("botocore.session").get_session()
    return set(session.get_service_model("sagemaker").shape_for(shape).enum)


def test_every_instance_type_of_the_api_is_known() -> None:
    known = list(instance_type_names())
    assert len(known) == len(set(known))
    assert set(known) == names_in_api("ProductionVariantInstanceType")


def test_instance_types_of_batch_transform_are_those_of_the_api() -> None:
    names = names_in_api("TransformInstanceType")
    for name in instance_type_names():
        try:
            found = find_instance_type(name)
        except UnsupportedError:
            continue
        assert found.batch_transform == (name in names), name


@pytest.mark.parametrize(
    ("name", "hardware", "memory_gib"),
    [
        ("ml.t2.medium", Hardware.CPU, 4),
        ("ml.m5.xlarge", Hardware.CPU, 16),
        ("ml.c5.18xlarge", Hardware.CPU, 144),
        ("ml.r6i.large", Hardware.CPU, 16),
        ("ml.g4dn.xlarge", Hardware.GPU, 16),
        ("ml.g5.48xlarge", Hardware.GPU, 768),
        ("ml.p6-b200.48xlarge", Hardware.GPU, None),
        ("ml.c7g.2xlarge", Hardware.ARM, 16),
    ],
)
def test_processor_and_memory(name: str, hardware: Hardware, memory_gib: int | None) -> None:
    found = find_instance_type(name)
    assert (found.hardware, found.memory_bytes) == (hardware, memory_gib and memory_gib << 30)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ml.m5.3xlarge", r"ml\.m5\.3xlarge is not a known instance type\. The sizes of ml\.m5 are large, xlarge"),
        ("m5.xlarge", r"Did you mean ml\.m5\.xlarge\?"),
        ("ml.g4.xlarge", r"Similar names: .*ml\.g4dn\.xlarge"),
        ("gpu", r"The known families are t2, m4"),
        ("", r"The known families are"),
        ("ml.inf2.xlarge", r"Inferentia or Trainium chips, which need a model compiled for them"),
        ("ml.trn1.2xlarge", r"Inferentia or Trainium"),
        ("ml.dl1.24xlarge", r"Intel Gaudi"),
        ("ml.p6e-gb200.36xlarge", r"beside an arm64 CPU"),
    ],
)
def test_instance_types_that_are_rejected(name: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        find_instance_type(name)


@pytest.mark.parametrize(
    ("server", "hardware", "image"),
    [
        ("tensorflow-serving:2.18", Hardware.GPU, "tensorflow/serving:2.18.1-gpu"),
        ("kserve", Hardware.GPU, "tensorflow/serving:2.6.2-gpu"),
        ("kserve:2.19", Hardware.GPU, "tensorflow/serving:2.19.1-gpu"),
        ("sagemaker", Hardware.GPU, "tensorflow-inference:2.19.0-gpu"),
        ("sagemaker:2.20", Hardware.GPU, "tensorflow-inference:2.20-gpu-py312-cu129-amzn2023-sagemaker-v1"),
        ("sagemaker", Hardware.ARM, "tensorflow-inference-graviton:2.16.1-cpu-py310-ubuntu20.04-sagemaker"),
        ("triton", Hardware.GPU, "nvcr.io/nvidia/tritonserver:25.02-py3"),
    ],
)
def test_image_for_a_processor(server: str, hardware: Hardware, image: str) -> None:
    assert parse_server_version(server, hardware).image("eu-west-1", hardware).endswith(image)


def test_version_without_an_image_for_the_processor_is_rejected() -> None:
    with pytest.raises(
        UnsupportedError, match=r"sagemaker:2\.19 has no container image for a Graviton .* 2\.14, 2\.16"
    ):
        parse_server_version("sagemaker:2.19", Hardware.ARM).image("eu-west-1", Hardware.ARM)
    with pytest.raises(UnsupportedError, match="The versions that have one are none"):
        parse_server_version("triton", Hardware.ARM).image(hardware=Hardware.ARM)
