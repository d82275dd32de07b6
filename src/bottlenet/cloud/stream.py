"""A WebSocket of frames: each gets an answer or a refusal with its sequence number, in any order.

    receive -> a task for each frame, at most max_in_flight: Service.reply -> send

In flight is what came and was not answered yet, answers that the other side does not take included. Where answers are
large, as maps are, fewer are in flight. A frame that fails costs the others nothing.
"""

import asyncio
import contextlib

from starlette.datastructures import QueryParams
from starlette.types import Message, Receive, Scope, Send

from bottlenet.cloud.admission import credentials, subprotocol_of
from bottlenet.cloud.batcher import start
from bottlenet.cloud.service import Served, Service
from bottlenet.task import most_answer_bytes
from bottlenet.wire.answer import refusal_bytes
from bottlenet.wire.frame import GOING_AWAY, MESSAGE_TOO_BIG, UNAUTHORIZED, UNKNOWN_BUNDLE

VIA = "stream"
MAX_UNSENT_BYTES = 2**22  # of the answers to all that is in flight
ENDED = "this stream ends; open another"


class Streams:
    """The ASGI application at the path of streams."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        # A close code reaches the client only on an open connection.
        await send({"type": "websocket.accept", "subprotocol": subprotocol_of(scope)})
        served = self._service.bundles.by_id(QueryParams(scope["query_string"]).get("bundle", ""))
        if served is None:
            self._service.metrics.refused(VIA, "unknown_bundle")
            await send(closing(UNKNOWN_BUNDLE, self._service.bundles.names()))
            return
        await Stream(scope, receive, send, served, self._service).run()


class Stream:
    """One open WebSocket for one bundle, until either side goes or nothing comes for too long."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, served: Served, service: Service) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._served = served
        self._service = service
        room = MAX_UNSENT_BYTES // most_answer_bytes(served.bundle.manifest.task)
        self._room = asyncio.Semaphore(max(1, min(service.limits.max_in_flight, room)))
        self._tasks: set[asyncio.Task[None]] = set()  # one for each frame in flight
        self._ending = False
        self._loop = asyncio.get_running_loop()
        self._active_at = self._loop.time()
        self._timer = self._loop.call_later(service.limits.idle_s, self._look)
        self._generation = -1  # none: the first message looks whether the token is still good

    async def run(self) -> None:
        """Take frames until the other side goes, or `end`. The WebSocket has been accepted."""
        self._served.streams.add(self)
        try:
            while (message := await self._receive())["type"] == "websocket.receive":
                await self._room.acquire()
                self._active_at = self._loop.time()
                if not self._welcome():
                    await self.end(UNAUTHORIZED, "the token is not good any more; get another")
                    return
                start(self._answer(message.get("bytes")), self._tasks)
            if message.get("code") == MESSAGE_TOO_BIG:  # refused before it was read
                self._service.metrics.refused(VIA, "too_large")
        finally:
            self._timer.cancel()
            self._served.streams.discard(self)
            for task in self._tasks:
                task.cancel()

    def take_no_more(self) -> None:
        self._ending = True

    async def end(self, code: int, reason: str) -> None:
        """Send the answers to what was taken, refuse what still comes, and close."""
        self.take_no_more()
        if self._tasks:
            await asyncio.wait(set(self._tasks))  # not for those that come now: they are only refused
        await self._close(code, reason)

    def _look(self) -> None:
        """Close a stream on which nothing has happened: one timer a stream, not one a message."""
        idle_s = self._service.limits.idle_s
        left_s = self._active_at + idle_s - self._loop.time()
        if left_s <= 0 and not self._tasks:
            task = self._loop.create_task(self._close(GOING_AWAY, f"nothing came for {idle_s:g} s"))
            self._tasks.add(task)
        else:
            self._timer = self._loop.call_later(left_s if left_s > 0 else idle_s, self._look)

    def _welcome(self) -> bool:
        tokens = self._service.tokens
        if tokens is None or tokens.generation == self._generation:
            return True
        if not tokens.allows(credentials(self._scope)):
            return False
        self._generation = tokens.generation
        return True

    async def _answer(self, message: bytes | None) -> None:
        if message is None:
            self._service.metrics.came(VIA)
            self._service.metrics.refused(VIA, "frame")
            reply = refusal_bytes(0, "a text message came; send frames as binary messages")
        else:
            ended = ENDED if self._ending else ""
            reply = await self._service.reply(VIA, self._served, message, ended=ended)
        with contextlib.suppress(OSError, RuntimeError):  # the other side is gone, which `run` will see
            await self._send({"type": "websocket.send", "bytes": reply})
        self._active_at = self._loop.time()
        self._room.release()

    async def _close(self, code: int, reason: str) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            await self._send(closing(code, reason))


def closing(code: int, reason: str) -> Message:
    """Build the last message, with as much of the reason as fits a close frame: 123 bytes (RFC 6455)."""
    return {"type": "websocket.close", "code": code, "reason": reason.encode()[:123].decode("utf-8", "ignore")}
