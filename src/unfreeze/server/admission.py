"""Who is let in: so many requests, and so many bytes of them, at a time. The others hear at once that it is full."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from unfreeze.server.failures import Code, Failure


class Gate:
    """Counts the requests that were accepted and not yet answered."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0
        self.refused = 0
        self.lock = threading.Lock()

    def enter(self, size: int = 0) -> None:
        """Take a place for a request of so many bytes.

        Raises: Failure RESOURCE_EXHAUSTED when there is none; a lone request is let in whatever its size.
        """
        with self.lock:
            too_many = self.requests >= self.max_requests
            if too_many or (self.requests and self.bytes + size > self.max_bytes):
                self.refused += 1
                raise Failure(
                    Code.RESOURCE_EXHAUSTED,
                    f"The server is full: {self.requests} requests of {self.bytes} bytes wait already; try again later",
                )
            self.requests += 1
            self.bytes += size

    def leave(self, size: int = 0) -> None:
        with self.lock:
            self.requests -= 1
            self.bytes -= size

    @contextmanager
    def place(self, size: int = 0) -> Iterator[None]:
        self.enter(size)
        try:
            yield
        finally:
            self.leave(size)
