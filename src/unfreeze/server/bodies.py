"""The way of an HTTP request with a body: through the gate, read up to a limit, worked on in a thread, in time."""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from unfreeze.server.admission import Gate
from unfreeze.server.failures import Code, Failure, invalid

T = TypeVar("T")


class Workers:
    """Threads for requests that have passed the gate: reading JSON and running a model both take their time."""

    def __init__(self, gate: Gate, count: int, max_request_bytes: int, timeout_s: float) -> None:
        self.gate = gate
        self.max_request_bytes = max_request_bytes
        self.timeout_s = timeout_s
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="rest")

    async def answer(self, request: Request, work: Callable[[bytes, float], T]) -> T:
        """What `work` makes of the body and the deadline (of time.monotonic()).

        The gate comes before the body is read: under load, a refusal must cost next to nothing.

        Raises: Failure, of `work` or of its own.
        """
        deadline = time.monotonic() + self.timeout_s
        size = declared_size(request, self.max_request_bytes)
        self.gate.enter(size)
        handed_over = False
        try:
            body = await in_time(read_body(request, self.max_request_bytes), deadline)
            working = asyncio.get_running_loop().run_in_executor(self.threads, in_turn, work, body, deadline)
            # The place is free when the thread is, even if nobody waits for the answer any more.
            working.add_done_callback(lambda done: self._leave(done, size))
            handed_over = True
            return await in_time(asyncio.shield(working), deadline)
        finally:
            if not handed_over:
                self.gate.leave(size)

    def _leave(self, done: "asyncio.Future[Any]", size: int) -> None:
        self.gate.leave(size)
        if not done.cancelled():
            done.exception()  # else asyncio complains of one that nobody waited for


def in_turn(work: Callable[[bytes, float], T], body: bytes, deadline: float) -> T:
    if time.monotonic() > deadline:
        raise Failure(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
    return work(body, deadline)


def declared_size(request: Request, limit: int) -> int:
    """The bytes that the body will be, or the most it can be where its headers do not tell.

    Raises: Failure, as HTTP 413, when that is too much already.
    """
    declared = request.headers.get("content-length", "")
    if not declared.isdecimal() or "content-encoding" in request.headers:
        return limit
    if int(declared) > limit:
        raise too_large(limit)
    return int(declared)


async def in_time(work: Awaitable[Any], deadline: float) -> Any:
    try:
        return await asyncio.wait_for(work, max(0.0, deadline - time.monotonic()))
    except asyncio.TimeoutError:
        raise Failure(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification") from None


async def read_body(request: Request, limit: int) -> bytes:
    """The body, unpacked where it came packed.

    Raises: Failure, as HTTP 413, as soon as it is larger than the limit; as 415 for an encoding that is not known.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise Failure(Code.UNIMPLEMENTED, f"Content-Encoding {encoding} is not supported; use gzip or none", 415)
    unpack = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
    body = bytearray()
    async for chunk in request.stream():
        try:
            body += unpack.decompress(chunk, limit + 1 - len(body)) if unpack else chunk
        except zlib.error as error:
            raise invalid(f"The body is not {encoding}: {error}") from error
        if len(body) > limit:
            raise too_large(limit)
    return bytes(body)


def too_large(limit: int) -> Failure:
    return Failure(Code.RESOURCE_EXHAUSTED, f"The request is larger than the {limit} bytes that this server takes", 413)
