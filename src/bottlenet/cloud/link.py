"""One connection to a broker, on an event loop: paho-mqtt without a thread. Needs bottlenet[mqtt].

    open -> subscribe -> came(message) ... publish, done(message) -> close

A message counts as taken only with `done`, and no more than MAX_UNACKNOWLEDGED are on their way: that is what bounds
the memory of this side, whatever the broker has.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from bottlenet.errors import LinkError
from bottlenet.wire.mqtt import MAX_MESSAGE_BYTES

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
