"""Admission control: bounds the requests in flight and their bytes, and rejects the rest at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from unfreeze.server.status import StatusCode, StatusError


class AdmissionControl:
    """Counts the requests that are accepted and not yet finished."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0
        self.rejected = 0
        self.lock = threading.Lock()

    def enter(self, size_bytes: int = 0) -> None:
        """Counts a request in; a request that is alone is accepted whatever its size.

        Raises: StatusError RESOURCE_EXHAUSTED if a limit is reached.
        """
        with self.lock:
            too_many = self.requests >= self.max_requests
            if too_many or (self.requests and self.bytes + size_bytes > self.max_bytes):
                self.rejected += 1
                raise StatusError(
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"The server is full ({self.requests} requests, {self.bytes} bytes in flight). Try again later.",
                )
            self.requests += 1
            self.bytes += size_bytes

    def leave(self, size_bytes: int = 0) -> None:
        """Counts a request out, with the size that it entered with."""
        with self.lock:
            self.requests -= 1
            self.bytes -= size_bytes

    @contextmanager
    def admitted(self, size_bytes: int = 0) -> Iterator[None]:
        """Counts a request in for the length of a block. Raises: StatusError RESOURCE_EXHAUSTED."""
        self.enter(size_bytes)
        try:
            yield
        finally:
            self.leave(size_bytes)
