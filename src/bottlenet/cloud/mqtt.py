"""Frames that come through a broker, shared with all other servers that take frames of the same bundle.

    broker -> bottlenet/v1/frames/BUNDLE/DEVICE/SESSION -> a task each -> bottlenet/v1/answers/DEVICE/SESSION -> broker

A frame is acknowledged after its answer was sent. What a server had taken and not answered when it died is sent again
by the devices. Needs bottlenet[mqtt].
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from bottlenet.broker import Broker
from bottlenet.cloud.link import CLOSE_S, Link, Message
from bottlenet.cloud.service import Service
from bottlenet.errors import InputError, LinkError, WireError
from bottlenet.wire.answer import busy_bytes
from bottlenet.wire.mqtt import parse_frames_topic, shared_filter

log = logging.getLogger(__name__)

VIA = "mqtt"
RETRY_S = (0.5, 10.0)  # between two tries to connect: the first, and the longest
FOLLOW_S = 0.5  # how soon the broker hears of bundles that come and go
GONE_RETRY_S = 1.0
GONE = "this server does not have the bundle any more; try again"


class Subscriber:
    """Takes frames of all bundles on the shelf from one broker, whatever becomes of the connection."""

    def __init__(self, broker: Broker, service: Service) -> None:
        self._broker = broker
        self._service = service
        self._link: Link | None = None  # open, or it was
        self._subscribed: set[str] = set()  # ids of bundles, on this link
        self._came = 0  # frames, ever
        self._tasks: set[asyncio.Task[None]] = set()  # one for each that is not answered
        self._running: asyncio.Task[None] | None = None
        self._failures = 0
        self._told = ""
        self._left = False  # or about to

    def start(self) -> None:
        """Connect, and connect again, until `leave`."""
        self._service.leaving.append(self.leave)
        self._running = asyncio.create_task(self._run_for_ever())

    async def leave(self) -> None:
        """Take no more frames, and answer those that came; and what the broker had sent already, too."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        link, seen = None if self._left else self._link, -1
        self._left = True
        # What waited at the broker comes as others are acknowledged. When nothing came between two goodbyes, it is over
        with contextlib.suppress(LinkError):
            while link is not None and seen != self._came:
                seen = self._came
                for bundle in sorted(self._subscribed):
                    await link.unsubscribe(shared_filter(bundle, self._broker.group), CLOSE_S)
                while self._tasks:
                    await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Send the last answers, and end the connection. Call `leave` before, and refuse what still waits."""
        self._service.leaving.remove(self.leave)
        if self._tasks:
            await asyncio.wait(set(self._tasks))  # not those that come now: they are only refused
        await self._drop()

    async def _run_for_ever(self) -> None:
        while True:
            try:
                await self._serve()
            except (LinkError, InputError) as error:  # InputError: the file with the password is being replaced
                self._trouble(str(error))
            except Exception:
                log.exception("can't take frames from %s", self._broker.name)
            await self._drop()
            first_s, last_s = RETRY_S
            wait_s = min(last_s, first_s * 2 ** min(self._failures, 10))
            self._failures += 1
            await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # a fleet of servers doesn't come back all at once

    async def _serve(self) -> None:
        """Until the connection ends. LinkError: why it did, or why there is none. Cancelled: it stays."""
        link = Link(self._broker, self._take)
        try:
            await link.open()
        except BaseException:
            await link.close()
            raise
        self._link, self._subscribed = link, set()
        await self._follow(link)
        self._failures, self._told = 0, ""
        self._service.metrics.open[VIA] = 1
        log.info("takes frames from %s", self._broker.name)
        while not link.ended.done():
            await asyncio.wait([link.ended], timeout=FOLLOW_S)
            await self._follow(link)
        raise LinkError(f"{self._broker.name} closed the connection ({link.ended.result()})")

    async def _follow(self, link: Link) -> None:
        """Subscribe to what the shelf has, and to nothing else."""
        served = {one.bundle.id.hex() for one in self._service.shelf}
        for bundle in self._subscribed - served:
            await link.unsubscribe(shared_filter(bundle, self._broker.group))
            self._subscribed.discard(bundle)
        for bundle in served - self._subscribed:
            self._subscribed.add(bundle)  # first: whoever stops this in between has to say goodbye
            await link.subscribe(shared_filter(bundle, self._broker.group))

    def _trouble(self, text: str) -> None:
        """Told once, until it is another, or over."""
        self._service.metrics.refused(VIA, "broker")
        if text != self._told:
            self._told = text
            log.warning("%s; trying again", text)

    async def _drop(self) -> None:
        link, self._link = self._link, None
        self._service.metrics.open[VIA] = 0
        if link is not None:
            await link.close()

    def _take(self, link: Link, message: Message) -> None:
        self._came += 1
        task = asyncio.create_task(self._reply(link, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, link: Link, message: Message) -> None:
        try:
            bundle, address = parse_frames_topic(message.topic)
        except WireError as error:  # so there is nobody to tell
            self._service.metrics.refused(VIA, "topic")
            log.info("refused: %s", error)
        else:
            reply = await self._answer(bundle, message.payload)
            if self._link is not None:  # perhaps another than it came by
                self._link.publish(address.answers, reply)
        link.done(message)

    async def _answer(self, bundle: str, message: bytes) -> bytes:
        served = self._service.shelf.by_id(bundle)
        if served is not None:
            return await self._service.reply(VIA, served, message)
        self._service.metrics.came(VIA)
        self._service.metrics.refused(VIA, "unknown_bundle")
        return busy_bytes(int.from_bytes(message[2:4], "big"), GONE_RETRY_S, GONE)


async def check_broker(broker: Broker) -> None:
    """InputError: the broker is there, and doesn't let this server in. One that isn't there may come."""
    link = Link(broker, lambda _link, _message: None)
    try:
        await link.open()
    except LinkError as error:
        if link.refused:
            raise InputError(str(error)) from error
        log.warning("%s; trying again", error)
    finally:
        await link.close()
