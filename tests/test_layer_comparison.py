"""The layers of model files: folded, in one layout, and paired by shape and value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from unfreeze.comparison import onnx_operations
from unfreeze.comparison.layers import compare_layers
from unfreeze.comparison.operation_graph import (
    Layer,
    Op,
    Operation,
    OperationGraph,
    from_goihw,
    from_hwc,
    from_hwcm,
    from_hwio,
    from_matrix,
    from_ohwi,
    from_transposed_matrix,
)

RANDOM = np.random.default_rng(7)


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def graph(operations: list[Operation], **constants: np.ndarray) -> OperationGraph:
    return OperationGraph(operations, {name: lambda value=value: value for name, value in constants.items()})


def conv(output: str = "y") -> Operation:
    return Operation(Op.LAYER, ["x", "kernel"], [output], to_kernel=from_hwio)


def test_normalization_is_folded_into_kernel_and_bias() -> None:
    kernel, gamma, beta, mean, variance = numbers(3, 3, 2, 4), numbers(4), numbers(4), numbers(4), numbers(4) ** 2
    norm = Operation(Op.NORM, ["y", "gamma", "beta", "mean", "variance"], ["z"], epsilon=1e-3)
    constants = {"kernel": kernel, "gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
    [layer] = graph([conv(), norm], **constants).layers()
    scale = gamma / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(layer.kernel, (kernel * scale).transpose(3, 2, 0, 1), rtol=1e-5)
    np.testing.assert_allclose(layer.bias, beta - mean * scale, rtol=1e-5)


def test_normalization_of_arithmetic_is_folded_too() -> None:
    operations = [
        conv(),
        Operation(Op.RSQRT, ["variance"], ["inverse"]),
        Operation(Op.MULTIPLY, ["inverse", "gamma"], ["scale"]),
        Operation(Op.MULTIPLY, ["y", "scale"], ["scaled"]),
        Operation(Op.ADD, ["scaled", "beta"], ["z"]),
    ]
    constants = {"kernel": numbers(1, 1, 2, 3), "variance": numbers(3) ** 2, "gamma": numbers(3), "beta": numbers(3)}
    [layer] = graph(operations, **constants).layers()
    scale = constants["gamma"] / np.sqrt(constants["variance"])
    np.testing.assert_allclose(layer.kernel[:, :, 0, 0], (constants["kernel"][0, 0] * scale).T, rtol=1e-5)
    np.testing.assert_array_equal(layer.bias, constants["beta"])


def test_addition_to_an_output_that_is_used_twice_is_not_part_of_the_layer() -> None:
    operations = [
        conv(), Operation(Op.ADD, ["y", "three"], ["shifted"]), Operation(Op.MULTIPLY, ["y", "shifted"], ["z"]),
    ]  # fmt: skip
    [layer] = graph(operations, kernel=numbers(1, 1, 2, 3), three=np.full(3, 3, np.float32)).layers()
    assert not layer.bias.any()


def test_every_layout_of_a_kernel_becomes_the_same() -> None:
    kernel = numbers(4, 2, 3, 5)  # [out, in, height, width]
    np.testing.assert_array_equal(from_hwio(kernel.transpose(2, 3, 1, 0)), kernel)
    np.testing.assert_array_equal(from_ohwi(kernel.transpose(0, 2, 3, 1)), kernel)
    np.testing.assert_array_equal(from_goihw(kernel.reshape(2, 2, 2, 3, 5)), kernel)
    depthwise = numbers(6, 1, 3, 5)
    np.testing.assert_array_equal(from_hwc(depthwise.transpose(1, 2, 3, 0)), depthwise)
    np.testing.assert_array_equal(from_hwcm(depthwise.transpose(2, 3, 1, 0).reshape(3, 5, 2, 3)), depthwise)
    matrix = numbers(4, 2)
    np.testing.assert_array_equal(from_matrix(matrix.T), from_transposed_matrix(matrix))


def test_layers_are_paired_by_value_whatever_their_names_and_order() -> None:
    kernels = [numbers(4, 3, 2, 2) for _ in range(3)]
    zeros = np.zeros(4, np.float32)
    old = [Layer(f"a{index}", kernel, zeros) for index, kernel in enumerate(kernels)]
    new = [
        Layer("b2", kernels[2] * np.float32(1.01), zeros),
        Layer("b0", kernels[0], zeros),
        Layer("other", numbers(4, 3, 2, 2) * 9, zeros),
        Layer("larger", numbers(4, 3, 3, 3), zeros),
    ]
    difference = compare_layers(old, new)
    assert (difference.count, difference.equal) == (2, 1)
    [moved] = difference.moved
    assert moved.name == "a2"
    assert moved.relative == pytest.approx(0.01, rel=1e-4)
    assert difference.only_old == ("a1 [4, 3, 2, 2]",)
    assert difference.only_new == ("other [4, 3, 2, 2]", "larger [4, 3, 3, 3]")


def test_a_bias_that_moved_is_reported_with_its_layer() -> None:
    kernel, bias = numbers(4, 3, 2, 2), numbers(4)
    difference = compare_layers([Layer("conv", kernel, bias)], [Layer("other", kernel, bias * np.float32(2))])
    assert [change.name for change in difference.moved] == ["bias of conv"]
    assert difference.equal == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_kernels_of_onnx_are_read_with_casts_and_quantization(dtype: type, tmp_path: Path) -> None:
    kernel, quantized, scales = (
        numbers(2, 3, 1, 1).astype(dtype),
        np.array([[[[3]]], [[[-5]]]], np.int8),
        numbers(2) ** 2,
    )
    nodes = [
        helper.make_node("Cast", ["kernel"], ["cast"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "cast"], ["y"]),
        helper.make_node("DequantizeLinear", ["quantized", "scales", "zero"], ["dequantized"], axis=0),
        helper.make_node("Conv", ["y", "dequantized", "bias"], ["z"]),
    ]
    values = {
        "kernel": kernel, "quantized": quantized, "scales": scales, "zero": np.zeros(2, np.int8), "bias": numbers(2),
    }  # fmt: skip
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xz"]
    initializers = [numpy_helper.from_array(value, name) for name, value in values.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", tensors[:1], tensors[1:], initializers))
    onnx.save(model, str(tmp_path / "model.onnx"))
    first, second = onnx_operations.read_operations(tmp_path / "model.onnx").layers()
    assert (first.name, second.name) == ("kernel", "dequantized")
    np.testing.assert_array_equal(first.kernel, kernel.astype(np.float32))
    np.testing.assert_allclose(second.kernel.ravel(), [3 * scales[0], -5 * scales[1]])
    np.testing.assert_array_equal(second.bias, values["bias"])


@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE])
def test_kernel_of_onnx_is_read_from_the_field_of_its_type(kind: int, tmp_path: Path) -> None:
    kernel = helper.make_tensor("kernel", kind, [2, 1, 1, 1], [0.5, -1.25])
    assert not kernel.raw_data
    tensors = [helper.make_tensor_value_info(name, kind, None) for name in "xy"]
    nodes = [helper.make_node("Conv", ["x", "kernel"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", tensors[:1], tensors[1:], [kernel]))
    onnx.save(model, str(tmp_path / "model.onnx"))
    [layer] = onnx_operations.read_operations(tmp_path / "model.onnx").layers()
    np.testing.assert_array_equal(layer.kernel.ravel(), [0.5, -1.25])
