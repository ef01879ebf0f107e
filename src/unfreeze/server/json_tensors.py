"""JSON bodies of predict requests -> arrays, and arrays -> JSON bodies, by TensorFlow Serving's rules.

Most tensors are converted by NumPy at once. What NumPy rejects, or might read differently from TensorFlow Serving, is
read again value by value, which also finds TensorFlow Serving's text for what is wrong. Source: util/json_tensor.cc.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import numpy as np
import orjson
import tensorflow as tf

from unfreeze.server.loaded import DEFAULT_SIGNATURE, Arrays, LoadedModel, dtype_of
from unfreeze.server.status import StatusCode, StatusError, invalid


class Form(str, Enum):
    """The form of a predict request, named by its key in the body."""

    ROW = "instances"  # a list with an entry for each instance; the response has `predictions`
    COLUMN = "inputs"  # whole tensors; the response has `outputs`


BOTH_FORMS = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
MAX_QUOTED_CHARS = 200  # characters of a value that an error quotes; TensorFlow Serving quotes all of them
MAX_RANK = 32  # the limit of NumPy 1; that of NumPy 2 is 64
NUMPY_STRING = np.dtype(object)


def read_document(body: bytes) -> dict[str, Any]:
    """Returns the JSON object of a body; NaN and Infinity are allowed, as there. Raises: StatusError."""
    if not body.strip():
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = read_with_python(body)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {quote(document)} Is not object")
    return document


STRING_OR_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*')


def read_with_python(body: bytes) -> Any:
    """Returns a JSON document that orjson rejected, which may contain NaN.

    Raises: StatusError with rapidjson's text for what is wrong with it.
    """

    def parse_float(text: str) -> float:
        number = float(text)
        if math.isinf(number):  # the literal `Infinity` is not parsed by this function
            offsets = (match.start() for match in STRING_OR_NUMBER.finditer(body) if match[0] == text.encode())
            raise invalid(f"JSON Parse error: Number too big to be stored in double. at offset: {next(offsets, 0)}")
        return number

    def parse_int(text: str) -> int:
        parse_float(text)
        return int(text)

    try:
        return json.loads(body, parse_float=parse_float, parse_int=parse_int)
    except json.JSONDecodeError as error:
        offset = len(error.doc[: error.pos].encode())
        raise invalid(f"JSON Parse error: {parse_error(error)} at offset: {offset}") from error
    except UnicodeDecodeError as error:
        raise invalid(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from error
    except RecursionError as error:
        raise invalid("JSON Parse error: Terminate parsing due to Handler error. at offset: 0") from error


PARSE_ERRORS = {
    "Expecting property name": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string": "Missing a closing quotation mark in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Invalid control character": "Invalid encoding in string.",
    "Extra data": "The document root must not be followed by other values.",
}


def parse_error(error: json.JSONDecodeError) -> str:
    """Returns rapidjson's text for an error of Python's parser."""
    if error.msg.startswith("Expecting ',' delimiter"):
        opened = error.doc[: error.pos]
        in_array = opened.rfind("[") > opened.rfind("{")
        return f"Missing a comma or {'] after an array element' if in_array else '} after an object member'}."
    return next((text for start, text in PARSE_ERRORS.items() if error.msg.startswith(start)), "Invalid value.")


def read_predict(document: dict[str, Any], model: LoadedModel, may_have_booleans: bool) -> tuple[str, Form, Arrays]:
    """Returns the signature, the form and the inputs of a predict request. Raises: StatusError.

    Args:
        document: the JSON object of the body.
        model: the model whose signature decides the dtypes.
        may_have_booleans: whether `true` or `false` occurs in the body; NumPy would read them as numbers.
    """
    signature = read_signature(document)
    try:
        infos = model.signature_def(signature).inputs
    except KeyError:
        raise invalid(
            f'Serving signature name: "{signature or DEFAULT_SIGNATURE}" not found in signature def'
        ) from None
    if not infos:
        raise invalid(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    if Form.ROW.value in document and Form.COLUMN.value in document:
        raise wrong_document(document, BOTH_FORMS)
    if Form.ROW.value in document:
        rows = document[Form.ROW.value]
        if not isinstance(rows, list):
            raise wrong_document(document, "Excepting 'instances' to be an list/array")
        if not rows:
            raise wrong_document(document, "No values in 'instances' array")
        return signature, Form.ROW, read_rows(rows, infos, may_have_booleans)
    if Form.COLUMN.value in document:
        return signature, Form.COLUMN, read_columns(document[Form.COLUMN.value], infos, may_have_booleans)
    raise invalid("Missing 'inputs' or 'instances' key")


def read_signature(document: Mapping[str, Any]) -> str:
    """Returns the signature name in a body, empty if it names none. Raises: StatusError."""
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise wrong_document(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return signature


def read_rows(rows: list[Any], infos: Mapping[str, Any], may_have_booleans: bool) -> Arrays:
    """Returns the inputs of `instances`: a list of values, or of objects with one value for each input."""
    if not isinstance(rows[0], dict) and len(infos) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    named = is_named(rows[0])
    [first, *_] = sorted(infos)
    if not named:
        for index, row in enumerate(rows):
            if is_named(row):
                raise invalid(f"Expecting value/list but got object at item {index} of input list")
        return {first: stack_rows(rows, infos[first], may_have_booleans)}
    for index, row in enumerate(rows):
        check_names(index, row, infos)
    return {
        name: stack_rows([row[name] for row in rows], infos[name], may_have_booleans, f" key: {name}") for name in infos
    }


def check_names(index: int, row: Any, infos: Mapping[str, Any]) -> None:
    """Raises StatusError unless an instance is an object with exactly the inputs of the signature."""
    if not is_named(row):
        raise invalid(f"Expecting object but got list at item {index} of input list")
    for name in row:
        if name not in infos:
            unknown = invalid(f"JSON object: does not have named input: {name}")
            raise invalid(f"Failed to process element: {index} key: {name} of 'instances' list. Error: {unknown}")
    if set(row) != set(infos):
        raise invalid(
            f"Failed to process element: {index} of 'instances' list. JSON object: {quote(row)} keys must be equal to: "
            f"{','.join(sorted(infos))}"
        )


def stack_rows(rows: list[Any], info: Any, may_have_booleans: bool, key: str = "") -> np.ndarray:
    """Stacks one value for each instance -> [N, …]; errors name an instance by its index and `key`."""
    dtype = dtype_of(info)
    array = read_with_numpy(rows, dtype, may_have_booleans)
    if array is not None:
        return array
    shape: tuple[int, ...] | None = None
    values: list[Any] = []
    for index, row in enumerate(rows):
        try:
            row_shape, row_values = read_value(row, dtype)
            if shape is None:
                shape = row_shape
            elif np.prod(shape) != np.prod(row_shape):
                raise invalid(f"Expecting tensor size: {int(np.prod(shape))} but got: {int(np.prod(row_shape))}")
            elif shape != row_shape:
                raise invalid(f"Expecting shape {brackets(shape)} but got: {brackets(row_shape)}")
        except StatusError as error:
            raise invalid(f"Failed to process element: {index}{key} of 'instances' list. Error: {error}") from None
        values += row_values
    return to_array(values, (len(rows), *(shape or ())), dtype)


def read_columns(value: Any, infos: Mapping[str, Any], may_have_booleans: bool) -> Arrays:
    """Returns the inputs of `inputs`: one value, or an object with a value for each input."""
    if not is_named(value):
        if len(infos) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = {next(iter(infos)): value}
    inputs = {}
    for name in sorted(infos):
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        dtype = dtype_of(infos[name])
        array = read_with_numpy(value[name], dtype, may_have_booleans)
        if array is None:
            shape, values = read_value(value[name], dtype)
            array = to_array(values, shape, dtype)
        inputs[name] = array
    return inputs


def read_with_numpy(value: Any, dtype: tf.DType, may_have_booleans: bool) -> np.ndarray | None:
    """Returns numbers as NumPy reads them if TensorFlow Serving certainly reads them in the same way; else None."""
    if may_have_booleans or not (dtype.is_floating or dtype.is_integer) or dtype.name not in NUMBERS:
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError, RecursionError):
        return None
    if array.dtype.kind not in ("iuf" if dtype.is_floating or not array.size else "iu"):
        return None
    if array.size and not fits(array, dtype):
        return None
    return array.astype(dtype.as_numpy_dtype)


NUMBERS = {"float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"}


def fits(array: np.ndarray, dtype: tf.DType) -> bool:
    """Returns whether every number fits the dtype without a loss that TensorFlow Serving rejects."""
    if dtype.is_integer:
        return bool(array.min() >= dtype.min and array.max() <= dtype.max)
    largest = largest_integer(dtype)
    with np.errstate(invalid="ignore"):
        return not bool(np.any((np.abs(array) > largest) & np.isfinite(array)))


def largest_integer(dtype: tf.DType) -> int:
    """Returns the largest integer up to which a floating-point type represents every integer."""
    return int(2 ** (np.finfo(dtype.as_numpy_dtype).nmant + 1) - 1)


def read_value(value: Any, dtype: tf.DType) -> tuple[tuple[int, ...], list[Any]]:
    """Returns the shape of a nested list and its values in order. Raises: StatusError."""
    shape: tuple[int, ...] = ()
    inner = value
    while isinstance(inner, list):
        shape = (*shape, len(inner))
        inner = inner[0] if inner else None
    if len(shape) > MAX_RANK:
        raise invalid(f"Encountered list at unexpected level: {len(shape)} expected < {MAX_RANK}")
    try:
        return shape, list(leaves(value, 0, shape, dtype))
    except RecursionError:
        raise invalid("Encountered list at unexpected level: 64 expected < 64") from None


def leaves(value: Any, level: int, shape: tuple[int, ...], dtype: tf.DType) -> Iterator[Any]:
    """Yields the values of a nested list in order. Raises: StatusError if the list does not have the shape."""
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {quote(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        yield leaf(value, dtype)
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        yield from leaves(item, level + 1, shape, dtype)


def leaf(value: Any, dtype: tf.DType) -> Any:
    """Returns a value of a nested list, of the dtype of the signature. Raises: StatusError."""
    if dtype == tf.string:
        return string_bytes(value)
    if isinstance(value, dict):
        raise wrong_type(value, dtype)
    if dtype == tf.bool:
        if not isinstance(value, bool):
            raise wrong_type(value, dtype)
        return value
    if dtype.name not in NUMBERS:
        raise StatusError(StatusCode.UNIMPLEMENTED, f"Conversion of JSON Value: {quote(value)} to type: {dtype.name}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(value, dtype)
    if dtype.is_integer:
        if not isinstance(value, int) or not dtype.min <= value <= dtype.max:
            raise wrong_type(value, dtype)
        return value
    if isinstance(value, int):
        lossy = abs(value) > largest_integer(dtype)
    else:
        lossy = bool(np.isfinite(value) and abs(value) > float(dtype.max))
    if lossy:
        name = {"float32": "float", "float64": "double"}[dtype.name]
        raise invalid(f"Cannot convert JSON value: {quote(value)} to {name} without loss of precision.")
    return value


def string_bytes(value: Any) -> bytes:
    """Returns the bytes of a string or of a {"b64": …} object. Raises: StatusError."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict):
        raise wrong_type(value, tf.string)
    if not is_base64(value):
        raise invalid(f"JSON Value: {quote(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    try:
        # The standard alphabet only; the padding is optional, as in absl::Base64Unescape.
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


def to_array(values: list[Any], shape: tuple[int, ...], dtype: tf.DType) -> np.ndarray:
    """Returns values as an array; strings as objects."""
    if dtype != tf.string:
        return np.array(values, dtype=dtype.as_numpy_dtype).reshape(shape)
    array = np.empty(len(values), dtype=NUMPY_STRING)
    array[:] = values
    return array.reshape(shape)


def is_named(value: Any) -> bool:
    """Returns whether a value is an object of named inputs, rather than a {"b64": …} string."""
    return isinstance(value, dict) and not is_base64(value)


def is_base64(value: Any) -> bool:
    """Returns whether a value is a {"b64": …} string."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def wrong_document(document: Any, problem: str) -> StatusError:
    """Returns the error of a body with a problem."""
    return invalid(f"JSON Value: {quote(document)} {problem}")


def wrong_type(value: Any, dtype: tf.DType) -> StatusError:
    """Returns the error of a value of another type than the signature's."""
    kind = {type(None): "Null", str: "String", dict: "Object", list: "Array"}.get(type(value), "Number")
    if isinstance(value, bool):
        kind = "True" if value else "False"
    name = {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name)
    hint = ". Send numbers: only inputs of type string take base64 data." if is_base64(value) else ""
    return invalid(f"JSON Value: {quote(value)} Type: {kind} is not of expected type: {name}{hint}")


def quote(value: Any) -> str:
    """Returns a value as JSON for an error, shortened: it may be an image."""
    if isinstance(value, list | dict) and len(value) > MAX_QUOTED_CHARS:
        value = value[:MAX_QUOTED_CHARS] if isinstance(value, list) else dict(list(value.items())[:MAX_QUOTED_CHARS])
    try:
        text = json.dumps(shorten(value), ensure_ascii=False)
    except (ValueError, RecursionError):
        text = "(too deeply nested)"
    return text if len(text) <= MAX_QUOTED_CHARS else f"{text[:MAX_QUOTED_CHARS]}…"


def shorten(value: Any, depth: int = 4) -> Any:
    """Returns a value with only a few entries at each depth, so that quoting an image is cheap."""
    if isinstance(value, str):
        return value[:MAX_QUOTED_CHARS]
    if depth and isinstance(value, list):
        return [shorten(item, depth - 1) for item in value[:16]]
    if depth and isinstance(value, dict):
        return {key[:MAX_QUOTED_CHARS]: shorten(item, depth - 1) for key, item in list(value.items())[:16]}
    return [] if isinstance(value, list) else {} if isinstance(value, dict) else value


def brackets(shape: tuple[int, ...]) -> str:
    """Returns a shape as TensorFlow Serving writes it: `[2,3]`."""
    return f"[{','.join(map(str, shape))}]"


def write_predict(outputs: Arrays, form: Form) -> bytes:
    """Returns the body of a predict response, in the form of the request. Raises: StatusError."""
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if form is Form.COLUMN:
        values = {name: json_value(name, value) for name, value in sorted(outputs.items())}
        return dumps({"outputs": next(iter(values.values())) if len(values) == 1 else values})
    check_rows(outputs)
    if len(outputs) == 1:
        [(name, value)] = outputs.items()
        return dumps({"predictions": json_value(name, value)})
    count = len(next(iter(outputs.values())))
    names = sorted(outputs)
    return dumps(
        {"predictions": [{name: json_value(name, outputs[name][row]) for name in names} for row in range(count)]}
    )


def check_rows(outputs: Arrays) -> None:
    """Raises StatusError if the first dimension of an output is not N: row form lists the outputs of each instance."""
    count = None
    for name, value in sorted(outputs.items()):
        if value.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if count is not None and value.shape[0] != count:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {value.shape[0]} expecting: {count}")
        count = value.shape[0]


def dumps(document: Any) -> bytes:
    """Returns a document as JSON; arrays become lists."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def json_value(name: str, value: Any) -> Any:
    """Returns an array for orjson, or finished JSON where orjson would write something else than TensorFlow Serving."""
    if isinstance(value, bytes | str):
        return text_value(value, name.endswith("_bytes"))
    array = np.asarray(value)
    if array.dtype == NUMPY_STRING:
        return text_value(array, name.endswith("_bytes"))
    if array.dtype.kind not in "biuf":
        if array.dtype.kind in "cMm":
            raise invalid(f"Failed to write JSON value for tensor type: {array.dtype.name}")
        array = array.astype(np.float32)  # bfloat16, float8 …
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return with_bare_nan(array)
    return np.ascontiguousarray(array) if array.ndim else array[()]


def with_bare_nan(array: np.ndarray) -> orjson.Fragment:
    """Returns JSON with bare NaN and Infinity, as TensorFlow Serving writes them; orjson writes null."""
    contiguous = np.ascontiguousarray(array) if array.ndim else array[()]
    written = dumps(contiguous).split(b"null")
    flat = array.ravel()
    not_finite = flat[~np.isfinite(flat)]
    names = [b"NaN" if np.isnan(value) else b"Infinity" if value > 0 else b"-Infinity" for value in not_finite]
    return orjson.Fragment(b"".join(part for pair in zip(written, [*names, b""], strict=True) for part in pair))


def text_value(value: Any, as_bytes: bool) -> Any:
    """Returns strings as text, or as {"b64": …} objects if the name of the output ends in `_bytes`."""
    if isinstance(value, np.ndarray) and value.ndim:
        return [text_value(item, as_bytes) for item in value]
    item = value.item() if isinstance(value, np.ndarray) else value
    raw = item if isinstance(item, bytes) else str(item).encode()
    return {"b64": base64.b64encode(raw).decode()} if as_bytes else raw.decode("utf-8", "replace")
