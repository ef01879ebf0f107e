"""HTTP connections that end when the head of a request does not: each of them holds a place in the process."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def connection_class(head_timeout_s: float) -> type[H11Protocol]:
    """A protocol for `uvicorn.Config(http=…)` whose connections wait so long for a head.

    The parser is h11, which bounds what it holds of a head; the faster one does not.
    """

    class Connection(H11Protocol):
        """One connection. The time runs from its beginning, or from the first byte of its next request."""

        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._wait()
            else:
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._waiting is None:
                self._waiting = self.loop.call_later(head_timeout_s, self._give_up)

        def _stop_waiting(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(TIMED_OUT)
                self.transport.close()

    return Connection
