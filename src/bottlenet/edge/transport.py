"""A connection to a server: messages there, messages back, and how many bytes it took.

    Edge -> Transport -> network        open_websocket is the real one, or open_mqtt of mqtt.py, where a broker is
                                        between; tests and shaped links bring their own

What websockets and the operating system raise is a LinkError or FrameError from here on.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from typing import NoReturn, Protocol, TypeAlias
from urllib.parse import SplitResult, urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from bottlenet.edge.sockets import CountingSocket, open_socket
from bottlenet.errors import FrameError, InputError, LinkError, MissingExtraError, OverdueError
from bottlenet.wire import mqtt
from bottlenet.wire.answer import MAX_ANSWER_BYTES, one_line
from bottlenet.wire.protocol import MESSAGE_TOO_BIG, UNAUTHORIZED, UNKNOWN_BUNDLE

UNAUTHORIZED_STATUS = (401, 403)
TOKEN_ADVICE = "give a token that it knows: --token-file, or BOTTLENET_TOKEN"
CLOSE_TIMEOUT_S = 1.0
PORTS = {"ws": 80, "wss": 443}


class Transport(Protocol):
    """An open connection. Methods raise LinkError, or FrameError where the server refuses what it was sent."""

    @property
    def sent_bytes(self) -> int:
        """Since it exists, opening included."""

    @property
    def received_bytes(self) -> int:
        """Since it exists, opening included."""

    @property
    def closed(self) -> bool:
        """Whether it has ended, from either side."""

    def send(self, message: bytes) -> None:
        """One message."""

    def receive(self, timeout_s: float) -> bytes:
        """The next message."""

    def close(self) -> None:
        """End it; once more does no harm."""


Connect: TypeAlias = Callable[..., Transport]
"""Opens a transport: (URL with path and query, timeout in seconds). LinkError or FrameError: it can't.

