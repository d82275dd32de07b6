"""Requests to a server, as fast as one process can make them and with little of its own time: sockets and bytes alone.

closed    each connection sends its next request when it has the answer to the one before
paced     requests leave at given times, whatever has been answered
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from bottlenet.errors import LinkError
from bottlenet.wire.answer import ANSWERED, BUSY
from bottlenet.wire.frame import CLASSIFY_PATH, Frame
from idle_streams import UPGRADE

LIMIT_S = 300.0
STREAM, POST = "stream", "post"


@dataclass(frozen=True)
class Asked:
    """What is asked of which server, and how: on streams, or by POST."""

    way: str
    port: int
    bundle_id: str
    frame: Frame
    echoes: bool = False  # the server sends back what it gets, and no answer

    def request(self, sequence: int) -> bytes:
        """Build a request as the socket carries it. The mask of a WebSocket's message may be zero."""
        if self.way == POST:
            body = self.frame.to_bytes()
            start = f"POST {CLASSIFY_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            return start.encode() + body
        body = self.frame.to_stream_bytes()
        length = bytes((0x80 | len(body),)) if len(body) < 126 else b"\xfe" + len(body).to_bytes(2, "big")
        return b"\x82" + length + bytes(4) + body[:2] + sequence.to_bytes(2, "big") + body[4:]


Answered: TypeAlias = Callable[["Connection", int, bool], None]


class Connection(asyncio.Protocol):
    """One connection. `answered` is called for each: with its sequence number (-1 by POST), and whether it is one,
    or "busy", which only who may be told so is told.
    """

    def __init__(self, asked: Asked, answered: Answered, may_be_busy: bool) -> None:
        self._asked, self._answered, self._may_be_busy = asked, answered, may_be_busy
        self._sequence = 0
        self._request = asked.request(0)
        self._buffer = b""
        self._answer_bytes = 0  # by POST: of a whole response, which is always the same
        self.ready = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if self._asked.way == POST:
            self.ready.set_result(None)
        else:
            self.transport.write(UPGRADE.format(self._asked.bundle_id).encode())

    def send(self) -> int:
        """Send one request, and return its sequence number."""
        sequence = self._sequence
        self._sequence = (sequence + 1) % 65536
        if self._asked.way == POST:
            self.transport.write(self._request)
        else:
            at = len(self._request) - len(self._asked.frame.payload) - 2
            number = sequence.to_bytes(2, "big")
            self.transport.write(b"".join((self._request[:at], number, self._request[at + 2 :])))
        return sequence

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.ready.done():
            head, end, self._buffer = self._buffer.partition(b"\r\n\r\n")
            if not end:
                self._buffer = head
            elif b" 101 " in head:
                self.ready.set_result(None)
            else:
                self.ready.set_exception(LinkError(f"the server takes no stream: {head[:100]!r}"))
        elif self._asked.way == POST:
            self._responses()
        else:
            self._messages()

    def _responses(self) -> None:
        while self._buffer:
            if not self._answer_bytes:
                head, end, _ = self._buffer.partition(b"\r\n\r\n")
                if not end:
                    return
                told = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                self._answer_bytes = len(head) + 4 + int(told)
            if len(self._buffer) < self._answer_bytes:
                return
            if not self._buffer.startswith(b"HTTP/1.1 200 "):
                raise LinkError(f"the server refuses: {self._buffer[:200]!r}")
            self._buffer = self._buffer[self._answer_bytes :]
            self._answered(self, -1, True)

    def _messages(self) -> None:
        while len(self._buffer) >= 4:
            length, start = self._buffer[1], 2
            if length == 126:
                length, start = self._buffer[2] << 8 | self._buffer[3], 4
            if len(self._buffer) < start + length:
                return
            body = self._buffer[start : start + length]
            self._buffer = self._buffer[start + length :]
            echoed = self._asked.echoes
            if not echoed and body[0] & 15 and not (body[0] & 15 == BUSY and self._may_be_busy):
                raise LinkError(f"the server refuses: {body[4:]!r}")
            sequence = body[2] << 8 | body[3] if echoed else body[1] << 8 | body[2]
            self._answered(self, sequence, echoed or body[0] & 15 == ANSWERED)


async def connections(
    asked: Asked, count: int, answered: Answered, *, may_be_busy: bool = False
) -> tuple[list[Connection], asyncio.Future[None]]:
    """Open so many, ready to send, with a future that fails when something is wrong with any of them."""
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()

    def fail(_: object, context: dict[str, object]) -> None:
        error = context.get("exception")
        if not failed.done():
            failed.set_exception(error if isinstance(error, Exception) else LinkError(str(context["message"])))

    loop.set_exception_handler(fail)
    made = []
    for _ in range(count):
        _, connection = await loop.create_connection(
            lambda: Connection(asked, answered, may_be_busy), "127.0.0.1", asked.port
        )
        await either(connection.ready, failed)
        made.append(connection)
    return made, failed


async def closed(
    asked: Asked, count: int, requests: int, look: Callable[[int], None] = lambda done: None, looks: int = 1
) -> float:
    """Measure answers a second of `requests`, one at a time on each of `count` connections. LinkError: a refusal.

    `look` is called that often on the way, with how many are answered.
    """
    sent = done = 0
    finished = asyncio.get_running_loop().create_future()

    def answered(connection: Connection, sequence: int, good: bool) -> None:
        nonlocal sent, done
        done += 1
        if done % (requests // looks) == 0:
            look(done)
        if sent < requests:
            sent += 1
            connection.send()
        elif done == requests:
            finished.set_result(None)

    made, failed = await connections(asked, count, answered)
    started = time.perf_counter()
    for connection in made:
        sent += 1
        connection.send()
    await either(finished, failed)
    seconds = time.perf_counter() - started
    for connection in made:
        connection.transport.abort()
    return requests / seconds


async def paced(asked: Asked, count: int, times_s: Sequence[Sequence[float]]) -> tuple[list[float], int]:
    """Measure ms from when each frame should leave to its answer, and count refusals of a busy server.

    `times_s`: when, on each of `count` streams.
    """
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    due: dict[tuple[Connection, int], float] = {}
    taken_ms: list[float] = []
    refused = 0
    total = sum(map(len, times_s))

    def answered(connection: Connection, sequence: int, good: bool) -> None:
        nonlocal refused
        since = due.pop((connection, sequence))
        if good:
            taken_ms.append((loop.time() - since) * 1e3)
        refused += not good
        if len(taken_ms) + refused == total:
            finished.set_result(None)

    def send(connection: Connection, at: float) -> None:
        due[connection, connection.send()] = at

    made, failed = await connections(asked, count, answered, may_be_busy=True)
    begins = loop.time() + 0.1
    for connection, times in zip(made, times_s, strict=True):
        for after in times:
            loop.call_at(begins + after, send, connection, begins + after)
    await either(finished, failed)
    for connection in made:
        connection.transport.abort()
    return taken_ms, refused


async def either(finished: asyncio.Future[None], failed: asyncio.Future[None]) -> None:
    """Until one of them. LinkError: the second, or none in time."""
    done, _ = await asyncio.wait([finished, failed], timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        raise LinkError(f"no answer within {LIMIT_S:g} s; try again on a less busy machine")
    (first, *_) = done
    first.result()
