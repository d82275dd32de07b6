"""What do replicas behind HAProxy cost, and what do they bring? The one process beside `--engine ray`, in one run.

Each engine serves the same bundle in turn, round after round, on this machine, where the clients are, too. A connection
has one message on its way at a time:

    stream   a frame on a WebSocket, as a device sends it
    post     the same frame by POST, on a connection that stays open
    probe    a frame without a photo on a WebSocket: all but the network's work

Of all answers of a round the middle one and the 99th of a hundred; of the rounds the middle one. Memory is that of all
processes of an engine after its work, what several share divided among them (Linux: PSS).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from bottlenet.bundle import Bundle
from bottlenet.edge import Encoder
from bottlenet.errors import InputError
from bottlenet.wire.answer import parse_answer
from bottlenet.wire.frame import CLASSIFY_PATH, PROBE, STREAM_PATH, Frame
from idle_streams import PHOTO, server
from record import Json, parser, run_script, show, write_record

WARM_SHARE = 0.2  # of the time, before it counts
LENGTH = b"content-length: "


@dataclass(frozen=True)
class Engine:
    """What answers, and how it is started."""

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """What came of one engine, one way and one number of connections."""

    engine: str
    way: str
    connections: int
    per_s: float  # answers
    p50_ms: float
    p99_ms: float


Ask = Callable[[], Awaitable[bytes]]
"""Sends one message and gives its answer."""


class Client:
    """Connections to a server with one bundle."""

    def __init__(self, bundle: Bundle, port: int) -> None:
        frame = Encoder(bundle).encode(str(PHOTO)).frame
        self._url = f"ws://127.0.0.1:{port}{STREAM_PATH}?bundle={bundle.id.hex()}"
        self._port = port
        self._frame = frame.to_stream_bytes()
        self._probe = Frame(PROBE, 0, bundle.tag, 0, b"").to_stream_bytes()
        body = frame.to_bytes()
        head = f"POST {CLASSIFY_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body

    async def stream(self, use: Callable[[Ask], Coroutine[Any, Any, None]]) -> None:
        """Open a WebSocket for frames."""
        await self._websocket(self._frame, use)

    async def probe(self, use: Callable[[Ask], Coroutine[Any, Any, None]]) -> None:
        """Open a WebSocket for probes."""
        await self._websocket(self._probe, use)

    async def post(self, use: Callable[[Ask], Coroutine[Any, Any, None]]) -> None:
        """HTTP, with as little of a client as will do."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)

        async def ask() -> bytes:
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise InputError(f"the server refused: {head.splitlines()[0].decode()}")
            return await reader.readexactly(int(head.partition(LENGTH)[2].partition(b"\r\n")[0]))

        try:
            await use(ask)
        finally:
            writer.close()

    async def _websocket(self, message: bytes, use: Callable[[Ask], Coroutine[Any, Any, None]]) -> None:
        async with connect(self._url, compression=None, ping_interval=None, proxy=None) as websocket:

            async def ask() -> bytes:
                await websocket.send(message)
                answer = await websocket.recv()
                assert isinstance(answer, bytes)
                return answer

            await use(ask)


async def measure(client: Client, way: str, connections: int, seconds: float) -> tuple[float, float, float]:
    """Measure answers a second, and the milliseconds of the middle one and of the 99th of a hundred."""
    took_ms: list[float] = []
    counting = time.perf_counter() + WARM_SHARE * seconds
    end = counting + seconds

    async def use(ask: Ask) -> None:
        parse_answer(await ask())  # raises what the server refused
        while (started := time.perf_counter()) < end:
            await ask()
            if started >= counting:
                took_ms.append((time.perf_counter() - started) * 1e3)

    await asyncio.gather(*(getattr(client, way)(use) for _ in range(connections)))
    if len(took_ms) < 2:
        raise InputError(f"{seconds} s are too few for two answers; give more with --seconds")
    cuts = statistics.quantiles(took_ms, n=100, method="inclusive")
    return len(took_ms) / seconds, cuts[49], cuts[98]


