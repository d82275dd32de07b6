"""A connection to the servers through a broker, with MQTT 5. Needs bottlenet[mqtt].

    send:    frame  -> PUBLISH, QoS 1 -> broker -> one of the servers
    receive: answer <- PUBLISH, QoS 0 <- broker <- that server

A frame is acknowledged by the broker, which says at once if no server is there to take it. An answer is not: one that
is lost is asked for again, as with any other transport, and an acknowledgement would cost bytes on the dear way up.
After the first frame the topic is a number, so a message has 11 bytes of MQTT before the frame's.
"""

import contextlib
import queue
import ssl
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, urlsplit

from paho.mqtt.client import MQTT_ERR_SUCCESS, DisconnectFlags, MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from bottlenet.broker import NO_SUBSCRIBER, NOT_AUTHORIZED, BoundedClient, Broker, broker_at, properties_of, refused
from bottlenet.edge.connection import CLOSE_TIMEOUT_S
from bottlenet.edge.sockets import CountingSocket, advice, network_cause, open_socket
from bottlenet.errors import LinkError, OverdueError
from bottlenet.wire.answer import MAX_ANSWER_BYTES, refusal_bytes
from bottlenet.wire.mqtt import MAX_MESSAGE_BYTES, new_address

KEEPALIVE_S = 3600  # then the broker forgets a device that says nothing; no pings before, which would wake a radio
TOPIC_BYTES = 200  # and the rest of a packet's header, more than it ever has
MAX_REPLIES = 4096  # that came and were not asked for: more than frames can be in flight
MAX_REPLY_BYTES = 2**26  # of all that wait to be looked at: 64 of the largest maps
ALIAS = 1


class CountingClient(BoundedClient):
    """An MQTT client on a socket that counts, and does TLS itself."""

    def __init__(self, broker: Broker, client_id: str) -> None:
        super().__init__(broker, client_id, MAX_ANSWER_BYTES)
        self.counted: CountingSocket | None = None
        self.max_inflight_messages_set(0)  # the transport holds frames back itself

    def _create_socket(self) -> CountingSocket:
        broker = self._broker
        self.counted = open_socket(broker.host, broker.port, self.connect_timeout, broker.tls)
        return self.counted


