"""JSON bodies -> arrays, and arrays -> JSON bodies, with TensorFlow Serving's rules and words.

Most bodies are read by NumPy at once. Whatever it cannot take, or might take otherwise than TensorFlow Serving would,
is read again value by value, which finds the words for what is wrong. Source: util/json_tensor.cc.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import tensorflow as tf

from unfreeze.server.failures import Code, Failure, invalid
from unfreeze.server.loaded import DEFAULT_SIGNATURE, Arrays, LoadedModel, dtype_of

ROW, COLUMN = "instances", "inputs"
ONE_FORM = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
SHOWN = 200  # characters of a value that an error quotes; TensorFlow Serving quotes all of it
MAX_RANK = 32  # of NumPy 1; NumPy 2 has 64
NUMPY_STRING = np.dtype(object)


def read_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a request. NaN and Infinity are allowed, as TensorFlow Serving does."""
    if not body.strip():
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = read_slowly(body)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {shown(document)} Is not object")
    return document


STRING_OR_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*')


def read_slowly(body: bytes) -> Any:
    """What orjson refuses may be NaN; else tell what is wrong with it in rapidjson's words."""

    def real(text: str) -> float:
        number = float(text)
        if math.isinf(number):  # `Infinity`, by its name, does not come here
            same = (found.start() for found in STRING_OR_NUMBER.finditer(body) if found[0] == text.encode())
            raise invalid(f"JSON Parse error: Number too big to be stored in double. at offset: {next(same, 0)}")
        return number

    def whole(text: str) -> int:
        real(text)
        return int(text)

    try:
        return json.loads(body, parse_float=real, parse_int=whole)
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
    """The words of rapidjson for what Python's parser found."""
    if error.msg.startswith("Expecting ',' delimiter"):
        opened = error.doc[: error.pos]
        in_array = opened.rfind("[") > opened.rfind("{")
        return f"Missing a comma or {'] after an array element' if in_array else '} after an object member'}."
    return next((told for start, told in PARSE_ERRORS.items() if error.msg.startswith(start)), "Invalid value.")