def measure_engine(engine: Engine, bundle: Bundle, arguments: argparse.Namespace) -> tuple[list[Row], int]:
    """Measure one round: each way, alone and with many connections; and bytes of memory."""
    rows = []
    with server(arguments.bundle, *engine.options) as (pid, port):
        client = Client(bundle, port)
        for way in arguments.way or WAYS:
            for connections in sorted({1, arguments.connections}):
                rate, p50_ms, p99_ms = asyncio.run(measure(client, way, connections, arguments.seconds))
                rows.append(Row(engine.name, way, connections, rate, p50_ms, p99_ms))
        return rows, tree_bytes(pid)


def tree_bytes(pid: int) -> int:
    """Memory of a process and all that it started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    tree = {pid}
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    total = 0
    for each in tree:
        with contextlib.suppress(OSError):  # it has ended
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def middle(rows: list[Row]) -> Row:
    """Take the median over all rounds."""
    first = rows[0]
    values = (statistics.median(getattr(row, name) for row in rows) for name in ("per_s", "p50_ms", "p99_ms"))
    return Row(first.engine, first.way, first.connections, *values)


def overheads(rows: list[Row]) -> list[dict[str, Json]]:
    """Compare each row with the first engine's: milliseconds added, and share of its answers."""
    base = {(row.way, row.connections): row for row in rows if row.engine == rows[0].engine}
    made: list[dict[str, Json]] = []
    for row in rows:
        if (own := base[row.way, row.connections]) is not row:
            where: dict[str, Json] = {"engine": row.engine, "way": row.way, "connections": row.connections}
            made.append({**where, "added_p50_ms": row.p50_ms - own.p50_ms, "share_of_rate": row.per_s / own.per_s})
    return made


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    bundle = Bundle.load(arguments.bundle)
    counts = arguments.replicas or [1, 2]
    engines = [Engine("embedded", ())]
    engines += [Engine(f"ray, {n} replica{'s' * (n > 1)}", ("--engine", "ray", "--replicas", str(n))) for n in counts]
    grouped: dict[tuple[str, str, int], list[Row]] = {}
    memory: dict[str, list[int]] = {}
    for engine in engines * arguments.rounds:
        measured, taken = measure_engine(engine, bundle, arguments)
        memory.setdefault(engine.name, []).append(taken)
        for row in measured:
            grouped.setdefault((row.engine, row.way, row.connections), []).append(row)
    rows = [middle(group) for group in grouped.values()]
    added = {(one["engine"], one["way"], one["connections"]): one for one in overheads(rows)}
    shown = []
    for row in rows:
        over = added.get((row.engine, row.way, row.connections))
        beside = [f"{over['added_p50_ms']:.2f}", f"{over['share_of_rate']:.0%}"] if over else ["", ""]
        numbers = [f"{row.per_s:.0f}", f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}"]
        shown.append([row.engine, f"{row.way} x {row.connections}", *numbers, *beside])
    columns = ["engine", "way", "a second", "p50 ms", "p99 ms", "p50 +ms", "rate"]
    show(f"{arguments.bundle}, {arguments.seconds:g} s each, {arguments.rounds} rounds", columns, shown)
    memory_bytes: dict[str, Json] = {name: statistics.median(taken) for name, taken in memory.items()}
    show(
        "memory of all processes, MB = 10**6 bytes",
        ["engine", "MB"],
        [[n, f"{b / 1e6:.0f}"] for n, b in memory_bytes.items()],
    )  # type: ignore[operator]
    results: Json = {
        "bundle": bundle.manifest.name,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "rows": [asdict(row) for row in rows],
        "overhead": overheads(rows),
        "memory_bytes": memory_bytes,
    }
    write_record("engines", results, arguments.out)


WAYS = ("stream", "post", "probe")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--bundle", default="demo", help="demo: the one in the package")
    made.add_argument("--replicas", type=int, action="append", help="of Ray Serve; can be repeated; 1 and 2")
    made.add_argument("--way", choices=WAYS, action="append", help="can be repeated; all of them")
    made.add_argument("--connections", type=int, default=32, help="at once, beside a single one")
    made.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    made.add_argument("--rounds", type=int, default=3, help="each with a fresh start of each engine")
    run_script(made, run)


if __name__ == "__main__":
    main()
