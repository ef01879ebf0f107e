"""The C++ SavedModel loader, which model servers use, through TensorFlow's C API, without TensorFlow's Python package.

Source: the headers in the wheel, tensorflow/include/tensorflow/c/{c_api,tf_tensor,tf_status,tf_tstring}.h.
"""

import ctypes
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from unfreeze.errors import SavedModelError, UnsupportedError
from unfreeze.verification.calls import Call, Outputs, Results, run_calls
from unfreeze.verification.feeds import Feed

DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    5: np.dtype(np.int16),
    6: np.dtype(np.int8),
    9: np.dtype(np.int64),
    10: np.dtype(np.bool_),
    17: np.dtype(np.uint16),
    19: np.dtype(np.float16),
    22: np.dtype(np.uint32),
    23: np.dtype(np.uint64),
}
STRING = 7
STRING_BYTES = 24  # sizeof(TF_TString)
PATTERNS = {
    "linux": ("libtensorflow_framework.so*", "libtensorflow_cc.so*"),
    "darwin": ("libtensorflow_framework*.dylib", "libtensorflow_cc*.dylib"),
}

_Pointer = ctypes.c_void_p
_Size = ctypes.c_size_t


class _Output(ctypes.Structure):
    """TF_Output: an output of an operation."""

    _fields_ = (("operation", _Pointer), ("index", ctypes.c_int))


# Function -> the types of its result and of its arguments.
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "TF_NewStatus": (_Pointer, ()),
    "TF_DeleteStatus": (None, (_Pointer,)),
    "TF_GetCode": (ctypes.c_int, (_Pointer,)),
    "TF_Message": (ctypes.c_char_p, (_Pointer,)),
    "TF_NewGraph": (_Pointer, ()),
    "TF_DeleteGraph": (None, (_Pointer,)),
    "TF_NewSessionOptions": (_Pointer, ()),
    "TF_DeleteSessionOptions": (None, (_Pointer,)),
    "TF_LoadSessionFromSavedModel": (
        _Pointer,
        (
            _Pointer,
            _Pointer,
            ctypes.c_char_p,
            ctypes.POINTER(ctypes.c_char_p),
            ctypes.c_int,
            _Pointer,
            _Pointer,
            _Pointer,
        ),
    ),
    "TF_CloseSession": (None, (_Pointer, _Pointer)),
    "TF_DeleteSession": (None, (_Pointer, _Pointer)),
    "TF_GraphOperationByName": (_Pointer, (_Pointer, ctypes.c_char_p)),
    "TF_SessionRun": (
        None,
        (
            _Pointer,
            _Pointer,
            *(ctypes.POINTER(_Output), ctypes.POINTER(_Pointer), ctypes.c_int),
            *(ctypes.POINTER(_Output), ctypes.POINTER(_Pointer), ctypes.c_int),
            *(_Pointer, ctypes.c_int),
            *(_Pointer, _Pointer),
        ),
    ),
    "TF_AllocateTensor": (_Pointer, (ctypes.c_int, ctypes.POINTER(ctypes.c_int64), ctypes.c_int, _Size)),
    "TF_DeleteTensor": (None, (_Pointer,)),
    "TF_TensorType": (ctypes.c_int, (_Pointer,)),
    "TF_NumDims": (ctypes.c_int, (_Pointer,)),
    "TF_Dim": (ctypes.c_int64, (_Pointer, ctypes.c_int)),
    "TF_TensorByteSize": (_Size, (_Pointer,)),
    "TF_TensorData": (_Pointer, (_Pointer,)),
    "TF_StringInit": (None, (_Pointer,)),
    "TF_StringCopy": (None, (_Pointer, ctypes.c_char_p, _Size)),
    "TF_StringGetDataPointer": (_Pointer, (_Pointer,)),
    "TF_StringGetSize": (_Size, (_Pointer,)),
    "TF_StringDealloc": (None, (_Pointer,)),
}


def run_with_cpp_loader(library: ctypes.CDLL, saved_model: str, calls: Sequence[Call]) -> Results:
    """Loads with `TF_LoadSessionFromSavedModel`, as TensorFlow Serving does."""
    start = time.perf_counter()
    with Session(library, saved_model) as session:
        load_s = time.perf_counter() - start
        return run_calls(lambda call, feed: session.run(call.fed_by_tensor(feed), call.outputs), calls, load_s)


def tensorflow_library() -> ctypes.CDLL:
    """Opens the C API of the installed TensorFlow wheel without importing TensorFlow.

    Raises: UnsupportedError if this platform's wheel has no such library.
    """
    patterns = PATTERNS.get(sys.platform)
    if patterns is None:
        raise UnsupportedError(f"not run: TensorFlow's wheel for {sys.platform} has no C API")
    spec = importlib.util.find_spec("tensorflow")
    folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    libraries = []
    for pattern in patterns:
        paths = [path for folder in folders for path in sorted(folder.glob(pattern))]
        if not paths:
            raise UnsupportedError(f"not run: the installed TensorFlow has no {pattern}")
        libraries.append(ctypes.CDLL(os.fspath(paths[0]), mode=ctypes.RTLD_GLOBAL))
    library = libraries[-1]
    for name, (result, arguments) in FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise UnsupportedError(f"not run: the C API of the installed TensorFlow has no {name}") from None
        function.restype, function.argtypes = result, list(arguments)
    return library