def read_predict(document: dict[str, Any], model: LoadedModel, may_hold_booleans: bool) -> tuple[str, str, Arrays]:
    """A predict request -> (signature, ROW or COLUMN, inputs).

    Args:
        may_hold_booleans: whether `true` or `false` occurs in the body; NumPy would read them as numbers.
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
    if ROW in document and COLUMN in document:
        raise wrong_document(document, ONE_FORM)
    if ROW in document:
        rows = document[ROW]
        if not isinstance(rows, list):
            raise wrong_document(document, "Excepting 'instances' to be an list/array")
        if not rows:
            raise wrong_document(document, "No values in 'instances' array")
        return signature, ROW, read_rows(rows, infos, may_hold_booleans)
    if COLUMN in document:
        return signature, COLUMN, read_columns(document[COLUMN], infos, may_hold_booleans)
    raise invalid("Missing 'inputs' or 'instances' key")


def read_signature(document: Mapping[str, Any]) -> str:
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise wrong_document(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return signature


def read_rows(rows: list[Any], infos: Mapping[str, Any], may_hold_booleans: bool) -> Arrays:
    """`instances`: a list of values, or a list of objects with one value for each input."""
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
        return {first: stacked(rows, infos[first], lambda index: str(index), may_hold_booleans)}
    for index, row in enumerate(rows):
        check_names(index, row, infos)
    return {
        name: stacked(
            [row[name] for row in rows],
            infos[name],
            lambda index, name=name: f"{index} key: {name}",
            may_hold_booleans,
        )
        for name in infos
    }


def check_names(index: int, row: Any, infos: Mapping[str, Any]) -> None:
    if not is_named(row):
        raise invalid(f"Expecting object but got list at item {index} of input list")
    for name in row:
        if name not in infos:
            unknown = invalid(f"JSON object: does not have named input: {name}")
            raise invalid(f"Failed to process element: {index} key: {name} of 'instances' list. Error: {unknown}")
    if set(row) != set(infos):
        raise invalid(
            f"Failed to process element: {index} of 'instances' list. JSON object: {shown(row)} keys must be equal to: "
            f"{','.join(sorted(infos))}"
        )


def stacked(rows: list[Any], info: Any, element: Any, may_hold_booleans: bool) -> np.ndarray:
    """One value for each instance -> [N, …]."""
    dtype = dtype_of(info)
    fast = read_at_once(rows, dtype, may_hold_booleans)
    if fast is not None:
        return fast
    shape: tuple[int, ...] | None = None
    values: list[Any] = []
    for index, row in enumerate(rows):
        try:
            found, flat = read_value(row, dtype)
            if shape is None:
                shape = found
            elif np.prod(shape) != np.prod(found):
                raise invalid(f"Expecting tensor size: {int(np.prod(shape))} but got: {int(np.prod(found))}")
            elif shape != found:
                raise invalid(f"Expecting shape {bracketed(shape)} but got: {bracketed(found)}")
        except Failure as failure:
            raise invalid(
                f"Failed to process element: {element(index)} of 'instances' list. Error: {failure}"
            ) from None
        values += flat
    return shaped(values, (len(rows), *(shape or ())), dtype)


def read_columns(value: Any, infos: Mapping[str, Any], may_hold_booleans: bool) -> Arrays:
    """`inputs`: one value, or an object with a value for each input."""
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
        array = read_at_once(value[name], dtype, may_hold_booleans)
        if array is None:
            shape, values = read_value(value[name], dtype)
            array = shaped(values, shape, dtype)
        inputs[name] = array
    return inputs


def read_at_once(value: Any, dtype: tf.DType, may_hold_booleans: bool) -> np.ndarray | None:
    """Numbers by NumPy, where it surely reads them as TensorFlow Serving does; else None."""
    if may_hold_booleans or not (dtype.is_floating or dtype.is_integer) or dtype.name not in NUMBERS:
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
    """Whether every number is one of the dtype, without a loss that TensorFlow Serving refuses."""
    if dtype.is_integer:
        return bool(array.min() >= dtype.min and array.max() <= dtype.max)
    largest = largest_integer(dtype)
    with np.errstate(invalid="ignore"):
        return not bool(np.any((np.abs(array) > largest) & np.isfinite(array)))


def largest_integer(dtype: tf.DType) -> int:
    """The largest that a floating type holds with all below it."""
    return int(2 ** (np.finfo(dtype.as_numpy_dtype).nmant + 1) - 1)


def read_value(value: Any, dtype: tf.DType) -> tuple[tuple[int, ...], list[Any]]:
    """A nested list -> (its shape, its values in order), value by value."""
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
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
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
    """One value, of the type that the signature wants."""
    if dtype == tf.string:
        return string(value)
    if isinstance(value, dict):
        raise wrong_type(value, dtype)
    if dtype == tf.bool:
        if not isinstance(value, bool):
            raise wrong_type(value, dtype)
        return value
    if dtype.name not in NUMBERS:
        raise Failure(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {shown(value)} to type: {dtype.name}")
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
        raise invalid(f"Cannot convert JSON value: {shown(value)} to {name} without loss of precision.")
    return value


def string(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict):
        raise wrong_type(value, tf.string)
    if not is_base64(value):
        raise invalid(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    try:
        # The standard alphabet only; the padding may be left out, as absl::Base64Unescape allows.
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


def shaped(values: list[Any], shape: tuple[int, ...], dtype: tf.DType) -> np.ndarray:
    if dtype != tf.string:
        return np.array(values, dtype=dtype.as_numpy_dtype).reshape(shape)
    array = np.empty(len(values), dtype=NUMPY_STRING)
    array[:] = values
    return array.reshape(shape)


def is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def wrong_document(document: Any, what: str) -> Failure:
    return invalid(f"JSON Value: {shown(document)} {what}")


def wrong_type(value: Any, dtype: tf.DType) -> Failure:
    kind = {type(None): "Null", str: "String", dict: "Object", list: "Array"}.get(type(value), "Number")
    if isinstance(value, bool):
        kind = "True" if value else "False"
    name = {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name)
    return invalid(f"JSON Value: {shown(value)} Type: {kind} is not of expected type: {name}")


def shown(value: Any) -> str:
    """A value as JSON for an error, cut short: it may be a picture."""
    if isinstance(value, list | dict) and len(value) > SHOWN:
        value = value[:SHOWN] if isinstance(value, list) else dict(list(value.items())[:SHOWN])
    try:
        text = json.dumps(clipped(value), ensure_ascii=False)
    except (ValueError, RecursionError):
        text = "(too deeply nested)"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def clipped(value: Any, depth: int = 4) -> Any:
    """At most a few of the values at each depth, so that quoting a picture costs nothing."""
    if isinstance(value, str):
        return value[:SHOWN]
    if depth and isinstance(value, list):
        return [clipped(item, depth - 1) for item in value[:16]]
    if depth and isinstance(value, dict):
        return {key[:SHOWN]: clipped(item, depth - 1) for key, item in list(value.items())[:16]}
    return [] if isinstance(value, list) else {} if isinstance(value, dict) else value


def bracketed(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def write_predict(outputs: Arrays, form: str) -> bytes:
    """The outputs of a model -> the body of the answer, in the form in which the request came."""
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if form == COLUMN:
        values = {name: json_value(name, value) for name, value in sorted(outputs.items())}
        return dumped({"outputs": next(iter(values.values())) if len(values) == 1 else values})
    check_rows(outputs)
    if len(outputs) == 1:
        [(name, value)] = outputs.items()
        return dumped({"predictions": json_value(name, value)})
    count = len(next(iter(outputs.values())))
    names = sorted(outputs)
    return dumped(
        {"predictions": [{name: json_value(name, outputs[name][row]) for name in names} for row in range(count)]}
    )


def check_rows(outputs: Arrays) -> None:
    """Row form puts the outputs of one instance together, so that all must have N as first dimension."""
    count = None
    for name, value in sorted(outputs.items()):
        if value.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if count is not None and value.shape[0] != count:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {value.shape[0]} expecting: {count}")
        count = value.shape[0]


def dumped(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def json_value(name: str, value: Any) -> Any:
    """An array as orjson writes it, or its JSON already written where orjson would not write what is asked for."""
    if isinstance(value, bytes | str):
        return text(value, name.endswith("_bytes"))
    array = np.asarray(value)
    if array.dtype == NUMPY_STRING:
        return text(array, name.endswith("_bytes"))
    if array.dtype.kind not in "biuf":
        if array.dtype.kind in "cMm":
            raise invalid(f"Failed to write JSON value for tensor type: {array.dtype.name}")
        array = array.astype(np.float32)  # bfloat16 and its kin
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return with_bare_names(array)
    return np.ascontiguousarray(array) if array.ndim else array[()]


def with_bare_names(array: np.ndarray) -> orjson.Fragment:
    """Write NaN and Infinity bare, as TensorFlow Serving does; orjson writes null."""
    whole = np.ascontiguousarray(array) if array.ndim else array[()]
    written = dumped(whole).split(b"null")
    flat = array.ravel()
    odd = flat[~np.isfinite(flat)]
    names = [b"NaN" if np.isnan(value) else b"Infinity" if value > 0 else b"-Infinity" for value in odd]
    return orjson.Fragment(b"".join(part for pair in zip(written, [*names, b""], strict=True) for part in pair))


def text(value: Any, as_bytes: bool) -> Any:
    if isinstance(value, np.ndarray) and value.ndim:
        return [text(item, as_bytes) for item in value]
    one = value.item() if isinstance(value, np.ndarray) else value
    raw = one if isinstance(one, bytes) else str(one).encode()
    return {"b64": base64.b64encode(raw).decode()} if as_bytes else raw.decode("utf-8", "replace")
