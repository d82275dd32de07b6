"""The device's connection to a server: several frames in flight, every byte counted, and when to try again.

    Frame -> Stream -> Transport -> websockets -> [TLS ->] CountingSocket -> TCP/IP
    Reply <-'  matched by sequence number, a new one for each time that a frame is sent

A `Transport` is the seam for tests, shaped links and brokers: `open_websocket` is the usual one, `mqtt.open_mqtt` goes
through a broker. What websockets and the operating system raise is a LinkError or FrameError from here on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias
from urllib.parse import SplitResult, urljoin, urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from bottlenet.edge.sockets import CountingSocket, advice, network_cause, open_socket
from bottlenet.errors import BusyError, FrameError, InputError, LinkError, OverdueError, WireError
from bottlenet.wire import mqtt
from bottlenet.wire.answer import MAX_ANSWER_BYTES, Answer, one_line, parse_answer
from bottlenet.wire.frame import MESSAGE_TOO_BIG, STREAM_PATH, UNAUTHORIZED, UNKNOWN_BUNDLE, Frame

if TYPE_CHECKING:
    from websockets.http11 import Response

PORTS = {"ws": 80, "wss": 443}
IN_HEADER = re.compile(r"[!-~]([ -~]*[!-~])?")  # of what a token may have
TOKEN_ADVICE = "give a token that it knows: --token-file, or BOTTLENET_TOKEN"
CLOSE_TIMEOUT_S = 1.0
OPTIONS: dict[str, Any] = {
    **dict.fromkeys(("compression", "user_agent_header", "proxy", "ping_interval")),
    "close_timeout": CLOSE_TIMEOUT_S,
    "max_size": MAX_ANSWER_BYTES,
}

SEQUENCES = 2**16
SHORTEST_ANSWER_BYTES = 3  # up to the sequence number

FACTOR = 2.0
MAX_DOUBLINGS = 60
ROUNDING_S = 1e-6  # who sleeps until the next try must not wake an instant before it


class Transport(Protocol):
    """An open connection. Methods raise LinkError, or FrameError where the server refuses what it was sent."""

    @property
    def sent_bytes(self) -> int: ...  # since it exists, opening included
    @property
    def received_bytes(self) -> int: ...  # the same
    @property
    def closed(self) -> bool: ...  # from either side
    def send(self, message: bytes) -> None: ...
    def receive(self, timeout_s: float) -> bytes: ...  # OverdueError: none came in time, and it is still open
    def close(self) -> None: ...  # once more does no harm


Connect: TypeAlias = Callable[..., Transport]
"""Opens a transport: (URL with path and query, timeout in seconds). LinkError or FrameError: it can't.

