"""An MQTT broker, the same way on both sides: its address, the credentials, and the words for a refusal.

    URL, password, TLS -> Broker -> BoundedClient -> paho-mqtt -> broker

Needs bottlenet[mqtt]. MQTT 5: shared subscriptions, and reasons when something is refused, are in no earlier one.
"""

import selectors
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from bottlenet.dial import connect_host, seconds_until, without_scope
from bottlenet.errors import LinkError
from bottlenet.wire.mqtt import GROUP, PORTS, check_broker_url, check_name

# Of MQTT 5, chapter 2.4:
NO_SUBSCRIBER = 0x10
NOT_AUTHORIZED = 0x87
CREDENTIALS = (0x86, NOT_AUTHORIZED)  # bad user name or password; brokers tell both as either


@dataclass(frozen=True)
class Broker:
    """The address of a broker, and the credentials there. Make it with `broker_at`."""

    name: str  # for people: its URL, without the user
    host: str
    port: int
    user: str | None
    password: Callable[[], str] | None = field(repr=False)
    tls: ssl.SSLContext | None = field(repr=False)
    group: str = GROUP  # of servers; each frame goes to one of them


def broker_at(
    url: str, *, password: str | Callable[[], str] | None = None, tls: ssl.SSLContext | None = None, group: str = GROUP
) -> Broker:
    """Read mqtt://[USER@]HOST[:PORT], or mqtts:// for TLS; the ports are 1883 and 8883 where the URL has none.

    `password` may be a function, which is asked at each connection. `tls` replaces the system's certificates.
    InputError: see `check_broker_url`; or a group that can't be part of a topic.
    """
    parts = check_broker_url(url, password=password is not None)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    name = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    ask = (lambda: password) if isinstance(password, str) else password
    context = (tls or ssl.create_default_context()) if parts.scheme == "mqtts" else None
    return Broker(name, host, port, parts.username, ask, context, check_name("group", group))


class BoundedClient(Client):
    """paho-mqtt's client for MQTT 5, which alone would read a packet of any size; there may be 256 MB in one.

    `max_packet_bytes` is the most that the broker may send at once, and is held to. InputError: the password can't be
    read just now.
    """

    def __init__(self, broker: Broker, client_id: str, max_packet_bytes: int, *, manual_ack: bool = False) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTv5,
            reconnect_on_failure=False,
            manual_ack=manual_ack,
        )
        self._broker = broker
        self._max_packet_bytes = max_packet_bytes
        self.username_pw_set(broker.user, None if broker.password is None else broker.password())

    def dial(self, timeout_s: float, keepalive_s: int, receive_maximum: int | None = None) -> None:
        """Connect within `timeout_s`, TLS included; `receive_maximum` frames may be unacknowledged. OSError."""
        properties = properties_of(PacketTypes.CONNECT, MaximumPacketSize=self._max_packet_bytes)
        if receive_maximum is not None:
            properties.ReceiveMaximum = receive_maximum
        self.connect_timeout = timeout_s
        self.connect(self._broker.host, self._broker.port, keepalive_s, properties=properties)

    def _create_socket(self) -> socket.socket:
        # Its own has a time for each read of a TLS handshake, which bytes that trickle in start again.
        broker, deadline = self._broker, monotonic() + self.connect_timeout
        sock = connect_host(broker.host, broker.port, socket.socket, deadline)
        try:
            return sock if broker.tls is None else shake_hands(sock, broker.tls, broker.host, deadline)
        except BaseException:
            sock.close()
            raise

    def _sock_recv(self, bufsize: int) -> bytes:
        # It asks for a packet as a whole, so nothing of a larger one is read.
        if bufsize > self._max_packet_bytes:
            raise ConnectionError(f"a packet of {bufsize} bytes; {self._max_packet_bytes} were allowed")
        return super()._sock_recv(bufsize)


def shake_hands(sock: socket.socket, tls: ssl.SSLContext, host: str, deadline: float) -> ssl.SSLSocket:
    """Start TLS as a client, on a socket that does not block, until `deadline`. OSError: it can't, or is too slow."""
    secure = tls.wrap_socket(sock, server_hostname=without_scope(host), do_handshake_on_connect=False)
    try:
        with selectors.DefaultSelector() as waiting:
            while True:
                try:
                    secure.do_handshake()
                    return secure
                except ssl.SSLWantReadError:
                    event = selectors.EVENT_READ
                except ssl.SSLWantWriteError:
                    event = selectors.EVENT_WRITE
                waiting.register(secure, event)
                waiting.select(seconds_until(deadline))
                waiting.unregister(secure)
    except BaseException:
        secure.close()
        raise


def properties_of(packet: int, **values: int) -> Properties:
    """Set properties of a packet of this type."""
    properties = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def refused(broker: Broker, code: ReasonCode) -> LinkError:
    """Explain a broker's refusal of a connection."""
    if code.value in CREDENTIALS:
        who = f"user {broker.user}" if broker.user else "who has no name"
        what = f"{broker.name} lets {who} not in with{'' if broker.password else 'out'} a password ({code})"
        return LinkError(f"{what}; give what it knows: mqtt://USER@HOST, and the file with the password")
    return LinkError(f"{broker.name} takes no connection ({code}); is it a broker for MQTT 5?")