class Session:
    """A SavedModel that the C++ runtime has loaded; a context manager that closes it."""

    def __init__(self, library: ctypes.CDLL, saved_model: str) -> None:
        self._library = library
        self._graph = library.TF_NewGraph()
        tags = (ctypes.c_char_p * 1)(b"serve")
        options = library.TF_NewSessionOptions()
        try:
            with self._status() as status:
                self._session = library.TF_LoadSessionFromSavedModel(
                    options, None, os.fsencode(saved_model), tags, 1, self._graph, None, status
                )
        finally:
            library.TF_DeleteSessionOptions(options)

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the session and frees its memory."""
        with self._status() as status:
            self._library.TF_CloseSession(self._session, status)
        with self._status() as status:
            self._library.TF_DeleteSession(self._session, status)
        self._library.TF_DeleteGraph(self._graph)

    def run(self, feeds: Mapping[str, Feed], fetches: Mapping[str, str]) -> Outputs:
        """Returns the tensors named in `fetches`, by its keys, for the values of the tensors in `feeds`.

        Raises: SavedModelError if there is no such tensor, or the graph fails.
        """
        library = self._library
        input_places = (_Output * len(feeds))(*(self._output(tensor) for tensor in feeds))
        output_places = (_Output * len(fetches))(*(self._output(tensor) for tensor in fetches.values()))
        tensors = [
            _strings(library, feed) if isinstance(feed, list) else _numbers(library, feed) for feed in feeds.values()
        ]
        values = (_Pointer * len(tensors))(*tensors)
        results = (_Pointer * len(fetches))()
        try:
            with self._status() as status:
                library.TF_SessionRun(
                    *(self._session, None, input_places, values, len(tensors)),
                    *(output_places, results, len(fetches)),
                    *(None, 0, None, status),
                )
            return {key: _array(library, result) for key, result in zip(fetches, results, strict=True)}
        finally:
            for tensor, feed in zip(tensors, feeds.values(), strict=True):
                if isinstance(feed, list):
                    for address in _string_addresses(library, tensor):
                        library.TF_StringDealloc(address)  # not for outputs, which may share the graph's strings
            for tensor in (*tensors, *filter(None, results)):
                library.TF_DeleteTensor(tensor)

    def _output(self, name: str) -> _Output:
        operation, _, index = name.partition(":")
        pointer = self._library.TF_GraphOperationByName(self._graph, operation.encode())
        if not pointer:
            raise SavedModelError(f"the graph has no operation {operation}")
        return _Output(pointer, int(index or 0))

    @contextmanager
    def _status(self) -> Iterator[int]:
        """Gives a status to a call; raises SavedModelError if the call sets it to an error."""
        status = self._library.TF_NewStatus()
        try:
            yield status
            if self._library.TF_GetCode(status):
                raise SavedModelError(self._library.TF_Message(status).decode(errors="replace"))
        finally:
            self._library.TF_DeleteStatus(status)


def _allocate(library: ctypes.CDLL, dtype: int, shape: Sequence[int], size: int) -> int:
    tensor: int = library.TF_AllocateTensor(dtype, (ctypes.c_int64 * len(shape))(*shape), len(shape), size)
    return tensor


def _numbers(library: ctypes.CDLL, array: np.ndarray) -> int:
    shape, array = array.shape, np.ascontiguousarray(array)  # ascontiguousarray makes a scalar an array of one
    dtype = next(number for number, dtype in DTYPES.items() if dtype == array.dtype)
    tensor = _allocate(library, dtype, shape, array.nbytes)
    ctypes.memmove(library.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
    return tensor


def _strings(library: ctypes.CDLL, strings: Sequence[bytes]) -> int:
    tensor = _allocate(library, STRING, [len(strings)], STRING_BYTES * len(strings))
    for address, string in zip(_string_addresses(library, tensor), strings, strict=True):
        library.TF_StringInit(address)
        library.TF_StringCopy(address, string, len(string))
    return tensor


def _array(library: ctypes.CDLL, tensor: int) -> np.ndarray:
    shape = [library.TF_Dim(tensor, axis) for axis in range(library.TF_NumDims(tensor))]
    number = library.TF_TensorType(tensor)
    if number == STRING:
        strings = [
            ctypes.string_at(library.TF_StringGetDataPointer(address), library.TF_StringGetSize(address))
            for address in _string_addresses(library, tensor)
        ]
        array = np.empty(len(strings), object)
        array[:] = strings
        return array.reshape(shape)
    if number not in DTYPES:
        raise UnsupportedError(f"not supported yet: an output of TensorFlow's data type {number}")
    data = ctypes.string_at(library.TF_TensorData(tensor), library.TF_TensorByteSize(tensor))
    return np.frombuffer(data, DTYPES[number]).reshape(shape)


def _string_addresses(library: ctypes.CDLL, tensor: int) -> range:
    """Returns the address of each string of a tensor."""
    start = library.TF_TensorData(tensor) or 0
    return range(start, start + library.TF_TensorByteSize(tensor), STRING_BYTES)
