"""What do idle devices cost a server, and does its memory grow with what it has answered?

`bottlenet serve` runs in a process of its own with the demo bundle. First devices connect, say nothing, and stay; then
frames come over one connection, and the resident memory is read now and then. The first tenth is warming up.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from websockets.sync.client import connect

from bottlenet.bundle import Bundle
from bottlenet.edge import Encoder
from bottlenet.errors import InputError
from bottlenet.wire.answer import parse_answer
from record import Json, parser, run_script, show, write_record

PHOTO = next(iter(sorted((Path(__file__).parent.parent / "src/bottlenet/demo/photos").glob("*.jpg"))))
TARGET_BYTES = 300e6  # for 1,000 idle streams
TARGET_GROWTH = 0.02  # of the memory after warming up
PIPELINED = 16
UPGRADE = (
    "GET /v1/stream?bundle={} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@contextmanager
def server(bundle: str, *options: str) -> Iterator[tuple[int, int]]:
    """Start a server, and yield its process id and port."""
    command = [
        sys.executable,
        "-m",
        "bottlenet.cli",
        "serve",
        "--port",
        "0",
        "--json",
        "--stop-with-input",
        *options,
        "--",
        bundle,
    ]
    pipe = subprocess.PIPE
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            text = line = ""
            while line != "}\n":
                line = process.stdout.readline()
                if not line:
                    raise InputError("the server did not start; its error is above")
                text += line
            yield process.pid, int(json.loads(text)["listening"].rpartition(":")[2])
        finally:
            process.terminate()


def resident_bytes(pid: int) -> int:
    """Read a process's resident memory, as Linux counts."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    (told,) = (line for line in lines if line.startswith("VmRSS:"))
    return int(told.split()[1]) * 1024


def measure_idle(bundle: Bundle, pid: int, port: int, streams: int) -> dict[str, float]:
    """Memory before and with so many open streams. A bare socket each, as a client would cost this process more."""
    before = resident_bytes(pid)
    with ExitStack() as stack:
        for _ in range(streams):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            sock.sendall(UPGRADE.format(bundle.id.hex()).encode())
            if b" 101 " not in sock.recv(4096):
                raise InputError("the server takes no more streams")
        time.sleep(1)
        during = resident_bytes(pid)
    return {"streams": streams, "before_bytes": before, "resident_bytes": during}


def measure_growth(bundle: Bundle, pid: int, port: int, requests: int) -> list[dict[str, float]]:
    """Memory after each tenth of the requests."""
    frame = Encoder(bundle).encode(str(PHOTO)).frame.to_stream_bytes()
    taken: list[dict[str, float]] = []
    url = f"ws://127.0.0.1:{port}/v1/stream?bundle={bundle.id.hex()}"
    with connect(url, compression=None, ping_interval=None, proxy=None) as stream:
        for number in range(1, requests + 1):
            stream.send(frame)
            if number % PIPELINED == 0 or number == requests:
                for _ in range(PIPELINED if number % PIPELINED == 0 else number % PIPELINED):
                    answer = stream.recv(timeout=60)
                    assert isinstance(answer, bytes)
                    parse_answer(answer)
            if number % max(1, requests // 10) == 0:
                taken.append({"requests": number, "resident_bytes": resident_bytes(pid)})
    return taken


def allow_files(streams: int) -> None:
    """Raise the limit of open files to what so many streams take, as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * streams + 100)), hard))


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    allow_files(arguments.streams)
    bundle = Bundle.load(arguments.bundle)
    with server(arguments.bundle, "--max-per-address", "1000000") as (pid, port):
        idle = measure_idle(bundle, pid, port, arguments.streams)
        growth = measure_growth(bundle, pid, port, arguments.requests)
    warm, last = growth[0]["resident_bytes"], growth[-1]["resident_bytes"]
    grown = last / warm - 1
    rows = [[f"{arguments.streams} idle streams", f"{idle['resident_bytes'] / 1e6:.0f}"]]
    rows += [[f"after {one['requests']:.0f} requests", f"{one['resident_bytes'] / 1e6:.0f}"] for one in growth]
    show("resident memory of a server, MB = 10**6 bytes", ["when", "MB"], rows)
    a_stream = (idle["resident_bytes"] - idle["before_bytes"]) / arguments.streams
    results: dict[str, Json] = {
        "idle": {**idle, "bytes_a_stream": a_stream, "target_bytes": TARGET_BYTES},
        "idle_met": idle["resident_bytes"] < TARGET_BYTES,
        "growth": list(growth),
        "grown_share": grown,
        "target_grown_share": TARGET_GROWTH,
        "growth_met": grown < TARGET_GROWTH,
    }
    write_record("idle_streams", results, arguments.out)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--bundle", default="demo", help="demo: the one in the package")
    made.add_argument("--streams", type=int, default=1000, help="that are open and say nothing")
    made.add_argument("--requests", type=int, default=100_000, help="one after the other, 16 in flight")
    run_script(made, run)


if __name__ == "__main__":
    main()
