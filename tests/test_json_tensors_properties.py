"""Properties of the JSON of tensors: what the server writes, it reads back, in both forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from tensorflow.core.protobuf import meta_graph_pb2

from unfreeze.server.json_tensors import Form, read_columns, read_document, read_rows, write_predict

NUMBERS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
SHAPES = arrays_of.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
LARGEST_FLOAT = 3.4e38  # like rapidjson, the server rejects the largest float32, which is written as 3.4028235e+38


def numeric_arrays(dtypes: Sequence[str]) -> st.SearchStrategy[np.ndarray]:
    arrays = st.sampled_from(dtypes).flatmap(lambda dtype: arrays_of.arrays(dtype, SHAPES))
    return arrays.map(lambda array: array.clip(-LARGEST_FLOAT, LARGEST_FLOAT) if array.dtype == "float32" else array)


NUMERIC = numeric_arrays(NUMBERS)
STRINGS = SHAPES.flatmap(lambda shape: arrays_of.arrays(object, shape, elements=st.binary(max_size=8)))


def info(array: np.ndarray) -> meta_graph_pb2.TensorInfo:
    dtype = tf.string if array.dtype == object else tf.as_dtype(array.dtype)
    return meta_graph_pb2.TensorInfo(dtype=dtype.as_datatype_enum)


def assert_same(read: np.ndarray, written: np.ndarray) -> None:
    assert read.shape == written.shape
    np.testing.assert_array_equal(read, written)  # NaN equals NaN


@settings(max_examples=150, deadline=None)
@given(array=st.one_of(NUMERIC, STRINGS))
def test_columns_round_trip(array: np.ndarray) -> None:
    name = "image_bytes" if array.dtype == object else "numbers"
    document = read_document(write_predict({name: array}, Form.COLUMN))
    assert_same(read_columns(document["outputs"], {name: info(array)}, may_have_booleans=True)[name], array)


@settings(max_examples=150, deadline=None)
@given(array=st.one_of(NUMERIC, STRINGS))
def test_rows_round_trip(array: np.ndarray) -> None:
    """Each row is an object with two inputs, one of them of fixed content."""
    name = "image_bytes" if array.dtype == object else "numbers"
    counts = np.arange(len(array), dtype=np.int32)
    document = read_document(write_predict({name: array, "count": counts}, Form.ROW))
    read = read_rows(document["predictions"], {name: info(array), "count": info(counts)}, may_have_booleans=True)
    assert_same(read[name], array)
    assert_same(read["count"], counts)


@pytest.mark.parametrize("may_have_booleans", [True, False])
@settings(max_examples=100, deadline=None)
@given(array=numeric_arrays(NUMBERS[:-1]))
def test_numpy_and_the_slow_reader_agree(array: np.ndarray, may_have_booleans: bool) -> None:
    """Without booleans NumPy reads a tensor at once; with them it is read value by value."""
    document = read_document(write_predict({"numbers": array}, Form.COLUMN))
    read = read_columns(document["outputs"], {"numbers": info(array)}, may_have_booleans)
    assert_same(read["numbers"], array)
