"""A link of one's choice on loopback: rate, delay, jitter and loss, without root, in this process.

    device --TCP--> ShapedLink: [packets -> rate -> delay, jitter, loss] --TCP--> server, and the same back

A packet of `Link.packet_bytes` waits until those before it are sent, is sent at the link's rate, arrives half a round
trip later, and never before those ahead of it. A lost packet costs its bits once more and arrives a round trip later,
as after TCP's fast retransmit. All connections share one uplink and one downlink. What is random comes from `seed`.

The rate is of the bytes that the sockets carry, without the headers of TCP and IP, and without TCP's slow start.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import selectors
import socket
import threading
import weakref
from asyncio import StreamReader, StreamWriter
from collections.abc import Sequence

from bottlenet.errors import InputError, LinkError
from bottlenet.plan.link import Link

RECEIVE_BYTES = 65536
BUFFER_BYTES = 2**20  # on the way in one direction of a connection; then no more is read, and TCP makes the sender wait
FULL_S = 0.01  # between two looks at whether there is room again
MAX_CONNECTIONS = 64  # at once
LONGEST_PACKET = 1460  # where a link's packets are larger, so that a long message doesn't come as one


class Lane:
    """One direction of a link, which all connections share: when a packet that comes now arrives."""

    def __init__(self, link: Link, *, up: bool, jitter_s: float) -> None:
        self._up = up
        self.carried_bytes = self.lost_packets = 0
        self._free_at = -math.inf
        self.change(link, jitter_s)

    def change(self, link: Link, jitter_s: float) -> None:
        self._link, self._jitter_s = link, jitter_s
        self._bps = link.uplink_bps if self._up else link.downlink_bps or math.inf

    def arrival(self, now: float, size: int, rng: random.Random) -> float:
        """Compute when a packet of `size` bytes that comes at `now` arrives."""
        self.carried_bytes += size
        link, lost = self._link, 0
        while rng.random() < link.loss:
            lost += 1
        self.lost_packets += lost
        self._free_at = max(now, self._free_at) + (1 + lost) * size * 8 / self._bps
        return self._free_at + link.round_trip_s * (0.5 + lost) + rng.uniform(0, self._jitter_s)

    def packets(self, data: bytes) -> Sequence[bytes]:
        size = min(self._link.packet_bytes, LONGEST_PACKET)
        return [data[start : start + size] for start in range(0, len(data), size)]


class ShapedLink:
    """A link in front of a server on this machine, in a thread of its own.

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
        self._numbers = itertools.count()
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()  # one a connection; a loop alone would not keep them
        self._ends: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()
        try:
            self._listener = socket.create_server(("127.0.0.1", 0))
        except OSError as error:
            raise LinkError(f"no loopback port can be had: {error.strerror}; try again") from error
        self.port: int = self._listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())  # epoll would round sleeps to a millisecond
        self._there = asyncio.Event()
        self._there.set()
        self._closed = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="bottlenet-link", daemon=True)
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
        """Change the link from now on; with None all waits until there is one again. InputError: a jitter below 0."""
        check_jitter(jitter_s)
        if link is not None:
            self._up.change(link, jitter_s)
            self._down.change(link, jitter_s)
            self._link = link
        self._loop.call_soon_threadsafe(self._there.clear if link is None else self._there.set)

    def close(self) -> None:
        """Cut all connections. Calling it again does no harm."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()

    def __enter__(self) -> ShapedLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._listen())
        self._loop.close()

    async def _listen(self) -> None:
        """Serve until the link is closed, and cut what is under way then."""
        # Not by asyncio's own server: as that closes, it loses connections that it has just accepted.
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)
        await self._closed.wait()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        await turns(1)  # in which tasks that were just made begin
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)
        for end in list(self._ends):
            end.abort()  # also where one is closed that has bytes left which nobody takes
        await turns(5)  # in which sockets are closed

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it has gone
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        """Connect a device to the server, where that is there and there are not too many, and carry what both send."""
        name, ends = f"{self._seed}/{next(self._numbers)}", []
        self._connections += 1
        try:
            from_device, to_device = await asyncio.open_connection(sock=connection)
            ends.append(to_device)
            self._ends.add(to_device.transport)
            if self._connections > MAX_CONNECTIONS:
                return
            await self._there.wait()
            await asyncio.sleep(self._link.setup_s - self._link.round_trip_s)
            # Not in wait_for, which may lose a connection that is there as it is cancelled.
            from_server, to_server = await asyncio.open_connection(*self._server)
            ends.append(to_server)
            self._ends.add(to_server.transport)
            await asyncio.gather(
                self._carry(from_device, to_server, self._up, random.Random(f"{name}/up")),
                self._carry(from_server, to_device, self._down, random.Random(f"{name}/down")),
            )
        except OSError:
            pass  # the device sees its connection end
        finally:
            self._connections -= 1
            for end in ends:
                end.close()

    async def _carry(self, source: StreamReader, target: StreamWriter, lane: Lane, rng: random.Random) -> None:
        """Write what comes when it is due, in order, whatever jitter and loss say; and its end after that."""
        loop, last, under_way = self._loop, -math.inf, 0

        def deliver(packet: bytes) -> None:
            nonlocal under_way
            under_way -= len(packet)
            target.write(packet)

        with contextlib.suppress(OSError):
            while data := await source.read(RECEIVE_BYTES):
                await self._there.wait()
                now = loop.time()
                for packet in lane.packets(data):
                    last = max(math.nextafter(last, math.inf), lane.arrival(now, len(packet), rng))
                    under_way += len(packet)
                    loop.call_at(last, deliver, packet)
                while under_way + target.transport.get_write_buffer_size() > BUFFER_BYTES:
                    await asyncio.sleep(FULL_S)
        while under_way:
            await asyncio.sleep(max(0.0, last - loop.time()))
        if target.can_write_eof():
            target.write_eof()


async def turns(count: int) -> None:
    """Let the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


def check_jitter(jitter_s: float) -> None:
    """Raise InputError unless the jitter is 0 seconds or more."""
    if not 0 <= jitter_s < math.inf:
        raise InputError(f"jitter is {jitter_s * 1e3:g} ms; give 0 or more")
