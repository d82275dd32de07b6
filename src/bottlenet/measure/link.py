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

import asyncio
import contextlib
import math
import random
import selectors
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from bottlenet.errors import InputError, LinkError
from bottlenet.plan.link import Link

RECEIVE_BYTES = 65536
BUFFER_BYTES = 2**20  # on the way in one direction of a connection; then no more is read, and TCP makes the sender wait
MAX_CONNECTIONS = 64  # at once
CONNECT_S = 10.0
LONGEST_PACKET = 1460  # where a link's packets are larger, so that a long message doesn't come as one


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
        try:
            listener = socket.create_server(("127.0.0.1", 0))
        except OSError as error:
            raise LinkError(f"no loopback port can be had: {error.strerror}; try again") from error
        self.port: int = listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        # Packets are due to within some tens of microseconds, and epoll counts in milliseconds.
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._there, self._ended = asyncio.Event(), asyncio.Event()
        self._there.set()
        self._count = self._open = 0  # connections so far, and now
        self._thread = threading.Thread(target=self._run, args=(listener,), name="bottlenet-link", daemon=True)
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
        """Be another link from now on; None: nothing gets through, and what is sent waits until there is one again.

        InputError: a jitter below 0.
        """
        check_jitter(jitter_s)
        self._loop.call_soon_threadsafe(self._change, link, jitter_s)

    def close(self) -> None:
        """Cut all connections; once more does no harm."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def __enter__(self) -> ShapedLink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, listener: socket.socket) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._listen(listener))

    async def _listen(self, listener: socket.socket) -> None:
        server = await asyncio.start_server(self._accept, sock=listener)
        await self._ended.wait()
        server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _change(self, link: Link | None, jitter_s: float) -> None:
        if link is None:
            self._there.clear()
            return
        self._up.change(link, jitter_s)
        self._down.change(link, jitter_s)
        self._link = link
        self._there.set()

    async def _accept(self, reader: StreamReader, device: StreamWriter) -> None:
        """Carry both ways between a device and the server; without one the device sees its connection end."""
        name, self._count = f"{self._seed}/{self._count}", self._count + 1
        writers = [device]
        self._open += 1
        try:
            if self._open > MAX_CONNECTIONS:
                return
            await self._there.wait()
            await asyncio.sleep(self._link.setup_s - self._link.round_trip_s)
            answers, server = await asyncio.wait_for(asyncio.open_connection(*self._server), CONNECT_S)
            writers.append(server)
            await asyncio.gather(
                self._carry(reader, server, self._up, random.Random(f"{name}/up")),
                self._carry(answers, device, self._down, random.Random(f"{name}/down")),
            )
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError):
            pass
        finally:
            self._open -= 1
            for writer in writers:
                writer.transport.abort()

    async def _carry(self, source: StreamReader, target: StreamWriter, lane: Lane, rng: random.Random) -> None:
        """Carry one direction of a connection, to its end."""
        under_way: deque[bytes] = deque()
        delivered = asyncio.Event()

        def deliver() -> None:
            if packet := under_way.popleft():
                target.write(packet)
            else:
                target.write_eof()
            delivered.set()

        due = -math.inf
        data = b"to begin with"
        while data:
            data = await source.read(RECEIVE_BYTES)
            await self._there.wait()
            for packet in lane.packets(data):
                # In order, whatever jitter and loss say.
                due = max(due, lane.arrival(self._loop.time(), len(packet), rng) if packet else -math.inf)
                under_way.append(packet)
                self._loop.call_at(due, deliver)
            while sum(map(len, under_way)) >= BUFFER_BYTES or (under_way and not data):
                delivered.clear()
                await delivered.wait()
            await target.drain()


class Lane:
    """One direction of a link, which all connections share: when a packet that comes now arrives."""

    def __init__(self, link: Link, *, up: bool, jitter_s: float) -> None:
        self._up = up
        self.carried_bytes = self.lost_packets = 0
        self._free_at = -math.inf
        self.change(link, jitter_s)

    def change(self, link: Link, jitter_s: float) -> None:
        """Be another link for packets that come from now on."""
        self._link, self._jitter_s = link, jitter_s
        self._bps = link.uplink_bps if self._up else link.downlink_bps or math.inf

    def arrival(self, now: float, size: int, rng: random.Random) -> float:
        """Return when a packet of `size` bytes that comes at `now` is there, s."""
        self.carried_bytes += size
        link, lost = self._link, 0
        while rng.random() < link.loss:
            lost += 1
        self.lost_packets += lost
        self._free_at = max(now, self._free_at) + (1 + lost) * size * 8 / self._bps
        return self._free_at + link.round_trip_s * (0.5 + lost) + rng.uniform(0, self._jitter_s)

    def packets(self, data: bytes) -> Sequence[bytes]:
        """Cut what was read; nothing, at the end, is one packet of nothing."""
        size = min(self._link.packet_bytes, LONGEST_PACKET)
        return [data[place : place + size] for place in range(0, max(1, len(data)), size)]


def check_jitter(jitter_s: float) -> None:
    """InputError: not 0 or more seconds."""
    if not 0 <= jitter_s < math.inf:
        raise InputError(f"jitter is {jitter_s * 1e3:g} ms; give 0 or more")
