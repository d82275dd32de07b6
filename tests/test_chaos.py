"""Everything goes wrong at once, with real processes: and each photo has its answer in the end, one, the right one.

    bottlenet send (killed, on a disk that is full now and then) -> ShapedLink: delay, packets lost
        -> Proxy: cut, answers lost, twice and in another order -> bottlenet serve (killed)

CHAOS_PHOTOS, CHAOS_KILLS and CHAOS_DELAY_MS in the environment make it longer: 1,000, 20 and 300 take some minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bottlenet.bundle import Bundle, write_bundle
from bottlenet.cloud import Decoder
from bottlenet.edge import Encoder
from bottlenet.edge.outcome import Answered, parse_outcome
from bottlenet.lab.shaped import ShapedLink
from bottlenet.plan.link import Link
from bottlenet.wire.answer import Answer, parse_answer
from conftest import SCORES, SYMBOLS, graph_bytes, tail_nodes, tiny_manifest
from network import make_album

PHOTOS = int(os.environ.get("CHAOS_PHOTOS", "200"))
KILLS = int(os.environ.get("CHAOS_KILLS", "3"))  # of the server, and as many of the device
DELAY_S = float(os.environ.get("CHAOS_DELAY_MS", "30")) / 1e3  # there and back
LOST_PACKETS = 0.05  # each costs as much again, and what comes after it has to wait, as TCP has it
UPLINK_BPS = 1e6
ANSWER_S = 0.01  # between two: a link that is slow enough to be cut
# Every so many answers: the one is cut in the middle, and so on. Primes, so that they meet in all ways.
EVERY = {"cut": 41, "lost": 67, "twice": 7, "late": 5}
CUT_UPWARDS_BYTES = 4001  # device to server, every so many
HELD_S = 0.2
PYTHON = [sys.executable, "-W", "error"]
DEVICE = """
import errno, itertools, os, sys
from bottlenet import cli
from bottlenet.edge.spool import Spool
from bottlenet.files import write_whole

def write(path, data):
    if next(count) % 53 == 0:
        os.write(full, b"x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write_whole(path, data)

full = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
count = itertools.count(os.getpid() % 53)
Spool.__init__.__kwdefaults__["write"] = write
cli.main()
"""


class Proxy:
    """TCP on a port of its own to wherever the server is; it knows enough of WebSocket to tell answers apart."""

    def __init__(self, server_port: Callable[[], int]) -> None:
        self.done: Counter[str] = Counter()  # what went wrong
        self._server_port = server_port
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
            if before // CUT_UPWARDS_BYTES != self._upwards // CUT_UPWARDS_BYTES:
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
    """One WebSocket frame of at most 125 bytes, as all answers are, with its header."""
    head = await server.readexactly(2)
    assert head[1] < 126
    return head + await server.readexactly(head[1])


class ServerProcess:
    """`bottlenet serve`, on another port each time."""

    def __init__(self, bundle: Bundle) -> None:
        command = [*PYTHON, "-m", "bottlenet.cli", "serve", str(bundle.path), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(r"ws://127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        assert found, "the server does not start"
        self.port = int(found[1])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def bundle(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny one with a tail so gentle that all ten classes are likely: no two photos get the same answer."""
    nodes, constants = tail_nodes()
    tail = graph_bytes(nodes, [SYMBOLS], [SCORES], {"matrix": constants["matrix"] * np.float32(0.05)})
    return write_bundle(tmp_path_factory.mktemp("bundles") / "gentle", tiny_manifest(), {**files, "tail.onnx": tail})


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place: thousands of syncs would only wait for the disk."""
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield place
    shutil.rmtree(place)


def wait_for(answers: Path, count: int, device: subprocess.Popen[bytes]) -> None:
    """Until so many are stored."""
    deadline = time.monotonic() + 60
    while not answers.is_dir() or len(os.listdir(answers)) < count:
        assert device.poll() is None, f"ended with {device.returncode}"
        assert time.monotonic() < deadline, f"{len(os.listdir(answers))} answers, not {count}"
        time.sleep(0.02)


def test_chaos(bundle: Bundle, folder: Path) -> None:
    (folder / "album").mkdir()
    photos = sorted(make_album(folder / "album", PHOTOS).iterdir())
    spool, full = folder / "spool", folder / "full"
    server = ServerProcess(bundle)
    proxy = Proxy(lambda: server.port)
    link = ShapedLink("127.0.0.1", proxy.port, Link("bad", UPLINK_BPS, DELAY_S, loss=LOST_PACKETS), seed=3)

    def start_device() -> subprocess.Popen[bytes]:
        options = [
            "--to",
            link.url,
            "--spool",
            spool,
            "--bundle",
            bundle.path,
            "--timeout",
            "1.5",
        ]
        command = [*PYTHON, "-c", DEVICE, full, "send", folder / "album", *options, "--in-flight", "5", "--json"]
        with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:  # a pipe would fill up
            return subprocess.Popen(list(map(str, command)), stdout=out, stderr=err)

    device = start_device()
    try:
        for turn in range(2 * KILLS):
            wait_for(spool / "answers", PHOTOS * (turn + 1) // (2 * KILLS + 1), device)
            if turn % 2:
                device.kill()
                device.wait()
                device = start_device()
            else:
                server.kill()
                server = ServerProcess(bundle)
        device.wait(60 + PHOTOS)
    finally:
        device.kill()
        server.kill()
        link.close()
        proxy.close()
    assert device.returncode == 0, (folder / "err").read_text()

    # All of it happened.
    assert min(proxy.done[name] for name in (*EVERY, "cut upwards")) > 0, proxy.done
    assert min(link.lost_packets) > 0
    assert full.stat().st_size > 0
    # Each photo was answered, and the last run says so of each.
    lines = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
    assert sorted(line["photo"] for line in lines) == list(map(str, photos))
    assert {line["status"] for line in lines} == {"answered"}
    # Once, and nothing is left over.
    assert {name: len(os.listdir(spool / name)) for name in ("answers", "frames", "failed", "aside")} == {
        "answers": PHOTOS,
        "frames": 0,
        "failed": 0,
        "aside": 0,
    }
    # None is wrong.
    stored = [parse_outcome(path.read_bytes()) for path in (spool / "answers").iterdir()]
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    expected = decoder.answers([encoder.encode(photo).frame for photo in photos])
    right = {str(photo): parse_answer(one.to_bytes()).top for photo, one in zip(photos, expected, strict=True)
             if isinstance(one, Answer)}  # fmt: skip
    assert len(right) == PHOTOS
    assert len(set(right.values())) > 0.99 * PHOTOS  # so another photo's answer shows
    for outcome in stored:
        assert isinstance(outcome, Answered)
        assert outcome.by == "server"
        top = right.pop(outcome.photo)
        assert [choice.class_index for choice in outcome.top] == [index for index, _ in top]
        assert [choice.score for choice in outcome.top] == pytest.approx([share for _, share in top], abs=5e-5)
    assert not right
    proxy.done["packets lost"] = sum(link.lost_packets)
    happened = ", ".join(f"{count} {name}" for name, count in proxy.done.items())
    print(
        f"{PHOTOS} photos; {KILLS} servers and {KILLS} devices killed; {happened}; {full.stat().st_size} writes failed"
    )
