"""What lies between device and server in chaos.py: it cuts the link, loses answers, doubles and reorders them.

device -> ShapedLink -> Proxy -> wherever the server is now
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable

ANSWER_S = 0.01  # between two: a link that is slow enough to be cut
# Every so many answers: the one is cut in the middle, and so on. Primes, so that they meet in all ways.
EVERY = {"cut": 41, "lost": 67, "twice": 7, "late": 5}
HELD_S = 0.2


class Proxy:
    """TCP on a port of its own to wherever the server is; it knows enough of WebSocket to tell answers apart."""

    def __init__(self, server_port: Callable[[], int], cut_upwards_bytes: int) -> None:
        self.done: Counter[str] = Counter()  # what went wrong
        self._server_port = server_port
        self._cut_upwards_bytes = cut_upwards_bytes  # device to server, every so many
        self._answers = 0
        self._upwards = 0
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._listener = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port: int = self._listener.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        async def end() -> None:
            self._listener.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _connected(self, device: asyncio.StreamReader, to_device: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writers = [to_device]
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port())
            writers.append(to_server)
            up = asyncio.create_task(self._up(device, to_server))
            down = asyncio.create_task(self._down(server, to_device))
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            for each in (up, down):
                each.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
        except OSError:
            self.done["nobody there"] += 1
        finally:
            for writer in writers:
                writer.transport.abort()
            self._connections.discard(task)

    async def _up(self, device: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        while data := await device.read(4096):
            before, self._upwards = self._upwards, self._upwards + len(data)
            if before // self._cut_upwards_bytes != self._upwards // self._cut_upwards_bytes:
                self.done["cut upwards"] += 1
                to_server.write(data[: len(data) // 2])
                await to_server.drain()
                return
            to_server.write(data)

    async def _down(self, server: asyncio.StreamReader, to_device: asyncio.StreamWriter) -> None:
        to_device.write(await server.readuntil(b"\r\n\r\n"))
        arriving: asyncio.Queue[bytes] = asyncio.Queue(64)
        reading = asyncio.create_task(self._read(server, arriving))
        held: list[bytes] = []
        try:
            while not (reading.done() and arriving.empty()):
                try:
                    message = await asyncio.wait_for(arriving.get(), HELD_S)
                except asyncio.TimeoutError:  # nothing came that could overtake it
                    to_device.write(b"".join(held))
                    held.clear()
                    continue
                await asyncio.sleep(ANSWER_S)
                if not await self._pass_on(message, held, to_device):
                    return
        finally:
            reading.cancel()

    async def _read(self, server: asyncio.StreamReader, arriving: asyncio.Queue[bytes]) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                await arriving.put(await read_message(server))

    async def _pass_on(self, message: bytes, held: list[bytes], to_device: asyncio.StreamWriter) -> bool:
        """False: the link is cut."""
        self._answers += 1
        what = {name for name, every in EVERY.items() if self._answers % every == 0}
        if "cut" in what:
            self.done["cut"] += 1
            to_device.write(message[: len(message) // 2])
            await to_device.drain()
            return False
        if "lost" in what:
            self.done["lost"] += 1
        elif "late" in what and not held:
            self.done["late"] += 1
            held.append(message)
        else:
            self.done["twice"] += "twice" in what
            to_device.write(b"".join([message] * (1 + ("twice" in what)) + held))
            held.clear()
        return True


async def read_message(server: asyncio.StreamReader) -> bytes:
    """Read one WebSocket frame of at most 125 bytes, as all answers are, with its header."""
    head = await server.readexactly(2)
    assert head[1] < 126
    return head + await server.readexactly(head[1])
