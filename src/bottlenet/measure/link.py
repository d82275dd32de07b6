"""A link of one's choice on loopback: rate, delay, jitter and loss, without root, in this process.

    device --TCP--> ShapedLink: [packets -> rate -> delay, jitter, loss] --TCP--> server, and the same back

What comes is cut into packets of `Link.packet_bytes`. A packet waits until those before it are sent, is sent at the
link's rate, arrives half a round trip later, and never before those ahead of it. A lost packet costs its bits once more
and arrives a round trip later, as after TCP's fast retransmit; it may be lost again. All connections share one uplink
and one downlink. What is random comes from `seed`: the same packets meet the same fate.

The rate is of the bytes that the sockets carry; the headers of TCP and IP are not in it. Nor is TCP's slow start: an
open connection that carries a photo now and then is what is meant. Opening one takes `Link.setup_s` less the round trip
that WebSocket's own handshake takes.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import socket
import threading
from collections import deque
from collections.abc import Sequence
from time import perf_counter

from bottlenet.errors import InputError, LinkError
from bottlenet.plan.link import Link

RECEIVE_BYTES = 65536
BUFFER_BYTES = 2**20  # on the way in one direction of a connection; then no more is read, and TCP makes the sender wait
MAX_CONNECTIONS = 64  # at once
CONNECT_S = 10.0
LONGEST_PACKET = 1460  # where a link's packets are larger, so that a long message doesn't come as one


class Lane:
    """One direction of a link, which all connections share: when a packet that comes now arrives. Thread-safe."""

    def __init__(self, link: Link, *, up: bool, jitter_s: float) -> None:
        self._lock = threading.Lock()
        self._up = up
        self.carried_bytes = self.lost_packets = 0
        self._free_at = -math.inf
        self.change(link, jitter_s)

    def change(self, link: Link, jitter_s: float) -> None:
        with self._lock:
            self._link, self._jitter_s = link, jitter_s
            self._bps = link.uplink_bps if self._up else link.downlink_bps or math.inf

    def arrival(self, now: float, size: int, rng: random.Random) -> float:
        """Compute when a packet of `size` bytes that comes at `now` arrives."""
        with self._lock:
            self.carried_bytes += size
            link, lost = self._link, 0
            while rng.random() < link.loss:
                lost += 1
            self.lost_packets += lost
            self._free_at = max(now, self._free_at) + (1 + lost) * size * 8 / self._bps
            delay_s = link.round_trip_s * (0.5 + lost) + rng.uniform(0, self._jitter_s)
            return self._free_at + delay_s

    def packets(self, data: bytes) -> Sequence[bytes]:
        size = min(self._link.packet_bytes, LONGEST_PACKET)
        return [data[start : start + size] for start in range(0, len(data), size)]


class Gate:
    """Open while the link is there."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._ended = threading.Event()

    def set(self, *, there: bool) -> None:
        (self._open.set if there else self._open.clear)()

    def wait(self) -> None:
        """Wait until the link is there. OSError: it never will be."""
        self._open.wait()
        self.sleep_until(-math.inf)

    def sleep_until(self, due: float) -> None:
        """Sleep to within some tens of microseconds. OSError: the link was closed before."""
        while not self._ended.is_set():
            left = due - perf_counter()
            if left <= 0:
                return
            self._ended.wait(left)
        raise OSError("the link is closed")

    def end(self) -> None:
        """Wake all that wait, for good."""
        self._ended.set()
        self._open.set()


class Pump:
    """Carries the bytes of one direction of a connection: one thread takes them in, another delivers them in time."""

    def __init__(self, ends: tuple[socket.socket, socket.socket], lane: Lane, rng: random.Random, gate: Gate) -> None:
        self._source, self._target = ends
        self._lane, self._rng, self._gate = lane, rng, gate
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._change = threading.Condition()
        self._ended = False
        self.threads = [threading.Thread(target=each, daemon=True) for each in (self._take, self._deliver)]
        for thread in self.threads:
            thread.start()

    def _take(self) -> None:
        """Take packets until the source has no more."""
        last = -math.inf
        with contextlib.suppress(OSError):
            while data := self._source.recv(RECEIVE_BYTES):
                self._gate.wait()
                now = perf_counter()
                for packet in self._lane.packets(data):
                    # In order, whatever jitter and loss say.
                    last = max(last, self._lane.arrival(now, len(packet), self._rng))
                    with self._change:
                        self._waiting.append((last, packet))
                        self._bytes += len(packet)
                        self._change.notify_all()
                with self._change:
                    self._change.wait_for(lambda: self._bytes < BUFFER_BYTES or self._ended)
        self.end()

    def _deliver(self) -> None:
        """Deliver each packet when it is due, and the end after the last one."""
        with contextlib.suppress(OSError):
            while True:
                with self._change:
                    self._change.wait_for(lambda: self._waiting or self._ended)
                    if not self._waiting:
                        break
                    due, packet = self._waiting.popleft()
                self._gate.sleep_until(due)
                self._target.sendall(packet)
                with self._change:
                    self._bytes -= len(packet)
                    self._change.notify_all()
            self._target.shutdown(socket.SHUT_WR)
        self.end()

    def end(self) -> None:
        with self._change:
            self._ended = True
            self._change.notify_all()


