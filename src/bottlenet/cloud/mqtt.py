"""Frames that come through a broker, shared with all other servers that take frames of the same bundle.

    broker -> bottlenet/v1/frames/BUNDLE/DEVICE/SESSION -> a task each -> bottlenet/v1/answers/DEVICE/SESSION -> broker

A frame is acknowledged after its answer was sent, and no more than MAX_UNACKNOWLEDGED are on their way: that bounds the
memory of this side, whatever the broker has. What a server had taken and not answered when it died, the devices send
again. This is paho-mqtt on the event loop, without a thread; aiomqtt acknowledges a message before it is
answered, and drops what its queue has no room for. Needs bottlenet[mqtt].
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
from typing import TYPE_CHECKING, Any, TypeAlias

from paho.mqtt.client import MQTT_ERR_SUCCESS, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from bottlenet.broker import BoundedClient, Broker, refused
from bottlenet.cloud.batcher import start
from bottlenet.cloud.service import Service
from bottlenet.errors import InputError, LinkError, WireError
from bottlenet.wire.answer import busy_bytes
from bottlenet.wire.mqtt import MAX_MESSAGE_BYTES, parse_frames_topic, shared_filter

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike


log = logging.getLogger(__name__)

VIA = "mqtt"
HEADER_BYTES = 1024  # of a packet, its topic and its properties: more than ours ever have
MAX_UNACKNOWLEDGED = 4096
KEEPALIVE_S = 10  # half as much more, and the broker gives this server's frames to others
CONNECT_S = 5.0  # a thread waits for it, and the process for the thread
TIMEOUT_S = 10.0  # for an answer of the broker
PING_EVERY_S = 1.0
CLOSE_S = 2.0
RETRY_S = (0.5, 10.0)  # between two tries to connect: the first, and the longest
FOLLOW_S = 0.5  # how soon the broker hears of bundles that come and go
GONE_RETRY_S = 1.0
GONE = "this server does not have the bundle any more; try again"

Codes: TypeAlias = "asyncio.Future[list[ReasonCode] | None]"
"""The broker's answer to a packet; None: the connection has ended."""


@dataclass(eq=False)
class Message:
    """A message that came over a connection."""

    connection: BrokerConnection
    topic: str  # "" where it is no text
    payload: bytes
    mid: int
    acknowledged: bool = False


