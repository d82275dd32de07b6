"""Connect to a host as a client within a deadline, to whichever of its addresses answers first.

connect_host: resolve -> connect_first -> a socket
"""

import contextlib
import itertools
import math
import os
import queue
import selectors
import socket
import threading
from collections import deque
from time import monotonic
from typing import Any, TypeVar, cast

STAGGER_S = 0.25  # after which the next address of a host is tried, too (RFC 8305)
AnySocket = TypeVar("AnySocket", bound=socket.socket)


def connect_host(host: str, port: int, kind: type[AnySocket], deadline: float) -> AnySocket:
    """Connect a socket, not blocking, until `deadline` (monotonic). OSError: no host, nothing there, or too slow."""
    # RFC 6874 writes a scope of an address in a URL so.
    return connect_first(resolve(host.replace("%25", "%"), port, deadline), kind, deadline)


def without_scope(host: str) -> str:
    """Return the name that a certificate is for."""
    return host.partition("%")[0]


def resolve(host: str, port: int, deadline: float) -> list[Any]:
    """Look up a host's addresses, as `socket.getaddrinfo` gives them. OSError: none, or too slow."""
    found: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, ValueError) as error:
            found.put(error)

    # The system's own call has no timeout: a thread that a dead name server holds up is left behind.
    threading.Thread(target=look_up, name="bottlenet-resolve", daemon=True).start()
    try:
        addresses = found.get(timeout=seconds_until(deadline))
    except queue.Empty:
        raise TimeoutError("the name server does not answer") from None
    if isinstance(addresses, Exception):
        raise addresses
    return addresses


def connect_first(addresses: list[Any], kind: type[AnySocket], deadline: float) -> AnySocket:
    """Connect to whichever address answers first (RFC 8305), so that a dead one costs a quarter of a second.

    Kinds of addresses, IPv6 and IPv4, take turns; each starts 250 ms after the one before, or when that has failed.
    OSError: the last failure where all fail.
    """
    families = dict.fromkeys(address[0] for address in addresses)
    turns = itertools.zip_longest(*([each for each in addresses if each[0] == family] for family in families))
    waiting = deque(address for turn in turns for address in turn if address is not None)
    failure = OSError("the host has no address")
    next_s = -math.inf  # when another may start
    opened: list[AnySocket] = []
    try:
        with selectors.DefaultSelector() as racing:
            while waiting or racing.get_map():
                if waiting and (not racing.get_map() or monotonic() >= next_s):
                    family, type_, protocol, _, address = waiting.popleft()
                    next_s = monotonic() + STAGGER_S
                    try:
                        opened.append(sock := kind(family, type_, protocol))
                        sock.setblocking(False)
                        with contextlib.suppress(BlockingIOError):
                            sock.connect(address)
                        racing.register(sock, selectors.EVENT_WRITE, sock)
                    except OSError as error:  # no such kind of address here, no route, no file handle left
                        failure = error
                    continue
                left_s = seconds_until(deadline)
                for key, _ in racing.select(min(left_s, max(0.0, next_s - monotonic())) if waiting else left_s):
                    racing.unregister(key.data)
                    if (code := key.data.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) == 0:
                        opened.remove(key.data)
                        return cast(AnySocket, key.data)
                    failure = OSError(code, os.strerror(code))
        raise failure
    finally:
        for sock in opened:
            sock.close()


def seconds_until(deadline: float) -> float:
    """Return what is left, above 0. TimeoutError: nothing is."""
    left_s = deadline - monotonic()
    if left_s <= 0:
        raise TimeoutError("it took too long")
    return left_s
