"""The addresses of models on servers. Imports none of the libraries that connect to them, which take long to import."""

from pathlib import Path

ADDRESSES = "http://HOST:8501/v1/models/NAME, grpc://HOST:8500/NAME or sagemaker://ENDPOINT"


def is_address(model: str | Path) -> bool:
    """Returns whether a model is the address of a server rather than a path."""
    return "://" in str(model)