Where there is a token, it is given as the keyword `token`: a string, or a function that gives one. In the same way
`tls`, where certificates are given.
"""


class WebSocketTransport:
    """Binary WebSocket messages over a counting socket, without compression and without keepalive pings.

    A ping would wake a radio every 20 s; that a link is dead shows when a photo gets no answer.
    """

    def __init__(self, url: str, sock: CountingSocket, stack: contextlib.ExitStack, connection: ClientConnection):
        self._url = url
        self._sock = sock
        self._stack = stack
        self._connection = connection

    @property
    def sent_bytes(self) -> int:
        """On the socket."""
        return self._sock.sent_bytes

    @property
    def received_bytes(self) -> int:
        """On the socket."""
        return self._sock.received_bytes

    @property
    def closed(self) -> bool:
        """By a thread that listens all the time, so it is up to date."""
        return self._connection.protocol.state is not State.OPEN

    def send(self, message: bytes) -> None:
        """LinkError: closed, or the server takes nothing."""
        try:
            self._connection.send(message)
        except (ConnectionClosed, OSError) as error:
            self._fail(error)

    def receive(self, timeout_s: float) -> bytes:
        """LinkError: closed, no answer in time, or text. FrameError: the server closed because of what was sent."""
        try:
            message = self._connection.recv(timeout=timeout_s)
        except TimeoutError as error:
            text = f"no answer from {self._url} within {timeout_s:g} s; try again, or allow a longer timeout"
            raise OverdueError(text) from error
        except (ConnectionClosed, OSError) as error:
            self._fail(error)
        if isinstance(message, str):
            raise LinkError(f"{self._url} answered with text; is it a BottleNet server?")
        return message

    def close(self) -> None:
        """Waits at most a second for the server to agree."""
        with contextlib.suppress(OSError, WebSocketException):
            self._stack.close()

    def _fail(self, error: Exception) -> NoReturn:
        if isinstance(error, ConnectionClosed) and error.sent is not None and not error.rcvd_then_sent:
            # This side closed, as it does for what it was sent, and says here why.
            text = f"{self._url} sent what can be no answer ({one_line(error.sent.reason)}); is it a BottleNet server?"
            raise LinkError(text) from error
        close = error.rcvd if isinstance(error, ConnectionClosed) else None
        told = one_line(close.reason) if close is not None else ""  # ends on a terminal, and anybody can send it
        if close is not None and close.code == UNKNOWN_BUNDLE:
            raise FrameError(f"{self._url} does not serve this bundle; {told}: use the same on both sides") from error
        if close is not None and close.code == UNAUTHORIZED:
            raise LinkError(f"{self._url} lets nobody in without a token ({told}); {TOKEN_ADVICE}") from error
        if close is not None and close.code == MESSAGE_TOO_BIG:
            raise FrameError(f"{self._url} takes no frame as large as this; reduce more") from error
        why = f"{close.code} {told}".strip() if close is not None else "without a word"
        raise LinkError(f"{self._url} closed the connection ({why}); try again") from error


def too_large(error: Exception) -> bool:
    """Whether the server closed the connection because a frame was too large for it."""
    cause = error.__cause__
    return isinstance(cause, ConnectionClosed) and cause.rcvd is not None and cause.rcvd.code == MESSAGE_TOO_BIG


def open_websocket(
    url: str,
    timeout_s: float,
    *,
    tls: ssl.SSLContext | None = None,
    token: str | Callable[[], str] | None = None,
) -> WebSocketTransport:
    """Connect to ws:// or wss://; `tls` replaces the system's certificates, as for a server with one of its own.

    `token` is a bearer token, or a function that gives the one of now. Over ws:// anybody on the way can read it.

    InputError: another kind of URL, or no token where one should be. LinkError: no such host, nobody listens, too
    slow, no WebSocket server, or one that doesn't know the token.
    """
    parts = check_url(url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    server = f"{parts.scheme}://{parts.netloc}"
    headers = {} if token is None else {"Authorization": f"Bearer {token if isinstance(token, str) else token()}"}
    tls = (tls or ssl.create_default_context()) if parts.scheme == "wss" else None
    stack = contextlib.ExitStack()
    try:
        sock = open_socket(host, port, timeout_s, tls)
        # The socket does TLS itself, so for WebSocket there is none.
        plain_url = parts._replace(scheme="ws", netloc=f"{bracketed(host)}:{port}").geturl()
        connection = stack.enter_context(
            connect(
                plain_url,
                sock=sock,
                additional_headers=headers,
                compression=None,
                user_agent_header=None,
                proxy=None,
                open_timeout=timeout_s,
                ping_interval=None,
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=MAX_ANSWER_BYTES,
            )
        )
    except InvalidStatus as error:
        status = error.response.status_code
        if status in UNAUTHORIZED_STATUS:
            raise LinkError(
                f"{server} lets nobody in without a token (HTTP status {status}); {TOKEN_ADVICE}"
            ) from error
        raise LinkError(f"{server} answered with HTTP status {status}; is a BottleNet server there?") from error
    except (OSError, WebSocketException, EOFError, ValueError) as error:
        raise LinkError(f"can't connect to {server}: {reason(error)}; is the server running there?") from error
    return WebSocketTransport(server, sock, stack, connection)


def check_url(url: str, *, secret: bool = False) -> SplitResult:
    """InputError: not ws:// or wss:// with a host, or a port that is none; nor a broker's address, which needs a user
    where there is a `secret`.
    """
    if str(url).startswith(tuple(f"{scheme}://" for scheme in mqtt.PORTS)):
        return mqtt.check_broker_url(url, password=secret)
    try:
        parts = urlsplit(url)
        valid = parts.scheme in PORTS and parts.hostname and parts.port != 0 and parts.username is None
    except (ValueError, AttributeError):
        valid = False
    if not valid:
        text = f"server is {url!a}; give ws://host:port, or wss://host:port for TLS, or mqtt://host:port of a broker"
        raise InputError(text)
    return parts


def opener_of(url: str) -> Connect:
    """What opens a connection to it. MissingExtraError: a broker's, without bottlenet[mqtt]."""
    scheme = urlsplit(url).scheme
    if scheme not in mqtt.PORTS:
        return open_websocket
    try:
        from bottlenet.edge.mqtt import open_mqtt
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "paho":
            raise
        raise MissingExtraError(f"{scheme}://", "mqtt") from error
    return open_mqtt


def bracketed(host: str) -> str:
    """An IPv6 address as a URL wants it."""
    return f"[{host}]" if ":" in host else host


def reason(error: Exception) -> str:
    """What an operating system, TLS or WebSocket says, in a few words."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror.lower()
    return " ".join(str(error).split())[:200] or type(error).__name__
