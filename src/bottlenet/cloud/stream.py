"""A WebSocket of frames: each gets an answer or a refusal with its sequence number, in any order.

    receive -> Service.take, at most max_in_flight -> outbox -> send

Where answers are large, as maps are, fewer are in flight: those of a side that takes none of them are kept here.

A stream has two tasks, one that receives and one that sends, and none for a frame, of which there may be thousands a
second. Where the connection offers a shortcut, neither task has to wake for a frame: it is taken when it is read, and
its answer is written when it is there. Only what is too much for that, or for the other side, goes through the tasks.
A frame that fails costs the others nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from starlette.datastructures import QueryParams
from starlette.types import Message, Receive, Scope, Send

from bottlenet.cloud.admission import credentials, subprotocol_of
from bottlenet.cloud.batcher import Waiting
from bottlenet.cloud.service import Served, Service
from bottlenet.task import most_answer_bytes
from bottlenet.wire.answer import refusal_bytes
from bottlenet.wire.frame import GOING_AWAY, MESSAGE_TOO_BIG, UNAUTHORIZED, UNKNOWN_BUNDLE

VIA = "stream"
SHORTCUT = "bottlenet.shortcut"  # of a scope's "extensions": the connection itself, see `StreamConnection`
MAX_UNSENT_BYTES = 2**22  # of the answers to all that is in flight
ENDED = "this stream ends; open another"


class Shortcut(Protocol):
    """Past the queues of a connection: see `StreamConnection`."""

    take: Callable[[bytes], bool] | None  # told a message before it is queued; False: queue it

    def send_now(self, data: bytes) -> bool:
        """One message of bytes. False: nothing was sent, as the other side has to take what it was sent first."""


class Streams:
    """What is at the path of streams: an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Frames and answers, until the other side goes."""
        await receive()
        # A close code reaches the client only on an open connection.
        await send({"type": "websocket.accept", "subprotocol": subprotocol_of(scope)})
        served = self._service.shelf.by_id(QueryParams(scope["query_string"]).get("bundle", ""))
        if served is None:
            self._service.metrics.refused(VIA, "unknown_bundle")
            await send(closing(UNKNOWN_BUNDLE, self._service.shelf.names()))
            return
        await Stream(scope, receive, send, served, self._service).run()


class Stream:
    """One open WebSocket for one bundle, until either side goes or nothing comes for too long.

    In flight is what came and was not answered yet, answers that the other side does not take included.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, served: Served, service: Service) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._served = served
        self._service = service
        self._numbers = itertools.count()
        self._waiting: dict[int, Waiting] = {}  # frames for which the batcher has no answer yet
        self._outbox: deque[Message] = deque()
        self._in_flight = 0
        room = MAX_UNSENT_BYTES // most_answer_bytes(served.bundle.manifest.task)
        self._most = max(1, min(service.limits.max_in_flight, room))
        self._ending = False
        self._filled = asyncio.Event()  # something is in the outbox
        self._changed = asyncio.Event()  # fewer are in flight, or nothing is sent any more
        self._loop = asyncio.get_running_loop()
        self._active_at = self._loop.time()
        self._timer = self._loop.call_later(service.limits.idle_s, self._look)
        self._generation = -1  # none: the first message looks whether the token is still good
        self._sending = asyncio.create_task(self._send_all())
        self._shortcut: Shortcut | None = scope.get("extensions", {}).get(SHORTCUT)

    async def run(self) -> None:
        """Frames and answers, until the other side goes, or `end`. The WebSocket has been accepted."""
        self._served.streams.add(self)
        if self._shortcut is not None:
            self._shortcut.take = self._take_now
        try:
            while (message := await self._receive())["type"] == "websocket.receive":
                # Those that take the shortcut may have filled every place while this loop waited for a message.
                while self._in_flight >= self._most and not self._sending.done():
                    await self._change()
                self._active_at = self._loop.time()
                if not self._welcome():
                    await self._close(UNAUTHORIZED, "the token is not good any more; get another")
                    return
                self._take(message.get("bytes"))
            if message.get("code") == MESSAGE_TOO_BIG:  # refused before it was read
                self._service.metrics.refused(VIA, "too_large")
        finally:
            if self._shortcut is not None:
                self._shortcut.take = None
            self._timer.cancel()
            self._sending.cancel()
            self._served.streams.discard(self)
            for waiting in self._waiting.values():
                waiting.done = None

    def take_no_more(self) -> None:
        """Refuse frames that come from now on."""
        self._ending = True

    async def end(self, code: int, reason: str) -> None:
        """Send the answers to what was taken, refuse what still comes, and close."""
        self.take_no_more()
        while self._waiting and not self._sending.done():  # not for those that come now: they are only refused
            await self._change()
        await self._close(code, reason)

    def _look(self) -> None:
        """One timer a stream, not one a message: it looks whether anything has happened since."""
        idle_s = self._service.limits.idle_s
        left_s = self._active_at + idle_s - self._loop.time()
        if left_s <= 0 and not self._in_flight:
            self._put(closing(GOING_AWAY, f"nothing came for {idle_s:g} s"))
        else:
            self._timer = self._loop.call_later(left_s if left_s > 0 else idle_s, self._look)

    def _welcome(self) -> bool:
        """Whether the token with which the stream was opened is still good."""
        tokens = self._service.tokens
        if tokens is None or tokens.generation == self._generation:
            return True
        if not tokens.allows(credentials(self._scope)):
            return False
        self._generation = tokens.generation
        return True

    def _take_now(self, message: bytes) -> bool:
        """False: let it wait for `run`, which has to wait itself, or ends the stream."""
        if self._in_flight >= self._most or not self._welcome():
            return False
        self._active_at = self._loop.time()
        self._take(message)
        return True

    def _take(self, message: bytes | None) -> None:
        """One more in flight."""
        self._in_flight += 1
        if message is None:
            self._service.metrics.came(VIA)
            self._service.metrics.refused(VIA, "frame")
            text = "a text message came; send frames as binary messages"
            self._put({"type": "websocket.send", "bytes": refusal_bytes(0, text)})
            return
        number, ended = next(self._numbers), ENDED if self._ending else ""
        waiting = self._service.take(VIA, self._served, message, partial(self._done, number), ended=ended)
        if waiting is not None:
            self._waiting[number] = waiting

    def _done(self, number: int, reply: bytes) -> None:
        """What is answered while it is taken, such as a refusal, waits in the outbox and is in flight until it is sent:
        else one stream that is refused again and again would be read without end, and no other.
        """
        waited = self._waiting.pop(number, None) is not None
        if waited and self._shortcut is not None and not self._outbox and self._shortcut.send_now(reply):
            self._sent()
        else:
            self._put({"type": "websocket.send", "bytes": reply})

    def _sent(self) -> None:
        self._in_flight -= 1
        self._active_at = self._loop.time()
        self._changed.set()

    def _put(self, message: Message) -> None:
        self._outbox.append(message)
        self._filled.set()

    async def _close(self, code: int, reason: str) -> None:
        """After all that is in the outbox. The loop that receives sees it next."""
        self._put(closing(code, reason))
        await asyncio.wait([self._sending])

    async def _change(self) -> None:
        """Until something was sent, or nothing will be any more."""
        self._changed.clear()
        await self._changed.wait()

    async def _send_all(self) -> None:
        """Until it has closed the stream, or the other side is gone, which the loop that receives will see."""
        try:
            while True:
                while self._outbox:
                    message = self._outbox.popleft()
                    await self._send(message)
                    if message["type"] == "websocket.close":
                        return
                    self._sent()
                self._filled.clear()
                await self._filled.wait()
        except (OSError, RuntimeError):
            pass
        finally:
            self._changed.set()


def closing(code: int, reason: str) -> Message:
    """The last message, with as much of the reason as a close frame has room for: 123 bytes (RFC 6455)."""
    return {"type": "websocket.close", "code": code, "reason": reason.encode()[:123].decode("utf-8", "ignore")}
