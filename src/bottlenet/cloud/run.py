"""One process that serves: uvicorn around `create_app`, from loading the tails to the last answer.

    load the tails -> open port -> announce the URL -> serve -> SIGINT, SIGTERM or end of input -> answer what was taken
    listener -> accept -> room, for all and for this address? -> TLS -> `Connection`

Log lines go to standard error: text for people, or one JSON object each for machines. They hold what happened to whom,
never a token, a query or a payload. The libraries underneath would write those at their most talkative, so they stay
at warnings whatever level is set.

Needs bottlenet[cloud].
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette

from bottlenet.bundle import Bundle
from bottlenet.cloud.admission import Access, Addresses, Limits
from bottlenet.cloud.app import create_app
from bottlenet.cloud.batcher import start
from bottlenet.cloud.connections import Connection, StreamConnection, stream_options
from bottlenet.errors import InputError

if TYPE_CHECKING:
    from bottlenet.broker import Broker

log = logging.getLogger(__name__)

CLOSE_S = 2  # for connections to close when all is answered
SIGNALS = (signal.SIGINT, signal.SIGTERM)
STANDARD_INPUT = 0
BACKLOG = 1024
LOOK_EVERY_S = 0.02
MAX_LINGERING = 64  # connections at once that are told to come later; others are closed without a word
LINGER_S = 1.0
TLS_CLOSE_S = 1.0
OUT_OF_FILES_S = 0.1
FULL = (
    "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{}"
)
WHY = {  # by the kind of refusal
    "connections": '{"error": "too many connections; try again in 1 s"}',
    "address": '{"error": "too many connections of this address that have shown no token; try again in 1 s"}',
}
SPARE_FILES = 128  # beside connections: the listener, bundles, the event loop's own


class Server(uvicorn.Server):
    """uvicorn with limits on connections, which announces that it takes them, and answers all before it ends."""

    def __init__(
        self, app: Starlette, limits: Limits, tls: ssl.SSLContext | None, announce: Callable[[], None]
    ) -> None:
        super().__init__(configure(app, limits))
        self._service = app.state.service
        self._limits = limits
        self._tls = tls
        self._announce = announce
        self._tls_limits: dict[str, float] = {}
        if tls is not None:  # the second for a goodbye that does not come: half a minute by default
            self._tls_limits = {"ssl_handshake_timeout": limits.first_byte_s, "ssl_shutdown_timeout": TLS_CLOSE_S}
        self._addresses = Addresses(limits.max_per_address)
        self._accepting: set[asyncio.Task[None]] = set()
        self._beginning: set[asyncio.Task[None]] = set()
        self._lingering: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(uvicorn.config.STARTUP_FAILURE)
        self.servers = []
        for sock in sockets or []:
            start(self._accept_for_ever(sock), self._accepting)
        # What is there now stays, all of Python's modules among it. A collector that looks through them again and again
        # would take a tenth of the time of a busy server.
        gc.collect()
        gc.freeze()
        self.started = True
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._accepting:
            task.cancel()
        await asyncio.wait(self._accepting)
        for sock in sockets or []:
            sock.close()
        await self._service.stop()
        # Streams have been told; closed before the other side agrees, with frames of it unread, the last answers may
        # be lost on the way.
        loop, connections = asyncio.get_running_loop(), self.server_state.connections
        deadline = loop.time() + CLOSE_S
        while loop.time() <= deadline and any(isinstance(each, StreamConnection) for each in connections):
            await asyncio.sleep(LOOK_EVERY_S)
        # Clients that take no answer; uvicorn would cancel their requests a moment later, with a traceback for each.
        loop.call_later(CLOSE_S / 2, self._abort)
        await super().shutdown()

    async def _accept_for_ever(self, listener: socket.socket) -> None:
        """Accept until cancelled. Connections that are open then stay open."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:  # out of files, or it was gone before it was here
                log.warning("can't accept a connection: %s", error.strerror)
                await asyncio.sleep(OUT_OF_FILES_S)
                continue
            sock.setblocking(False)
            if len(self.server_state.connections) + len(self._beginning) >= self._limits.max_connections:
                self._turn_away(sock, "connections")
            elif (leave := self._addresses.take(address[0])) is None:
                self._turn_away(sock, "address")
            else:
                start(self._begin(sock, leave), self._beginning)

    def _turn_away(self, sock: socket.socket, kind: str) -> None:
        """Refuse with a reason, where that is possible and does not bind too much."""
        self._refused(kind)
        if len(self._lingering) < MAX_LINGERING and self._tls is None:
            start(self._refuse(sock, kind), self._lingering)
        else:
            sock.close()

    async def _begin(self, sock: socket.socket, leave: Callable[[], None]) -> None:
        """Shake hands; then it is one of `connections`, which gives its place back."""
        cut_when_stuck(sock, self._limits.request_s)
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: self._make(leave), sock, ssl=self._tls, **self._tls_limits)
        except OSError as error:  # no TLS, too slow, or gone; ssl.SSLError is one
            log.info("a connection failed: %s", error.strerror or error)
            leave()
            sock.close()

    async def _refuse(self, sock: socket.socket, kind: str) -> None:
        """Answer the request: earlier, or with some of it unread, many clients would not see the reason."""
        loop = asyncio.get_running_loop()

        async def answer() -> None:
            await loop.sock_recv(sock, 65536)
            await loop.sock_sendall(sock, FULL.format(len(WHY[kind]), WHY[kind]).encode())
            sock.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(sock, 65536):
                pass

        with sock, contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(answer(), LINGER_S)

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _make(self, leave: Callable[[], None]) -> Connection:
        state, server_state = self.lifespan.state, self.server_state
        return Connection(self._limits, leave, self._refused, state, config=self.config, server_state=server_state)

    def _refused(self, kind: str) -> None:
        self._service.metrics.refused("connection", kind)
        log.info("refused: %s", kind)


