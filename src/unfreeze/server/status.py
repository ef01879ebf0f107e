"""Errors of single requests and versions, with TensorFlow's status codes and their HTTP equivalents."""

from enum import Enum


class StatusCode(Enum):
    """TensorFlow's status codes, each with its number and its HTTP status. Source: model_servers/http_server.cc."""

    OK = (0, 200)
    CANCELLED = (1, 499)
    UNKNOWN = (2, 500)
    INVALID_ARGUMENT = (3, 400)
    DEADLINE_EXCEEDED = (4, 504)
    NOT_FOUND = (5, 404)
    ALREADY_EXISTS = (6, 409)
    PERMISSION_DENIED = (7, 403)
    RESOURCE_EXHAUSTED = (8, 429)
    FAILED_PRECONDITION = (9, 400)
    ABORTED = (10, 409)
    OUT_OF_RANGE = (11, 400)
    UNIMPLEMENTED = (12, 501)
    INTERNAL = (13, 500)
    UNAVAILABLE = (14, 503)
    DATA_LOSS = (15, 500)
    UNAUTHENTICATED = (16, 401)

    @property
    def number(self) -> int:
        """The number that gRPC and TensorFlow's protos use."""
        return self.value[0]

    @property
    def http_status(self) -> int:
        """The HTTP status of responses with this code."""
        return self.value[1]


CODE_BY_NUMBER = {code.number: code for code in StatusCode}


class StatusError(Exception):
    """An error of one request, or of one version that fails to load. The server goes on after it."""

    def __init__(self, code: StatusCode, message: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.http_status = http_status or code.http_status  # 413 and 415 have no status code of their own

    def __str__(self) -> str:
        """Returns the text with which TensorFlow quotes a status in another one: `INVALID_ARGUMENT: message`."""
        return f"{self.code.name}: {self.message}"


def invalid(message: str) -> StatusError:
    """Returns an INVALID_ARGUMENT error."""
    return StatusError(StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> StatusError:
    """Returns a NOT_FOUND error."""
    return StatusError(StatusCode.NOT_FOUND, message)


def deadline_exceeded() -> StatusError:
    """Returns the error of a request whose deadline has passed, with TensorFlow Serving's text."""
    return StatusError(StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification")
