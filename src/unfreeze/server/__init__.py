"""A server for models on this machine, with the REST and gRPC interfaces of TensorFlow Serving.

It serves SavedModels, and the files that `runtimes` runs. It needs the extra `serve`: importing it without raises
MissingExtraError.
"""

from importlib.util import find_spec

from unfreeze.errors import MissingExtraError

# Looked up, not imported: tensorflow_serving imports TensorFlow, and a missing package is reported before that.
_missing = [
    package
    for package in ("starlette", "uvicorn", "h11", "orjson", "grpc", "requests", "tensorflow_serving", "google_crc32c")
    if find_spec(package) is None
]
if _missing:
    raise MissingExtraError(
        f"serve needs {', '.join(_missing)}, which {'is' if len(_missing) == 1 else 'are'} not installed. "
        "Run: pip install 'unfreeze[serve]'"
    )
