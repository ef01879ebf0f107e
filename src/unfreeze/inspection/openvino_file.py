"""Reads the .xml of OpenVINO's intermediate representation without OpenVINO; the weights are in the .bin beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from unfreeze.formatting import megabytes
from unfreeze.inspection.description import Constants, Description
from unfreeze.inspection.inspection import field
from unfreeze.verification.meta_graph import TensorInfo

DTYPES = {
    "u8": "uint8", "i8": "int8", "u16": "uint16", "i16": "int16", "u32": "uint32", "i32": "int32", "u64": "uint64",
    "i64": "int64", "f16": "float16", "f32": "float32", "f64": "float64", "bf16": "bfloat16", "boolean": "bool",
    "fp16": "float16", "fp32": "float32", "fp64": "float64", "bool": "bool", "string": "string",
}  # fmt: skip


def read_openvino(path: Path) -> Description:
    """Returns the description of a model in OpenVINO's intermediate representation.

    Raises: ValueError: the file is cut short, or is not such a model.
    """
    net = read_net(path)
    layers = net.find("layers")
    if net.tag != "net" or layers is None:
        raise ValueError(f"it is XML of another kind (found <{net.tag}>; expected <net> with <layers>)")
    constants = [data for layer in net.iter("layer") if layer.get("type") == "Const" for data in layer.iter("data")]
    weights = path.with_suffix(".bin")
    needed = max((_number(data, "offset") + _number(data, "size") for data in constants), default=0)
    ports = _output_ports(layers)
    sources = {
        edge.get("to-layer"): ports.get((edge.get("from-layer"), edge.get("from-port")))
        for edge in net.iterfind("edges/edge")
    }
    inputs = [ports.get((layer.get("id"), "0")) for layer in layers if layer.get("type") == "Parameter"]
    outputs = {
        layer.get("output_names", "").partition(",")[0] or tensor.name: tensor
        for layer in layers
        if layer.get("type") == "Result" and (tensor := sources.get(layer.get("id")))
    }
    version = net.find("rt_info/Runtime_version")
    producer = "" if version is None else f"OpenVINO {version.get('value', '')}"
    operations = Counter(layer.get("type", "?") for layer in net.iter("layer"))
    return Description(
        path=path,
        files=[path, *([weights] if weights.is_file() else [])],
        inputs={tensor.name: tensor for tensor in inputs if tensor},
        outputs=outputs,
        operations=Counter({name: n for name, n in operations.items() if name not in ("Const", "Parameter", "Result")}),
        constants=Constants(len(constants), sum(_number(data, "size") for data in constants)),
        properties=[
            field("ir_version", _number(net, "version"), str(_number(net, "version"))),
            field("producer", producer or None, producer or "unknown"),
        ],
        problems=_weights_problems(weights, needed),
    )


def read_net(path: Path) -> ElementTree.Element:
    """Returns the root of an .xml. Raises: ValueError: it is cut short, or defines entities."""
    content = path.read_bytes()
    if b"<!ENTITY" in content:
        raise ValueError("it defines XML entities, which OpenVINO never writes")
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None


def _output_ports(layers: ElementTree.Element) -> Mapping[tuple[str | None, str | None], TensorInfo]:
    """Returns the tensor of each output port, by the ids of its layer and of the port."""
    ports = {}
    for layer in layers:
        for port in layer.iterfind("output/port"):
            precision = port.get("precision", "?").lower()
            sizes = [int(size.text or "-1") for size in port.iterfind("dim")]
            # Without names, OpenVINO knows the tensor by its layer.
            name = port.get("names", layer.get("name", "?")).partition(",")[0]
            shape = tuple(None if size < 0 else size for size in sizes)
            ports[layer.get("id"), port.get("id")] = TensorInfo(name, DTYPES.get(precision, precision), shape)
    return ports


def _weights_problems(weights: Path, needed: int) -> list[str]:
    if not needed:
        return []
    if not weights.is_file():
        return [f"{weights.name}, which has the weights, is missing beside it"]
    size = weights.stat().st_size
    if size < needed:
        return [f"{weights.name} is cut short: {size} of {needed} bytes ({megabytes(needed)})"]
    return []


def _number(element: ElementTree.Element, attribute: str) -> int:
    """Returns a whole number. Raises: ValueError: it is something else."""
    return int(element.get(attribute, "0"))