def cut_when_stuck(sock: socket.socket, seconds: float) -> None:
    """Have the system end a connection whose other side takes nothing for that long, or has vanished."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(int(seconds * 1000), 2**31 - 1))


def serve(
    bundles: Sequence[Bundle],
    announce: Callable[[str], None],
    limits: Limits | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    access: Access | None = None,
    broker: Broker | None = None,
    stop_with_input: bool = False,
    **options: Any,
) -> None:
    """Serve until SIGINT or SIGTERM, then return; what was taken is answered first, for up to `limits.grace_s`.

    Port 0 is any that is free. `announce` gets "host:port" as soon as connections are taken. Other `options` are those
    of `create_app`. InputError: an address that can't be listened on, or that others reach without --insecure, files
    for TLS that can't be used, a broker that does not let this server in, or see `create_app`. BundleError: the same.
    """
    limits, access = limits or Limits(), access or Access()
    tls = access.context()
    allow_files(limits.max_connections + SPARE_FILES)
    with open_port(host, port) as listener:
        access.check(listener.getsockname()[0])
        of_access: dict[str, Any] = {"tokens": access.tokens, "insecure": access.insecure}
        app = create_app(bundles, limits, broker=broker, **of_access, **options)
        if broker is not None:
            from bottlenet.cloud.mqtt import check_broker

            asyncio.run(check_broker(broker))
        server = Server(app, limits, tls, lambda: announce(address(listener)))

        def stop() -> None:
            server.should_exit = True

        # uvicorn puts its own handlers in place while it runs and, when it has stopped, raises the signal again for
        # those that were there before. With the default ones that would end the process as killed, not as done.
        with told_to(stop, stop_with_input):
            server.run(sockets=[listener])


@contextlib.contextmanager
def told_to(stop: Callable[[], None], stop_with_input: bool) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM until the block ends, or at the end of standard input if `stop_with_input`."""

    def wait() -> None:
        # Not through sys.stdin: a thread that waits in there when the process ends makes Python abort.
        with contextlib.suppress(OSError):  # closed from the start
            while os.read(STANDARD_INPUT, 4096):
                pass
        stop()

    before = {number: signal.signal(number, lambda _number, _frame: stop()) for number in SIGNALS}
    if stop_with_input:
        threading.Thread(target=wait, daemon=True).start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def configure(app: Starlette, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws=StreamConnection,
        log_config=None,
        log_level="warning",  # further down it writes headers and messages
        access_log=False,
        server_header=False,
        proxy_headers=False,  # any client could say on whose behalf it comes
        **stream_options(limits),
        # not idle_s: to ask a health check takes no token; and it goes to call_later, which takes any number
        timeout_keep_alive=min(limits.idle_s, limits.request_s),  # type: ignore[arg-type]
        timeout_graceful_shutdown=CLOSE_S,
    )


def allow_files(count: int) -> None:
    """Let this process have so many files open, as far as the system allows. A connection is one."""
    try:
        import resource
    except ImportError:  # not POSIX
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < count:
        log.warning("the system allows %d open files, fewer than --max-connections needs: %d", most, count)


def open_port(host: str, port: int) -> socket.socket:
    """Bind a socket to the first address of `host`. InputError: no such host, or the port can't be had."""
    if not 0 <= port <= 65535:
        raise InputError(f"port is {port}; give 0 to 65535, 0 for any that is free")
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        both = where[0] == "::" and socket.has_dualstack_ipv6()  # all addresses are those of IPv4, too
        # With the scope of an address such as fe80::1%eth0, which is the last of four.
        listener = socket.create_server(where, family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"can't listen on {host} port {port}: {why}; give another --host or --port") from error
    # Every connection has it from here: a device that vanished is noticed by TCP, after hours, without pings.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return listener


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host.replace('%', '%25')}]:{port}" if ":" in host else f"{host}:{port}"


TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class TextLines(logging.Formatter):
    """Lines for people. A name that a client or a folder brings can't break one, nor command the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return "\n".join(map(escaped, super().formatException(ei).split("\n")))


class JsonLines(logging.Formatter):
    """Lines of time, level, logger, message, the fields of `extra={"fields": {...}}`, and the exception."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            document = {**fields, **document}
        if record.exc_info:
            document["error"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


def escaped(text: str) -> str:
    """Show what does not print, such as line breaks and ESC, as Python does."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def set_up_logging(level: str, *, as_json: bool) -> None:
    """Log to standard error: our lines from `level` on, those of all others from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines(TEXT))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("bottlenet").setLevel(level.upper())