Where there is a token, it is given as the keyword `token`: a string, or a function that gives one. In the same way
`tls`, where certificates are given.
"""


def open_websocket(
    url: str, timeout_s: float, *, tls: ssl.SSLContext | None = None, token: str | Callable[[], str] | None = None
) -> WebSocketTransport:
    """Connect to ws:// or wss:// within `timeout_s`, from looking up the name to the end of WebSocket's handshake.

    `tls` replaces the system's certificates. `token` is a bearer token, or gives it; over ws:// anybody on the way can
    read it. InputError: another kind of URL, or no token where one should be. LinkError: no such host, nobody listens,
    too slow, no WebSocket server, or one that doesn't know the token.
    """
    address = check_url(url)
    host, port = address.hostname or "", address.port or PORTS[address.scheme]
    scopeless = host.partition("%")[0]  # the scope of fe80::1%eth0 is this machine's
    headers = {} if token is None else {"Authorization": f"Bearer {for_header(token)}"}
    deadline = monotonic() + timeout_s
    stack = contextlib.ExitStack()
    try:
        tls = (tls or ssl.create_default_context()) if address.scheme == "wss" else None
        sock = open_socket(host, port, timeout_s, tls)
        # The socket does TLS itself, so for WebSocket there is none.
        netloc = f"[{scopeless}]:{port}" if ":" in scopeless else f"{scopeless}:{port}"
        plain, left_s = address._replace(scheme="ws", netloc=netloc).geturl(), max(0.001, deadline - monotonic())
        opening = connect(plain, sock=sock, additional_headers=headers, open_timeout=left_s, **OPTIONS)
        connection = stack.enter_context(opening)
    except (OSError, WebSocketException, EOFError, ValueError, RuntimeError) as error:  # the last: no thread is left
        raise unopened(error, url, token is not None) from error
    return WebSocketTransport(server_of(address), sock, stack, connection)


def for_header(token: str | Callable[[], str]) -> str:
    """Return the token. InputError: no header can hold it, which would be said with the token in the message."""
    text = token if isinstance(token, str) else token()
    if IN_HEADER.fullmatch(text) is None:
        what = "the token is empty, or has a line end, a space around it or a character beyond ASCII"
        raise InputError(f"{what}; strip it")
    return text


def server_of(address: SplitResult) -> str:
    return f"{address.scheme}://{address.netloc}"


def unopened(error: Exception, url: str, has_token: bool) -> LinkError:
    address = urlsplit(url)
    # websockets wraps the status of a redirect that it can't follow.
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, InvalidStatus):
            return LinkError(f"{server_of(address)} {rejection(cause.response, url, has_token)}")
    what_to_do = advice(error, "server", "ws")
    if isinstance(error, WebSocketException) and address.scheme == "ws":
        what_to_do += " If it speaks TLS, its address begins with wss://"
    return LinkError(f"can't connect to {server_of(address)}: {network_cause(error)}; {what_to_do}")


def rejection(response: Response, url: str, has_token: bool) -> str:
    status = f"HTTP status {response.status_code}"
    if response.status_code == 401:
        what = "does not know this token" if has_token else "lets nobody in without a token"
        return f"{what} ({status}); {TOKEN_ADVICE}"
    if response.status_code == 403:
        path = one_line(urlsplit(url).path)
        return f"refuses the path {path} ({status}); is the address right? If a proxy there wants a token, give it one"
    if 300 <= response.status_code < 400 and (location := response.headers.get("Location")):
        target = urlsplit(urljoin(url, location))
        scheme = {"http": "ws", "https": "wss"}.get(target.scheme, target.scheme)
        target = target._replace(scheme=scheme, path=target.path.removesuffix(STREAM_PATH), query="", fragment="")
        return f"redirects to another address ({status}); give that one: {one_line(target.geturl())[:200]}"
    return f"answered with {status}; is a BottleNet server there?"


def check_url(url: str, *, secret: bool = False) -> SplitResult:
    """Split a server's address, or a broker's, which needs a user where there is a `secret`. InputError: it is none."""
    if str(url).startswith(tuple(f"{scheme}://" for scheme in mqtt.PORTS)):
        return mqtt.check_broker_url(url, password=secret)
    try:
        address = urlsplit(url)
        valid = address.scheme in PORTS and address.hostname and address.port != 0 and address.username is None
    except (ValueError, AttributeError):
        valid = False
    if not valid:
        user = "@" in str(url)  # what stands before it may be a password
        text = "the server's address has a user, and a token comes from a file" if user else f"server is {url!a:.200}"
        raise InputError(f"{text}; give ws://host:port, or wss://host:port for TLS, or mqtt://host:port of a broker")
    return address


class WebSocketTransport:
    """Binary messages over a counting socket, without compression, and without pings: they would wake a radio."""

    def __init__(self, server: str, sock: CountingSocket, stack: contextlib.ExitStack, connection: ClientConnection):
        self._server = server
        self._sock = sock
        self._stack = stack
        self._connection = connection

    @property
    def sent_bytes(self) -> int:
        return self._sock.sent_bytes

    @property
    def received_bytes(self) -> int:
        return self._sock.received_bytes

    @property
    def closed(self) -> bool:
        """By a thread that listens all the time, so it is up to date."""
        return self._connection.protocol.state is not State.OPEN

    def send(self, message: bytes) -> None:
        try:
            self._connection.send(message)
        except (ConnectionClosed, OSError) as error:
            self._fail(error)

    def receive(self, timeout_s: float) -> bytes:
        """Wait for a message. LinkError: closed, none in time, or text. FrameError: closed because of what was sent."""
        try:
            message = self._connection.recv(timeout=timeout_s)
        except TimeoutError as error:
            text = f"no answer from {self._server} within {timeout_s:g} s; try again, or allow a longer timeout"
            raise OverdueError(text) from error
        except (ConnectionClosed, OSError) as error:
            self._fail(error)
        if isinstance(message, str):
            raise LinkError(f"{self._server} answered with text; is it a BottleNet server?")
        return message

    def close(self) -> None:
        """Wait at most a second for the server to agree."""
        with contextlib.suppress(OSError, WebSocketException):
            self._stack.close()

    def _fail(self, error: Exception) -> NoReturn:
        server = self._server
        if isinstance(error, ConnectionClosed) and error.sent is not None and not error.rcvd_then_sent:
            # This side closed, as it does for what it was sent, and says here why.
            text = f"{server} sent what can be no answer ({one_line(error.sent.reason)}); is it a BottleNet server?"
            raise LinkError(text) from error
        close = error.rcvd if isinstance(error, ConnectionClosed) else None
        if close is None:
            raise LinkError(f"{server} closed the connection (without a word); try again") from error
        why = one_line(close.reason)  # ends on a terminal, and anybody can send it
        if close.code == UNKNOWN_BUNDLE:
            raise FrameError(f"{server} does not serve this bundle; {why}: use the same on both sides") from error
        if close.code == UNAUTHORIZED:
            raise LinkError(f"{server} lets nobody in without a token ({why}); {TOKEN_ADVICE}") from error
        if close.code == MESSAGE_TOO_BIG:
            advice = "give a --budget of fewer bytes, or let it serve with a larger --max-payload-bytes"
            raise FrameError(f"{server} takes no frame as large as this; {advice}") from error
        raise LinkError(f"{server} closed the connection ({f'{close.code} {why}'.strip()}); try again") from error


def too_large(error: Exception) -> bool:
    """Tell whether the server closed the connection because a frame was too large for it."""
    cause = error.__cause__
    return isinstance(cause, ConnectionClosed) and cause.rcvd is not None and cause.rcvd.code == MESSAGE_TOO_BIG


@dataclass(frozen=True)
class Reply:
    """What came back for one frame."""

    number: int  # what `send` gave
    outcome: Answer | FrameError | BusyError  # answered, refused, or not now
    round_trip_ms: float  # from before it was sent until it was asked for here
    frame_bytes: int  # as one message
    sent_bytes: int  # on the socket since the last `send`, for the first one opening the connection too
    received_bytes: int  # on the socket since the last `receive`

    @property
    def answer(self) -> Answer:
        """FrameError, BusyError: the frame was refused; the connection is as good as before."""
        if not isinstance(self.outcome, Answer):
            raise self.outcome
        return self.outcome


@dataclass(frozen=True)
class Sent:
    """A frame in flight."""

    at_s: float
    frame_bytes: int
    sent_bytes: int


class Stream:
    """One connection at a time, opened when needed, for one thread. When it fails, what was in flight is lost to it."""

    def __init__(self, connect: Callable[[], Transport]) -> None:
        self._connect = connect
        self._transport: Transport | None = None
        self._next = 0  # sequence number
        self._in_flight: dict[int, Sent] = {}  # in the order of sending
        self._sent_here = 0  # frames, on this connection
        self._earlier_bytes = (0, 0)  # sent and received on earlier connections
        self._reported_bytes = (0, 0)  # of all bytes sent and received, those that are in a Reply

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.closed

    @property
    def total_bytes(self) -> tuple[int, int]:
        """Bytes sent and received on the sockets of all connections so far."""
        transport = self._transport
        sent, received = (0, 0) if transport is None else (transport.sent_bytes, transport.received_bytes)
        return self._earlier_bytes[0] + sent, self._earlier_bytes[1] + received

    def open(self) -> Transport:
        """Connect, where it isn't. LinkError or FrameError: it can't."""
        if self._transport is not None and self._transport.closed and not self._in_flight:
            self.close()  # the server went away between two frames
        if self._transport is None:
            self._transport = self._connect()
            self._sent_here = 0
        return self._transport

    def ask(self, frame: Frame, timeout_s: float) -> Reply:
        """Send one frame alone, and wait for its answer. Errors as for `send`, `receive` and `Reply.answer`."""
        self.send(frame)
        reply = self.receive(timeout_s)
        reply.answer  # noqa: B018  # raises a refusal
        return reply

    def send(self, frame: Frame) -> int:
        """Send a frame, and return its Reply's number. LinkError, FrameError: all in flight is lost."""
        if not self._in_flight:
            self._reported_bytes = self.total_bytes  # what went over the socket since is nobody's
        transport = self.open()
        number, self._next = self._next, (self._next + 1) % SEQUENCES
        message = dataclasses.replace(frame, sequence=number).to_stream_bytes()
        started_s = perf_counter()
        try:
            transport.send(message)
        except BaseException:
            self.close()  # half of it may be on the way
            raise
        self._sent_here += 1
        sent_bytes = self.total_bytes[0] - self._reported_bytes[0]
        self._reported_bytes = (self.total_bytes[0], self._reported_bytes[1])
        self._in_flight[number] = Sent(started_s, len(message), sent_bytes)
        return number

    def receive(self, timeout_s: float) -> Reply:
        """Wait for the next answer, in whatever order they come; those that come twice are left out.

        LinkError: closed, or one is overdue. FrameError: closed because of what was sent. WireError: it makes no sense.
        With any of them, all that is in flight is lost.
        """
        try:
            return self._receive(timeout_s)
        except BaseException:
            self.close()  # an answer that comes late must not be taken for another frame's
            raise

    def close(self) -> None:
        """End the connection; what is in flight is forgotten. The next frame opens another."""
        self._earlier_bytes = self.total_bytes
        transport, self._transport = self._transport, None
        self._in_flight.clear()
        if transport is not None:
            transport.close()

    def _receive(self, timeout_s: float) -> Reply:
        transport = self._transport
        assert transport is not None, "nothing was sent"
        deadline, left_s = monotonic() + timeout_s, timeout_s
        while True:
            data = transport.receive(left_s)
            number = int.from_bytes(data[1:SHORTEST_ANSWER_BYTES], "big")
            outcome: Answer | FrameError | BusyError
            try:
                outcome = parse_answer(data)
            except (FrameError, BusyError) as refusal:
                outcome = refusal
            sent = self._in_flight.pop(number, None)
            if sent is not None:
                break
            if (self._next - 1 - number) % SEQUENCES >= self._sent_here:  # no frame of this connection had the number
                raise WireError(f"the server answered frame {number}, which was not sent; try again")
            left_s = deadline - monotonic()
            if left_s <= 0:
                raise LinkError(f"nothing but answers that had come before, for {timeout_s:g} s; try again")
        # As long as later frames are answered nobody waits in vain, so one that was left out must be looked for.
        oldest = next(iter(self._in_flight.values()), sent)
        if oldest.at_s < sent.at_s and perf_counter() - oldest.at_s > timeout_s:
            raise LinkError(f"later frames were answered, but one was not within {timeout_s:g} s; try again")
        received_bytes = self.total_bytes[1] - self._reported_bytes[1]
        self._reported_bytes = (self._reported_bytes[0], self.total_bytes[1])
        round_trip_ms = (perf_counter() - sent.at_s) * 1e3
        return Reply(number, outcome, round_trip_ms, sent.frame_bytes, sent.sent_bytes, received_bytes)


