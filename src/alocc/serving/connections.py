"""Connections that do not wait for a request for ever, nor keep one without end: uvicorn itself sets no limits here."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
"""In which the head of a request has to be there, from the connection or from its first byte on."""
HEAD_BYTES = 64 << 10
CONNECTIONS = 512
"""At once; more are closed at once: fewer than the files that a process may have open."""


class Connection(HttpToolsProtocol):
    """A connection whose requests begin in time, with a head of bounded size; bodies are bounded in ``security``."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        self._head_bytes: int | None = None  # none: no head is under way
        self._deadline: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.close()
        else:
            self._start_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; refuse a head that does not end."""
        before = self._head_bytes
        super().data_received(data)
        if before is not None and self._head_bytes is not None:  # all of it was head
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, "the head of this request is too long")
        elif self._head_bytes is None and not self._deadline and (self.cycle is None or self.cycle.response_complete):
            self._start_waiting()  # empty lines, or the body of a request that is answered

    def on_message_begin(self) -> None:
        """Called by the parser at the first byte of a request."""
        self._head_bytes = 0
        self._start_waiting()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Called by the parser at the end of its head."""
        self._head_bytes = None
        self._stop_waiting()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, as everything else is answered."""
        self._refuse(400, "this is no valid HTTP request")

    def _start_waiting(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._stop_at_the_deadline)

    def _stop_waiting(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _stop_at_the_deadline(self) -> None:
        if self._head_bytes is None:
            self.transport.close()
        else:
            self._refuse(408, "the head of this request took too long")

    def _refuse(self, status: int, message: str) -> None:
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:  # an answer under way is not mixed with another
                self.transport.write(_answer(status, message))
            self.transport.close()


def _answer(status: int, message: str) -> bytes:
    body = json.dumps({"error": message}).encode()
    head = f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}x-content-type-options: nosniff\r\nconnection: close\r\n\r\n".encode() + body
