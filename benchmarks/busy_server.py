"""A server with as many other devices as one says: in each of its lines they always have so many photos.

    stdin: 3 --> from now on three others: a photo of ours finds three ahead of it, and takes four times as long
    frame -> Batcher -> Decoder -> answer
    other's frame -> Batcher -> asleep for as long as ours take -> answer, and the next one

Lines and waiting are real; what others' photos take is slept, not computed, so that one machine has the processors for
all of it. It is started as a process of its own, `python busy_server.py BUNDLE...`, prints
{"listening": "ws://127.0.0.1:PORT"} and ends with its input. Needs bottlenet[cloud].
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import statistics
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from time import perf_counter, sleep

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from bottlenet.bundle import Bundle
from bottlenet.cloud.admission import Limits
from bottlenet.cloud.batcher import Batcher, Work
from bottlenet.cloud.connections import StreamConnection, stream_options
from bottlenet.cloud.decoder import Decoder
from bottlenet.cloud.metrics import Metrics
from bottlenet.cloud.service import Bundles, Service
from bottlenet.cloud.stream import Streams
from bottlenet.errors import BottleNetError
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import STREAM_PATH, Frame

MAX_OTHERS = Limits.max_in_flight
TYPICAL_S = 0.005  # of a photo, until one of ours has come
LOOK_S = 0.05
OTHERS = Frame(0, 0, b"\0\0\0", 0, b"")  # known by being this very object


class Others:
    """The other devices. `least_s` is what a photo takes at least, ours and theirs."""

    def __init__(self, count: int = 0, *, least_s: float = 0.0) -> None:
        self.count = count
        self._least_s = least_s

    def around(self, work: Work) -> Work:
        """Work that knows others' photos; it takes one at a time."""
        taken: deque[float] = deque([max(TYPICAL_S, self._least_s)], maxlen=9)

        def mixed(frames: Sequence[Frame]) -> Sequence[Answer | BottleNetError]:
            if frames[0] is OTHERS:
                sleep(statistics.median(taken))
                return [Answer(0, 0, 0, ()) for _ in frames]
            started = perf_counter()
            answers = work(frames)
            sleep(max(0.0, self._least_s - (perf_counter() - started)))
            taken.append(perf_counter() - started)
            return answers

        return mixed

    async def use(self, line: Batcher, number: int) -> None:
        """Keep a photo in the line, for ever, while it is one of `count`."""
        while True:
            if number < self.count:
                with contextlib.suppress(BottleNetError):
                    await line.answer(OTHERS)
            else:
                await asyncio.sleep(LOOK_S)


def create_busy_app(bundles: Sequence[Bundle], others: Others, limits: Limits | None = None) -> Starlette:
    """Serve streams alone. BundleError: a tail that can't be loaded."""
    served_bundles = Bundles(lambda work: Batcher(others.around(work), max_batch=1))
    for bundle in bundles:
        served_bundles.add(bundle, Decoder(bundle).answers)
    service = Service(served_bundles, limits or Limits(), Metrics(), None)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        lines = served_bundles.batchers
        tasks = [asyncio.create_task(others.use(line, number)) for line in lines for number in range(MAX_OTHERS)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await service.stop()
        await service.close()

    return Starlette(routes=[WebSocketRoute(STREAM_PATH, Streams(service))], lifespan=lifespan)


def main(paths: Sequence[str]) -> None:
    """Serve on a free port until the input ends."""
    limits, others = Limits(max_payload_bytes=2**22), Others()
    app = create_busy_app([Bundle.load(path) for path in paths], others, limits)
    config = uvicorn.Config(
        app,
        ws=StreamConnection,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        **stream_options(limits),
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=obey, args=(others, server), daemon=True).start()
        # Connections wait in the listener's line until they are taken, so it may be said now.
        print(json.dumps({"listening": f"ws://127.0.0.1:{listener.getsockname()[1]}"}, indent=0), flush=True)
        server.run(sockets=[listener])


def obey(others: Others, server: uvicorn.Server) -> None:
    """Read how many there are to be, a number a line, until the input ends."""
    with contextlib.suppress(OSError, ValueError):
        for line in sys.stdin:
            others.count = min(max(int(line), 0), MAX_OTHERS)
    server.should_exit = True


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BottleNetError as error:
        sys.exit(f"error: {error}")