class BrokerConnection:
    """One connection, never opened again: open -> subscribe -> `on_message` ... publish, acknowledge -> close."""

    def __init__(self, broker: Broker, on_message: Callable[[Message], None]) -> None:
        self._broker = broker
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()  # and why
        self.refused = False  # the broker is there, and doesn't let this server in
        self._pending: dict[int, Codes] = {}  # by the number of the packet; 0: to be let in
        self._unacknowledged: deque[Message] = deque()  # in the order in which they came
        self._sock: socket.socket | None = None
        self._pinging: asyncio.Task[None] | None = None
        packet_bytes = HEADER_BYTES + MAX_MESSAGE_BYTES
        client = BoundedClient(broker, f"bottlenet-server-{secrets.token_hex(4)}", packet_bytes, manual_ack=True)
        client.on_connect = lambda _client, _data, _flags, code, _properties: self._settle(0, [code])
        client.on_subscribe = lambda _client, _data, mid, codes, _properties: self._settle(mid, codes)
        client.on_unsubscribe = lambda _client, _data, mid, codes, _properties: self._settle(mid, codes)
        client.on_message = lambda _client, _data, message: self._take(message)
        client.on_disconnect = lambda _client, _data, _flags, code, _properties: self._end(str(code).lower())
        # Both come from the thread that connects, the second at least the first time.
        soon: Callable[..., Any] = self._loop.call_soon_threadsafe
        client.on_socket_open = lambda _client, _data, sock: soon(self._watch, sock)
        client.on_socket_register_write = lambda _client, _data, sock: soon(self._want, sock)
        client.on_socket_close = lambda _client, _data, _sock: self._unwatch()
        self._client = client

    async def open(self) -> None:
        """Connect. LinkError: nobody is there, this server is not let in (then `refused`), or it takes too long."""
        broker = self._broker
        codes = self._codes_of(0)
        try:
            await asyncio.to_thread(self._client.dial, CONNECT_S, KEEPALIVE_S, MAX_UNACKNOWLEDGED)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or "it took too long"
            raise LinkError(f"can't connect to {broker.name}: {why}; is the broker running there?") from error
        (code,) = await self._answer(codes)
        if code.is_failure:
            self.refused = True
            raise refused(broker, code)
        self._pinging = asyncio.create_task(self._ping_for_ever())

    async def subscribe(self, topics: str) -> None:
        """Have the messages of some topics sent here. LinkError: the broker refuses, or the connection has ended."""
        status, mid = self._client.subscribe(topics, 1)
        (code,) = await self._answer(self._codes_of(mid, status))
        if code.is_failure:
            text = f"{self._broker.name} gives this server no frames: {topics} ({code}); see docs/operating.md"
            raise LinkError(text)

    async def unsubscribe(self, topics: str, timeout_s: float = TIMEOUT_S) -> None:
        """End `subscribe`; when it returns, what was sent before has come. LinkError: it takes too long, or ended."""
        status, mid = self._client.unsubscribe(topics)
        await self._answer(self._codes_of(mid, status), timeout_s)

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message at most once. Nothing happens on a connection that has ended."""
        self._client.publish(topic, payload, 0)

    def acknowledge(self, message: Message) -> None:
        """Let the broker forget a message. Brokers are told in the order in which messages came, as MQTT has it."""
        message.acknowledged = True
        while self._unacknowledged and self._unacknowledged[0].acknowledged:
            self._client.ack(self._unacknowledged.popleft().mid, 1)

    async def close(self) -> None:
        if not self.ended.done() and self._client.disconnect() == MQTT_ERR_SUCCESS:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.ended), CLOSE_S)
        self._end("closed here")
        if self._pinging is not None:
            self._pinging.cancel()

    def _codes_of(self, mid: int | None, status: MQTTErrorCode = MQTT_ERR_SUCCESS) -> Codes:
        """Expect the broker's answer to a packet that was sent with this status. LinkError: it was not sent."""
        if mid is None or status != MQTT_ERR_SUCCESS or self.ended.done():
            raise LinkError(f"{self._broker.name} closed the connection")
        self._pending[mid] = self._loop.create_future()
        return self._pending[mid]

    async def _answer(self, expected: Codes, timeout_s: float = TIMEOUT_S) -> list[ReasonCode]:
        try:
            codes = await asyncio.wait_for(expected, timeout_s)
        except asyncio.TimeoutError:
            text = f"{self._broker.name} did not answer within {timeout_s:g} s; is it a broker for MQTT 5?"
            raise LinkError(text) from None
        if codes is None:
            raise LinkError(f"{self._broker.name} closed the connection ({self.ended.result()})")
        return codes

    def _settle(self, mid: int, codes: list[ReasonCode] | None) -> None:
        expected = self._pending.pop(mid, None)
        if expected is not None and not expected.done():
            expected.set_result(codes)

    def _take(self, packet: MQTTMessage) -> None:
        try:
            topic = packet.topic
        except UnicodeDecodeError:
            topic = ""
        message = Message(self, topic, bytes(packet.payload), packet.mid)
        if packet.qos == 1:
            self._unacknowledged.append(message)
        self._on_message(message)

    def _end(self, why: str) -> None:
        """End everything that waits. The first reason counts."""
        if not self.ended.done():
            self.ended.set_result(why)
        for mid in list(self._pending):
            self._settle(mid, None)
        self._unacknowledged.clear()
        self._unwatch()

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

    async def _ping_for_ever(self) -> None:
        while not self.ended.done():
            self._client.loop_misc()
            await asyncio.sleep(PING_EVERY_S)


