"""Frames that come through a broker, shared with all other servers that take frames of the same bundle.

    broker -> bottlenet/v1/frames/BUNDLE/DEVICE/SESSION -> a task each -> bottlenet/v1/answers/DEVICE/SESSION -> broker

A frame is acknowledged after its answer was sent. What a server had taken and not answered when it died is sent again
by the devices. Needs bottlenet[mqtt].

One connection to a broker, on an event loop: paho-mqtt without a thread. Needs bottlenet[mqtt].

    open -> subscribe -> came(message) ... publish, done(message) -> close

A message counts as taken only with `done`, and no more than MAX_UNACKNOWLEDGED are on their way: that is what bounds
the memory of this side, whatever the broker has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from paho.mqtt.client import MQTT_ERR_SUCCESS, Client, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from bottlenet.broker import BoundedClient, Broker, refused
from bottlenet.cloud.service import Service
from bottlenet.errors import InputError, LinkError, WireError
from bottlenet.wire.answer import busy_bytes
from bottlenet.wire.mqtt import MAX_MESSAGE_BYTES, parse_frames_topic, shared_filter

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike


HEADER_BYTES = 1024  # of a packet, its topic and its properties: more than ours ever have
MAX_UNACKNOWLEDGED = 4096
KEEPALIVE_S = 10  # half as much more, and the broker gives this server's frames to others
CONNECT_S = 5.0  # a thread waits for it, and the process for the thread
TIMEOUT_S = 10.0  # for whatever is asked of the broker
LOOK_EVERY_S = 1.0
CLOSE_S = 2.0

Asked: TypeAlias = "asyncio.Future[list[ReasonCode] | None]"
"""What a broker will say to a packet; None: the link has ended."""


@dataclass(eq=False)
class Message:
    """What came."""

    topic: str  # "" where it is no text
    payload: bytes
    mid: int
    done: bool = False


class Link:
    """Open it once; when it has ended, make another. `came` is called for each message, in the event loop."""

    def __init__(self, broker: Broker, came: Callable[[Link, Message], None]) -> None:
        self._broker = broker
        self._came = came
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()  # and why
        self.refused = False  # the broker is there, and doesn't let this server in
        self._asked: dict[int, Asked] = {}  # by the number of the packet; 0: to be let in
        self._taken: deque[Message] = deque()  # in the order in which they came
        self._sock: socket.socket | None = None
        self._looking: asyncio.Task[None] | None = None
        packet_bytes = HEADER_BYTES + MAX_MESSAGE_BYTES
        client = BoundedClient(broker, f"bottlenet-server-{secrets.token_hex(4)}", packet_bytes, manual_ack=True)
        if broker.tls is not None:
            client.tls_set_context(broker.tls)
        client.on_connect = lambda _client, _data, _flags, code, _properties: self._answered(0, [code])
        client.on_subscribe = lambda _client, _data, mid, codes, _properties: self._answered(mid, codes)
        client.on_unsubscribe = lambda _client, _data, mid, codes, _properties: self._answered(mid, codes)
        client.on_message = lambda _client, _data, message: self._take(message)
        client.on_disconnect = lambda _client, _data, _flags, code, _properties: self._end(str(code).lower())
        client.on_socket_open = self._on_socket_open
        client.on_socket_register_write = self._on_socket_register_write
        client.on_socket_close = lambda _client, _data, _sock: self._unwatch()
        self._client = client

    async def open(self) -> None:
        """LinkError: nobody is there, this server is not let in (then `refused`), or it takes too long."""
        broker = self._broker
        answer = self._ask(0)
        try:
            await asyncio.to_thread(self._client.dial, CONNECT_S, KEEPALIVE_S, MAX_UNACKNOWLEDGED)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or "it took too long"
            raise LinkError(f"can't connect to {broker.name}: {why}; is the broker running there?") from error
        (code,) = await self._answer(answer)
        if code.is_failure:
            self.refused = True
            raise refused(broker, code)
        self._looking = asyncio.create_task(self._look_for_ever())

    async def subscribe(self, what: str) -> None:
        """LinkError: it can't be had."""
        status, mid = self._client.subscribe(what, 1)
        (code,) = await self._answer(self._ask(mid, status))
        if code.is_failure:
            raise LinkError(f"{self._broker.name} gives this server no frames: {what} ({code}); see docs/operating.md")

    async def unsubscribe(self, what: str, timeout_s: float = TIMEOUT_S) -> None:
        """When it returns, what was sent before has come. LinkError: the link has ended, or it takes too long."""
        status, mid = self._client.unsubscribe(what)
        await self._answer(self._ask(mid, status), timeout_s)

    def publish(self, topic: str, payload: bytes) -> None:
        """At most once. Nothing happens on a link that has ended."""
        self._client.publish(topic, payload, 0)

    def done(self, message: Message) -> None:
        """Let the broker forget a message. Brokers are told in the order in which messages came, as MQTT has it."""
        message.done = True
        while self._taken and self._taken[0].done:
            self._client.ack(self._taken.popleft().mid, 1)

    async def close(self) -> None:
        """Send what is to be sent, say goodbye, and end."""
        if not self.ended.done() and self._client.disconnect() == MQTT_ERR_SUCCESS:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.ended), CLOSE_S)
        self._end("closed here")
        if self._looking is not None:
            self._looking.cancel()

    def _ask(self, mid: int | None, status: MQTTErrorCode = MQTT_ERR_SUCCESS) -> Asked:
        """What the broker will say to a packet."""
        if mid is None or status != MQTT_ERR_SUCCESS or self.ended.done():
            raise LinkError(f"{self._broker.name} closed the connection")
        self._asked[mid] = self._loop.create_future()
        return self._asked[mid]

    async def _answer(self, asked: Asked, timeout_s: float = TIMEOUT_S) -> list[ReasonCode]:
        try:
            codes = await asyncio.wait_for(asked, timeout_s)
        except asyncio.TimeoutError:
            text = f"{self._broker.name} did not answer within {timeout_s:g} s; is it a broker for MQTT 5?"
            raise LinkError(text) from None
        if codes is None:
            raise LinkError(f"{self._broker.name} closed the connection ({self.ended.result()})")
        return codes

    def _answered(self, mid: int, codes: list[ReasonCode]) -> None:
        asked = self._asked.pop(mid, None)
        if asked is not None and not asked.done():
            asked.set_result(codes)

    def _take(self, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        taken = Message(topic, bytes(message.payload), message.mid)
        if message.qos == 1:
            self._taken.append(taken)
        self._came(self, taken)

    def _end(self, why: str) -> None:
        """The first reason counts."""
        if not self.ended.done():
            self.ended.set_result(why)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_result(None)
        self._asked.clear()
        self._taken.clear()
        self._unwatch()

    def _on_socket_open(self, client: Client, data: object, sock: SocketLike) -> None:
        self._loop.call_soon_threadsafe(self._watch, sock)  # this comes from the thread that connects

    def _on_socket_register_write(self, client: Client, data: object, sock: SocketLike) -> None:
        self._loop.call_soon_threadsafe(self._want, sock)  # this too, the first time

    def _watch(self, sock: SocketLike) -> None:
        assert isinstance(sock, socket.socket)
        if self.ended.done():
            sock.close()  # it took so long that nobody waits any more
            return
        self._sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # an answer would wait for the last frame's receipt
        self._loop.add_reader(sock, self._read)

    def _want(self, sock: SocketLike) -> None:
        if sock is self._sock and self._client.want_write():
            self._loop.add_writer(sock, self._write)

    def _unwatch(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)
            sock.close()

    def _read(self) -> None:
        try:
            self._client.loop_read()
            # What TLS has decrypted already makes no socket readable.
            while isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
                self._client.loop_read()
        except Exception as error:  # paho-mqtt raises anything on bytes that are no MQTT
            self._end(f"no MQTT came: {error}")

    def _write(self) -> None:
        try:
            self._client.loop_write()
        except Exception as error:
            self._end(str(error))
        if self._sock is not None and not self._client.want_write():
            self._loop.remove_writer(self._sock)

    async def _look_for_ever(self) -> None:
        """Pings, and that they are answered."""
        while not self.ended.done():
            self._client.loop_misc()
            await asyncio.sleep(LOOK_EVERY_S)


log = logging.getLogger(__name__)

VIA = "mqtt"
RETRY_S = (0.5, 10.0)  # between two tries to connect: the first, and the longest
FOLLOW_S = 0.5  # how soon the broker hears of bundles that come and go
GONE_RETRY_S = 1.0
GONE = "this server does not have the bundle any more; try again"


class Subscriber:
    """Takes frames of all bundles on the bundles from one broker, whatever becomes of the connection."""

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
        """Subscribe to what the bundles has, and to nothing else."""
        served = {one.bundle.id.hex() for one in self._service.bundles}
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
        served = self._service.bundles.by_id(bundle)
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
