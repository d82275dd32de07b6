"""A WebSocket of frames: each gets an answer or a refusal with its sequence number, in any order.

    receive -> a task for each frame, at most max_in_flight -> send

A frame that fails costs the others nothing.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect

from bottlenet.cloud.service import Service
from bottlenet.cloud.shelf import Served, close_reason
from bottlenet.cloud.tokens import credentials
from bottlenet.wire.answer import refusal_bytes
from bottlenet.wire.protocol import GOING_AWAY, MESSAGE_TOO_BIG, UNAUTHORIZED

VIA = "stream"
ENDED = "this stream ends; open another"


class Stream:
    """One open WebSocket for one bundle, until either side goes or nothing comes for too long."""

    def __init__(self, websocket: WebSocket, served: Served, service: Service) -> None:
        self._websocket = websocket
        self._served = served
        self._service = service
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False
        self._loop = asyncio.get_running_loop()
        self._active_at = self._loop.time()
        self._timer = self._loop.call_later(service.limits.idle_s, self._look)
        self._generation = -1  # none: the first message looks whether the token is still good

    async def run(self) -> None:
        """Frames and answers, until the other side goes, or `end`. The WebSocket has been accepted."""
        self._served.streams.add(self)
        try:
            while (message := await self._websocket.receive())["type"] == "websocket.receive":
                self._active_at = self._loop.time()
                if not self._welcome():
                    await self._close(UNAUTHORIZED, "the token is not good any more; get another")
                    return
                task = asyncio.create_task(self._reply(message.get("bytes")))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                if len(self._tasks) >= self._service.limits.max_in_flight:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if message.get("code") == MESSAGE_TOO_BIG:  # refused before it was read
                self._service.metrics.refused(VIA, "too_large")
        finally:
            self._timer.cancel()
            self._served.streams.discard(self)
            for task in self._tasks:
                task.cancel()

    def take_no_more(self) -> None:
        """Refuse frames that come from now on."""
        self._ending = True

    async def end(self, code: int, reason: str) -> None:
        """Send the answers to what was taken, refuse what still comes, and close."""
        self.take_no_more()
        if self._tasks:
            await asyncio.wait(set(self._tasks))  # not those that come now: they are only refused
        await self._close(code, reason)

    def _look(self) -> None:
        """One timer a stream, not one a message: it looks whether anything has happened since."""
        idle_s = self._service.limits.idle_s
        left_s = self._active_at + idle_s - self._loop.time()
        if left_s <= 0 and not self._tasks:
            self._tasks.add(self._loop.create_task(self._close(GOING_AWAY, f"nothing came for {idle_s:g} s")))
        else:
            self._timer = self._loop.call_later(left_s if left_s > 0 else idle_s, self._look)

    async def _close(self, code: int, reason: str) -> None:
        """The loop that reads sees it next."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the other side was faster
            await self._websocket.close(code, close_reason(reason))

    def _welcome(self) -> bool:
        """Whether the token with which the stream was opened is still good."""
        tokens = self._service.tokens
        if tokens is None or tokens.generation == self._generation:
            return True
        self._generation = tokens.generation
        return tokens.allows(credentials(self._websocket.scope))

    async def _reply(self, message: bytes | None) -> None:
        reply = await self._answer(message)
        # The other side may be gone by now, which the loop that reads will see.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._websocket.send_bytes(reply)
        self._active_at = self._loop.time()

    async def _answer(self, message: bytes | None) -> bytes:
        service = self._service
        if message is None:
            service.metrics.came(VIA)
            service.metrics.refused(VIA, "frame")
            return refusal_bytes(0, "a text message came; send frames as binary messages")
        return await service.reply(VIA, self._served, message, ended=ENDED if self._ending else "")