class Subscriber:
    """Takes frames of all bundles that are served from one broker, whatever becomes of the connection."""

    def __init__(self, broker: Broker, service: Service) -> None:
        self._broker = broker
        self._service = service
        self._connection: BrokerConnection | None = None  # open, or it was
        self._subscribed: set[str] = set()  # ids of bundles, on this connection
        self._count = 0  # of frames, ever
        self._tasks: set[asyncio.Task[None]] = set()  # one for each that is not answered
        self._running: asyncio.Task[None] | None = None
        self._failures = 0
        self._logged = ""
        self._left = False  # or about to

    def start(self) -> None:
        """Connect, and connect again, until `leave`."""
        self._service.leaving.append(self.leave)
        self._running = asyncio.create_task(self._run_for_ever())

    async def leave(self) -> None:
        """Take no more frames; answer those that came, and those that the broker had sent already."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        connection, count = None if self._left else self._connection, -1
        self._left = True
        # What waited at the broker comes as others are acknowledged. When nothing came between two goodbyes, it is over
        with contextlib.suppress(LinkError):
            while connection is not None and count != self._count:
                count = self._count
                for bundle in sorted(self._subscribed):
                    await connection.unsubscribe(shared_filter(bundle, self._broker.group), CLOSE_S)
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
                self._service.metrics.refused(VIA, "broker")
                if str(error) != self._logged:  # once, until it is another, or over
                    self._logged = str(error)
                    log.warning("%s; trying again", error)
            except Exception:
                log.exception("can't take frames from %s", self._broker.name)
            await self._drop()
            first_s, last_s = RETRY_S
            wait_s = min(last_s, first_s * 2 ** min(self._failures, 10))
            self._failures += 1
            await asyncio.sleep(wait_s * random.uniform(0.5, 1))  # a fleet of servers doesn't come back all at once

    async def _serve(self) -> None:
        """Serve until the connection ends. LinkError: why it did, or why there is none. Cancelled: it stays."""
        connection = BrokerConnection(self._broker, self._take)
        try:
            await connection.open()
        except BaseException:
            await connection.close()
            raise
        self._connection, self._subscribed = connection, set()
        await self._follow(connection)
        self._failures, self._logged = 0, ""
        self._service.metrics.open[VIA] = 1
        log.info("takes frames from %s", self._broker.name)
        while not connection.ended.done():
            await asyncio.wait([connection.ended], timeout=FOLLOW_S)
            await self._follow(connection)
        raise LinkError(f"{self._broker.name} closed the connection ({connection.ended.result()})")

    async def _follow(self, connection: BrokerConnection) -> None:
        served = {one.bundle.id.hex() for one in self._service.bundles}
        for bundle in self._subscribed - served:
            await connection.unsubscribe(shared_filter(bundle, self._broker.group))
            self._subscribed.discard(bundle)
        for bundle in served - self._subscribed:
            self._subscribed.add(bundle)  # first: whoever stops this in between has to say goodbye
            await connection.subscribe(shared_filter(bundle, self._broker.group))

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._service.metrics.open[VIA] = 0
        if connection is not None:
            await connection.close()

    def _take(self, message: Message) -> None:
        self._count += 1
        start(self._answer(message), self._tasks)

    async def _answer(self, message: Message) -> None:
        try:
            bundle, address = parse_frames_topic(message.topic)
        except WireError as error:  # so there is nobody to tell
            self._service.metrics.refused(VIA, "topic")
            log.info("refused: %s", error)
        else:
            served, data = self._service.bundles.by_id(bundle), message.payload
            if served is not None:
                reply = await self._service.reply(VIA, served, data)
            else:
                self._service.metrics.came(VIA)
                self._service.metrics.refused(VIA, "unknown_bundle")
                reply = busy_bytes(int.from_bytes(data[2:4], "big"), GONE_RETRY_S, GONE)
            if self._connection is not None:  # perhaps another than it came by
                self._connection.publish(address.answers, reply)
        message.connection.acknowledge(message)


async def check_broker(broker: Broker) -> None:
    """Check that a broker, if it is there, lets this server in. InputError: it doesn't."""
    connection = BrokerConnection(broker, lambda _message: None)
    try:
        await connection.open()
    except LinkError as error:
        if connection.refused:
            raise InputError(str(error)) from error
        log.warning("%s; trying again", error)
    finally:
        await connection.close()