class MqttTransport:
    """Takes frames of one bundle to its servers, and brings answers. A thread listens; sending is for one thread."""

    def __init__(self, broker: Broker, bundle: str, timeout_s: float) -> None:
        self._broker = broker
        self._timeout_s = timeout_s
        self._address = new_address(broker.user)
        self._topic = self._address.frames(bundle)
        self._bundle = bundle
        self._properties: Properties | None = None  # with the number of the topic, where the broker takes one
        self._max_bytes = MAX_MESSAGE_BYTES
        self._window = 1  # frames that the broker need not have acknowledged
        self._unacknowledged = 0  # that it hasn't
        self._replies: queue.Queue[bytes | None] = queue.Queue()  # None: there will be no more
        self._reply_bytes = 0  # that are in there
        self._opening: queue.SimpleQueue[ReasonCode | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._failure: LinkError | None = None
        client = CountingClient(broker, f"{self._address.device}-{self._address.session}")
        client.on_connect = self._on_connect
        client.on_subscribe = lambda _client, _data, _mid, codes, _properties: self._opening.put(codes[0])
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        self._client = client
        self._thread = threading.Thread(target=self._listen, name="bottlenet-mqtt", daemon=True)

    @property
    def sent_bytes(self) -> int:
        return 0 if self._client.counted is None else self._client.counted.sent_bytes

    @property
    def received_bytes(self) -> int:
        return 0 if self._client.counted is None else self._client.counted.received_bytes

    @property
    def closed(self) -> bool:
        return self._failure is not None

    def open(self) -> None:
        """Connect, and listen for answers, in the time allowed. LinkError: nobody there, not let in, or too slow."""
        broker, deadline = self._broker, monotonic() + self._timeout_s
        try:
            self._client.dial(self._timeout_s, KEEPALIVE_S)
            assert self._client.counted is not None
            self._client.counted.setblocking(True)  # paho-mqtt's is not; `open_socket` limits how long sending may take
            self._thread.start()
        except (OSError, ValueError, RuntimeError) as error:  # the last: no thread is left
            what_to_do = advice(error, "broker", "mqtt")
            raise LinkError(f"can't connect to {broker.name}: {network_cause(error)}; {what_to_do}") from error
        if (code := self._opened(deadline)).is_failure:
            raise refused(broker, code)
        self._client.subscribe(self._address.answers, 0)
        self._flush()
        if (code := self._opened(deadline)).is_failure:
            raise LinkError(f"{broker.name} does not let this device listen to {self._address.answers} ({code}); {ACL}")

    def send(self, message: bytes) -> None:
        """Send one message. LinkError: closed, or the broker takes nothing. One that is too large is refused here."""
        if len(message) > self._max_bytes:
            text = f"a frame of {len(message)} bytes; {self._broker.name} takes up to {self._max_bytes}: reduce more"
            self._replies.put(refusal_bytes(int.from_bytes(message[2:4], "big"), text))
            return
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._unacknowledged < self._window, self._timeout_s)
            if self._failure is not None:
                raise self._failure
            if self._unacknowledged >= self._window:
                raise LinkError(f"{self._broker.name} acknowledges nothing, for {self._timeout_s:g} s; try again")
            self._unacknowledged += 1
        self._client.publish(self._topic, message, 1, properties=self._properties)
        self._flush()
        if self._properties is not None:
            self._topic = ""  # from now on the number stands for it

    def receive(self, timeout_s: float) -> bytes:
        """Wait for the next answer. LinkError: closed, none in time, or no server takes frames of this bundle."""
        try:
            reply = self._replies.get(timeout=timeout_s)
        except queue.Empty as error:
            text = f"no answer through {self._broker.name} within {timeout_s:g} s; try again, or allow a longer timeout"
            raise OverdueError(text) from error
        if reply is None:
            self._replies.put(None)  # for whoever asks again
            assert self._failure is not None
            raise self._failure
        with self._changed:
            self._reply_bytes -= len(reply)
        return reply

    def close(self) -> None:
        if self._failure is None:
            with contextlib.suppress(OSError):
                self._client.disconnect()
                self._client.loop_write()
            self._fail(LinkError(f"the connection to {self._broker.name} was closed here"))
        if self._client.counted is not None:
            self._client.counted.close()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _opened(self, deadline: float) -> ReasonCode:
        try:
            code = self._opening.get(timeout=max(0.0, deadline - monotonic()))
        except queue.Empty as error:
            text = f"{self._broker.name} did not answer within {self._timeout_s:g} s; is it a broker for MQTT 5?"
            raise LinkError(text) from error
        if code is None:
            assert self._failure is not None
            raise self._failure
        return code

    def _flush(self) -> None:
        """Send what paho-mqtt leaves lying where the other thread is just in one of its callbacks."""
        self._client.loop_write()
        if self._failure is not None:
            raise self._failure
        if self._client.want_write():
            raise LinkError(f"{self._broker.name} takes nothing, for {self._timeout_s:g} s; try again")

    def _listen(self) -> None:
        """Listen until the connection ends. The socket blocks, and with it each step of the loop."""
        try:
            while self._client.loop_read() == MQTT_ERR_SUCCESS:
                pass
        except Exception as error:  # paho-mqtt raises anything on bytes that are no MQTT
            what = f"{self._broker.name} sent what is no MQTT ({network_cause(error)})"
            self._fail(LinkError(f"{what}; is a broker there?"))
        self._fail(LinkError(f"{self._broker.name} closed the connection; try again"))

    def _fail(self, error: LinkError) -> None:
        """End with this reason, unless there is one, and wake everybody who waits."""
        with self._changed:
            if self._failure is not None:
                return
            self._failure = error
            self._changed.notify_all()
        self._replies.put(None)
        self._opening.put(None)

    def _on_connect(self, client: Any, data: Any, flags: Any, code: ReasonCode, properties: Properties | None) -> None:
        limits: dict[str, Any] = {} if properties is None else vars(properties)
        self._window = limits.get("ReceiveMaximum", 2**16 - 1)
        self._max_bytes = min(MAX_MESSAGE_BYTES, max(0, limits.get("MaximumPacketSize", 2**28) - TOPIC_BYTES))
        if limits.get("TopicAliasMaximum", 0) >= ALIAS:
            self._properties = properties_of(PacketTypes.PUBLISH, TopicAlias=ALIAS)
        self._opening.put(code)

    def _on_publish(self, client: Any, data: Any, mid: int, code: ReasonCode, properties: Any) -> None:
        with self._changed:
            self._unacknowledged -= 1
            self._changed.notify_all()
        name = self._broker.name
        if code.value == NO_SUBSCRIBER:
            text = f"no server takes frames of bundle {self._bundle[:12]} from {name}; is one running with it?"
            self._fail(LinkError(text))
        elif code.value == NOT_AUTHORIZED:
            self._fail(LinkError(f"{name} does not let this device send its frames ({code}); {ACL}"))
        elif code.is_failure:
            self._fail(LinkError(f"{name} did not take a frame ({code}); try again"))

    def _on_message(self, client: object, data: object, message: MQTTMessage) -> None:
        reply = bytes(message.payload)
        with self._changed:
            self._reply_bytes += len(reply)
            room = self._replies.qsize() < MAX_REPLIES and self._reply_bytes <= MAX_REPLY_BYTES
        if room:
            self._replies.put(reply)
        else:
            self._fail(LinkError(f"{self._broker.name} brings answers that nobody asked for; {ACL}"))

    def _on_disconnect(self, client: Any, data: Any, flags: DisconnectFlags, code: ReasonCode, properties: Any) -> None:
        why = f" ({code})" if flags.is_disconnect_packet_from_server else ""
        self._fail(LinkError(f"{self._broker.name} closed the connection{why}; try again"))


def open_mqtt(
    url: str, timeout_s: float, *, tls: ssl.SSLContext | None = None, token: str | Callable[[], str] | None = None
) -> MqttTransport:
    """Connect to mqtt:// or mqtts://[USER@]HOST[:PORT]?bundle=ID. USER is also the device's name in topics.

    `token` is the user's password, or gives it. InputError: another URL, or the password can't be read. LinkError: no
    such host, nobody listens, too slow, no broker for MQTT 5, or one that knows no such user.
    """
    bundle = parse_qs(urlsplit(url).query)["bundle"][-1]
    transport = MqttTransport(broker_at(url, password=token, tls=tls), bundle, timeout_s)
    try:
        transport.open()
    except BaseException:
        transport.close()
        raise
    return transport


ACL = "see what its access control list allows: docs/operating.md"
