"""Connections to the server before there is a request, and how long they may be silent.

uvicorn alone takes whatever connects, reads a header as long as it goes on, and answers pings that nobody reads.
Needs bottlenet[cloud].
"""

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from bottlenet.cloud.admission import AUTHORIZED, Limits
from bottlenet.wire.frame import STREAM_HEADER_BYTES

log = logging.getLogger(__name__)

ON_REFUSAL = "bottlenet.on_refusal"  # in a scope's "state": a function that counts, and logs, a refusal by kind
MAX_FRAGMENTS = 256  # of a message; each may be empty, so a limit on bytes is none on these
MAX_HEADER_BYTES = 2**14
MAX_FRAMING_BYTES = 2**16  # of a message in chunks: their sizes, and headers behind them; and an eighth of the body
MAX_PIPELINED = 16
MALFORMED = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connection(HttpToolsProtocol):
    """HTTP in time and within bounds. `leave` is called when it shows a token, or ends, and perhaps again.

        first byte  <- first_byte_s ->  header  <- request_s ->  body, which the application bounds  ->  response

    Bounded are headers, what is around a body in chunks, and requests before their turn: uvicorn would keep them all.
    """

    def __init__(
        self,
        limits: Limits,
        leave: Callable[[], None],
        on_refusal: Callable[[str], None],
        app_state: dict[str, Any],
        **options: Any,
    ) -> None:
        super().__init__(app_state={**app_state, AUTHORIZED: leave, ON_REFUSAL: on_refusal}, **options)
        self._limits = limits
        self._on_refusal = on_refusal
        self._due = math.inf  # when it has to have gone on, by the event loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._in_header = self._in_body = False
        self._other_bytes = self._body_bytes = 0  # of this message

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._due = self.loop.time() + self._limits.first_byte_s
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self.app_state[AUTHORIZED]()  # it holds nothing any more
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            self._begin()
        self._other_bytes += len(data)
        super().data_received(data)
        allowed = MAX_HEADER_BYTES if self._in_header else MAX_HEADER_BYTES + MAX_FRAMING_BYTES + self._body_bytes // 8
        if self._other_bytes > allowed and not self.transport.is_closing():
            self.send_400_response("Too many bytes of header, or around the body.")

    def on_message_begin(self) -> None:
        self._begin()  # of a header, perhaps in the same bytes as the end of the message before
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        header_bytes = sum([len(name) + len(value) for name, value in self.headers])
        if header_bytes > MAX_HEADER_BYTES or len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too much")  # which the parser takes for a request that is none
        self._due = math.inf
        self._in_header, self._in_body = False, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._other_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._due = math.inf
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body:  # it was answered early, and nobody reads the rest of the body
            self._due = self.loop.time() + self._limits.request_s

    def handle_websocket_upgrade(self) -> None:
        self._end()  # the stream looks after itself
        super().handle_websocket_upgrade()

    def _begin(self) -> None:
        if not self._in_header:
            self._in_header = True
            self._other_bytes = self._body_bytes = 0
            self._due = self.loop.time() + self._limits.request_s

    def _look(self) -> None:
        """Close a connection that is overdue: one timer a connection, not two a request."""
        left_s = self._due - self.loop.time()
        if left_s > 0:
            seconds = min(left_s, self._limits.first_byte_s, self._limits.request_s)
            self._timer = self.loop.call_later(seconds, self._look)
            return
        if self._in_header:  # else it has said nothing, or was answered
            self._on_refusal("slow")
            self.transport.write(SLOW)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._on_refusal("malformed")
        super().send_400_response(msg)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class StreamConnection(WebSocketsSansIOProtocol):
    """WebSocket whose messages have a bounded number of parts, and whose pings are answered only to who listens."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.app_state[AUTHORIZED]()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Refuse an upgrade that HTTP's parser took and the WebSocket's doesn't, which uvicorn would leave open."""
        super().data_received(data)
        if not self.handshake_initiated:
            self.app_state[ON_REFUSAL]("malformed")
            self.transport.write(MALFORMED)
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code != 101:
            self.app_state[ON_REFUSAL]("malformed")

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self.transport.abort()
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        if self.writable.is_set():  # answers that nobody takes would be kept, however many there are
            super().handle_ping()
        else:
            self.transport.abort()


def stream_options(limits: Limits) -> dict[str, Any]:
    """Set what uvicorn.Config needs so that streams are bounded and silent."""
    return {
        "ws_max_size": STREAM_HEADER_BYTES + limits.max_payload_bytes,
        "ws_per_message_deflate": False,
        "ws_ping_interval": None,  # each ping would wake a device's radio; TCP looks after peers that vanish
    }