class Connection:
    """Both ways between one device and the server."""

    def __init__(self, device: socket.socket, server: socket.socket, lanes: tuple[Lane, Lane], name: str, gate: Gate):
        self._ends = (device, server)
        for end in self._ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up, down = lanes
        self._pumps = [
            Pump((device, server), up, random.Random(f"{name}/up"), gate),
            Pump((server, device), down, random.Random(f"{name}/down"), gate),
        ]

    @property
    def ended(self) -> bool:
        """Whether nothing is under way, nor can be."""
        return not any(thread.is_alive() for pump in self._pumps for thread in pump.threads)

    def close(self) -> None:
        """Cut the connection, with what is under way."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for pump in self._pumps:
            pump.end()
            for thread in pump.threads:
                thread.join()


class ShapedLink:
    """A link in front of a server on this machine.

        with ShapedLink("127.0.0.1", 8000, PRESETS["3g"]) as link:
            edge = Edge("my.bundle", link.url)

    InputError: a jitter below 0. LinkError: no port is free.
    """

    def __init__(self, host: str, port: int, link: Link, *, jitter_s: float = 0.0, seed: int = 0) -> None:
        self._server = (host, port)
        self._seed = seed
        check_jitter(jitter_s)
        self._up = Lane(link, up=True, jitter_s=jitter_s)
        self._down = Lane(link, up=False, jitter_s=jitter_s)
        self._link = link
        self._gate = Gate()
        self._connections: list[Connection] = []
        try:
            self._listener = socket.create_server(("127.0.0.1", 0))
        except OSError as error:
            raise LinkError(f"no loopback port can be had: {error.strerror}; try again") from error
        self.port: int = self._listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept, name="bottlenet-link", daemon=True)
        self._thread.start()

    @property
    def carried_bytes(self) -> tuple[int, int]:
        """Bytes that came in so far, from devices and from the server, each counted once, however often it was lost."""
        return self._up.carried_bytes, self._down.carried_bytes

    @property
    def lost_packets(self) -> tuple[int, int]:
        """How often a packet was lost so far, from devices and from the server."""
        return self._up.lost_packets, self._down.lost_packets

    def change(self, link: Link | None, *, jitter_s: float = 0.0) -> None:
        """Change the link from now on. With None nothing gets through, and what is sent waits until there is a link
        again.

        InputError: a jitter below 0.
        """
        check_jitter(jitter_s)
        if link is not None:
            self._up.change(link, jitter_s)
            self._down.change(link, jitter_s)
            self._link = link
        self._gate.set(there=link is not None)

    def close(self) -> None:
        """Cut all connections. Calling it again does no harm."""
        self._gate.end()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> ShapedLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        """Accept connections until the listener is closed."""
        with contextlib.suppress(OSError):
            for number in itertools.count():
                device, _ = self._listener.accept()
                try:
                    self._gate.wait()
                    self._gate.sleep_until(perf_counter() + self._link.setup_s - self._link.round_trip_s)
                    self._connect(device, number)
                except OSError:  # the server is not there: the device sees its connection end
                    device.close()

    def _connect(self, device: socket.socket, number: int) -> None:
        """Connect a device to the server. OSError: the server is not there, or there are too many."""
        for ended in [each for each in self._connections if each.ended]:
            ended.close()
            self._connections.remove(ended)
        if len(self._connections) >= MAX_CONNECTIONS:
            raise OSError("too many connections")
        server = socket.create_connection(self._server, CONNECT_S)
        server.settimeout(None)
        lanes = (self._up, self._down)
        self._connections.append(Connection(device, server, lanes, f"{self._seed}/{number}", self._gate))


def check_jitter(jitter_s: float) -> None:
    """Raise InputError unless the jitter is 0 seconds or more."""
    if not 0 <= jitter_s < math.inf:
        raise InputError(f"jitter is {jitter_s * 1e3:g} ms; give 0 or more")
