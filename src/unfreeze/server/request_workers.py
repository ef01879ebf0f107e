"""Processes HTTP requests that have a body: admission, reading up to a limit, work in a thread, a deadline."""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from unfreeze.server.admission import AdmissionControl
from unfreeze.server.status import StatusCode, StatusError, deadline_exceeded, invalid

T = TypeVar("T")


class RequestWorkers:
    """Threads for accepted requests: parsing JSON and running a model would block the event loop."""

    def __init__(self, admission: AdmissionControl, count: int, max_request_bytes: int, timeout_s: float) -> None:
        self.admission = admission
        self.max_request_bytes = max_request_bytes
        self.timeout_s = timeout_s
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="rest")

    async def process(self, request: Request, work: Callable[[bytes, float], T]) -> T:
        """Returns the result of `work`, which receives the body and the deadline (of time.monotonic()).

        A request is admitted before its body is read, so that rejecting one costs next to nothing under load.

        Raises: StatusError of `work`, or if the request is too large, too late or not admitted.
        """
        deadline = time.monotonic() + self.timeout_s
        size_bytes = declared_size(request, self.max_request_bytes)
        self.admission.enter(size_bytes)
        handed_over = False
        try:
            body = await before_deadline(read_body(request, self.max_request_bytes), deadline)
            running = asyncio.get_running_loop().run_in_executor(self.threads, start_in_time, work, body, deadline)
            # The request counts as long as its thread works, even after the client got a timeout.
            running.add_done_callback(lambda future: self._finish(future, size_bytes))
            handed_over = True
            return await before_deadline(asyncio.shield(running), deadline)
        finally:
            if not handed_over:
                self.admission.leave(size_bytes)

    def _finish(self, future: "asyncio.Future[Any]", size_bytes: int) -> None:
        self.admission.leave(size_bytes)
        if not future.cancelled():
            future.exception()  # otherwise asyncio logs an exception that nobody has retrieved


def start_in_time(work: Callable[[bytes, float], T], body: bytes, deadline: float) -> T:
    """Calls `work` unless the deadline passed while the request waited for a thread."""
    if time.monotonic() > deadline:
        raise deadline_exceeded()
    return work(body, deadline)


def declared_size(request: Request, limit: int) -> int:
    """Returns the size of the body in bytes; the limit if the headers do not say it.

    Raises: StatusError, as HTTP 413, if that is above the limit.
    """
    declared = request.headers.get("content-length", "")
    if not declared.isdecimal() or "content-encoding" in request.headers:
        return limit
    if int(declared) > limit:
        raise too_large(limit)
    return int(declared)


async def before_deadline(awaitable: Awaitable[T], deadline: float) -> T:
    """Returns the result of an awaitable. Raises: StatusError DEADLINE_EXCEEDED if the deadline passes first."""
    try:
        return await asyncio.wait_for(awaitable, max(0.0, deadline - time.monotonic()))
    except asyncio.TimeoutError:
        raise deadline_exceeded() from None


async def read_body(request: Request, limit: int) -> bytes:
    """Returns the body, decompressed if it has a Content-Encoding.

    Raises: StatusError, as HTTP 413, as soon as it is larger than the limit; as 415 for an unknown encoding.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise StatusError(
            StatusCode.UNIMPLEMENTED, f"Content-Encoding {encoding} is not supported. Use gzip, or none.", 415
        )
    decompressor = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
    body = bytearray()
    async for chunk in request.stream():
        try:
            body += decompressor.decompress(chunk, limit + 1 - len(body)) if decompressor else chunk
        except zlib.error as error:
            raise invalid(f"The body is not {encoding}: {error}") from error
        if len(body) > limit:
            raise too_large(limit)
    return bytes(body)


def too_large(limit: int) -> StatusError:
    """Returns the error of a request that is too large, as HTTP 413."""
    message = f"The request is larger than the limit of this server (--max-request-bytes: {limit})"
    return StatusError(StatusCode.RESOURCE_EXHAUSTED, message, 413)
