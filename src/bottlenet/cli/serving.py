"""One process that serves: uvicorn around `create_app`, from loading the tails to the last answer.

    load the tails -> open port -> announce the URL -> serve -> SIGINT, SIGTERM or end of input -> answer what is there

Needs bottlenet[cloud].
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from bottlenet.bundle import Bundle
from bottlenet.cloud.app import create_app
from bottlenet.errors import InputError
from bottlenet.wire.frame import DEFAULT_MAX_PAYLOAD_BYTES, STREAM_HEADER_BYTES

GRACE_S = 5  # for what is being answered when the server is told to stop
SIGNALS = (signal.SIGINT, signal.SIGTERM)
STANDARD_INPUT = 0


class AnnouncingServer(uvicorn.Server):
    """uvicorn that says when it takes connections."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, then announce."""
        await super().startup(sockets)
        if self.started:
            self._announce()


def serve(
    bundles: Sequence[Bundle],
    announce: Callable[[str], None],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int = 1,
    stop_with_input: bool = False,
) -> None:
    """Serves until SIGINT or SIGTERM, then returns; frames at work are answered first.

    Port 0 is any that is free. `announce` gets "host:port" as soon as connections are taken. With
    `stop_with_input` the server also stops at the end of standard input, so that it never outlives what started it.

    InputError: an address that can't be listened on, or see `create_app`. BundleError: see `create_app`.
    """
    app = create_app(bundles, threads=threads)
    with open_port(host, port) as listener:
        server = AnnouncingServer(configure(app), lambda: announce(address(listener)))

        def stop(number: int, frame: FrameType | None) -> None:
            server.should_exit = True

        # uvicorn puts its own handlers in place while it runs and, when it has stopped, raises the signal again for
        # those that were there before. With the default ones that would end the process as killed, not as done.
        before = {number: signal.signal(number, stop) for number in SIGNALS}
        if stop_with_input:
            threading.Thread(target=stop_at_end_of_input, args=(server,), daemon=True).start()
        try:
            server.run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def configure(app: Starlette) -> uvicorn.Config:
    """How uvicorn runs the application: quietly, and with a bound on everything it reads."""
    return uvicorn.Config(
        app,
        http="h11",  # httptools would read a header without end
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=STREAM_HEADER_BYTES + DEFAULT_MAX_PAYLOAD_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=None,  # each ping would wake a device's radio; open_port looks after peers that vanish
        timeout_graceful_shutdown=GRACE_S,
    )


def open_port(host: str, port: int) -> socket.socket:
    """A socket bound to the first address of `host`. InputError: no such host, or the port can't be had."""
    if not 0 <= port <= 65535:
        raise InputError(f"port is {port}; give 0 to 65535, 0 for any that is free")
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(where[:2], family=family)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"can't listen on {host} port {port}: {why}; give another --host or --port") from error
    # Every connection has it from here: a device that vanished is noticed by TCP, after hours, without pings.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return listener


def address(listener: socket.socket) -> str:
    """host:port as in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def stop_at_end_of_input(server: uvicorn.Server) -> None:
    """Waits for whoever started this process to close the pipe, or to end."""
    # Not through sys.stdin: a thread that waits in there when the process ends makes Python abort.
    with contextlib.suppress(OSError):  # closed from the start
        while os.read(STANDARD_INPUT, 4096):
            pass
    server.should_exit = True
