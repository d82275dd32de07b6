"""Mount the server in your own ASGI application, below a path and beside other routes.

Its start and stop are those of `create_app`'s lifespan, so the outer application has to run it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from bottlenet import Bundle, Edge
from bottlenet.cloud import Limits, create_app
from bottlenet.demo.run import shipped_photos


async def front_page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("cameras send to /vision")


def build() -> Starlette:
    vision = create_app([Bundle.load("demo")], Limits(max_waiting=64), page=False)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with vision.router.lifespan_context(vision):
            yield

    return Starlette(routes=[Route("/", front_page), Mount("/vision", vision)], lifespan=lifespan)


def main(photos: list[Path]) -> None:
    """Run the application on a free port, with a device that finds it below /vision."""
    # No pings, and messages no larger than a frame may be: what `bottlenet serve` sets for itself.
    config = uvicorn.Config(build(), port=0, log_level="warning", ws_ping_interval=None, ws_max_size=2**17)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with Edge("demo", f"ws://127.0.0.1:{port}/vision") as edge:
        for photo in photos:
            answer = edge.classify(photo)
            print(f"{photo.name}: {answer.label}, {answer.score:.0%}, {answer.socket_bytes} bytes")
    server.should_exit = True
    thread.join()


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or shipped_photos()[:3])