class Backoff:
    """When to try again: exponential backoff with jitter, a cap, and a deadline.

        failed -> wait first_s, 2 * first_s, 4 * first_s, ... up to cap_s, each between half and all of it -> try

    The jitter keeps a fleet that lost the same server from coming back all at once. `clock` gives seconds that never
    go back, `rng` numbers from 0 to 1. InputError: `first_s` or `deadline_s` not above 0, or `cap_s` below `first_s`.
    """

    def __init__(
        self,
        *,
        first_s: float = 0.5,
        cap_s: float = 60.0,
        deadline_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < first_s <= cap_s < math.inf:
            waits = f"the first wait is {first_s} s, and the longest {cap_s} s"
            raise InputError(f"{waits}; give seconds above 0, and a longest that is not below the first")
        if not deadline_s > 0:
            raise InputError(f"deadline is {deadline_s} s; give seconds above 0")
        self.clock = clock
        self.expired = False  # whether a try failed after the deadline
        self._first_s = first_s
        self._cap_s = cap_s
        self._deadline_s = deadline_s
        self._rng = rng
        self._failures = 0
        self._failing_since = 0.0
        self._next = -math.inf

    @property
    def wait_s(self) -> float:
        """Seconds until the next try; 0: now."""
        wait_s = self._next - self.clock()
        return wait_s if wait_s > ROUNDING_S else 0.0

    def failed(self, hint_s: float = 0.0) -> float:
        """Count a failure, and return the seconds until the next try: at least `hint_s`, which the server asked for.

        The last try is at the deadline; if that fails too, `expired` is true.
        """
        now = self.clock()
        if self._failures == 0:
            self._failing_since = now
        left_s = self._failing_since + self._deadline_s - now
        step_s = min(self._cap_s, self._first_s * FACTOR ** min(self._failures, MAX_DOUBLINGS))
        self.expired = left_s <= 0
        self._failures += 1
        wait_s = step_s * (1 + self._rng()) / 2
        if left_s > 0:
            wait_s = min(wait_s, left_s)
        self._next = now + max(wait_s, hint_s * (1 + self._rng() / 4))
        return self.wait_s

    def worked(self) -> None:
        """Let the next failure count as the first. The wait that the server asked for still holds."""
        self._failures = 0
        self.expired = False


def hint_s(error: Exception) -> float:
    """Return the seconds after which the server wants to be asked again; 0 where it did not say."""
    return error.retry_after_s if isinstance(error, BusyError) else 0.0
