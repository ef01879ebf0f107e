"""What can go wrong with one request, by TensorFlow's codes; REST and gRPC each have their own number for it."""

from enum import Enum


class Code(Enum):
    """TensorFlow's status codes with their HTTP status. Source: model_servers/http_server.cc."""

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
        return self.value[1]


CODES = {code.number: code for code in Code}


class Failure(Exception):  # noqa: N818 (it is an answer)
    """A request that is answered with an error; never a reason for the server to stop."""

    def __init__(self, code: Code, message: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.http_status = http_status or code.http_status  # 413 and 415 have no code of their own

    def __str__(self) -> str:
        """As TensorFlow quotes a status within another: `INVALID_ARGUMENT: what is wrong`."""
        return f"{self.code.name}: {self.message}"


def invalid(message: str) -> Failure:
    return Failure(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> Failure:
    return Failure(Code.NOT_FOUND, message)
