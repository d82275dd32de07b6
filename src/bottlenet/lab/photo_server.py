"""A server for whole photos, to compare with: picture files in, answers out, over the same WebSocket framing.

    frame whose payload is a picture file -> decode -> uncut.onnx -> answer

One worker thread takes one photo after the other; a batch is no faster on a CPU. It is started as a process of its own,
`python -m bottlenet.lab.photo_server BUNDLE`, prints {"listening": "ws://127.0.0.1:PORT"} and ends with its input.
Needs bottlenet[cloud].
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bottlenet.bundle import Bundle
from bottlenet.cloud.limits import Limits
from bottlenet.errors import BottleNetError
from bottlenet.lab.partitions import PhotoServer
from bottlenet.wire.answer import refusal_bytes
from bottlenet.wire.frame import STREAM_HEADER_BYTES, parse_stream_frame
from bottlenet.wire.protocol import STREAM_PATH

MAX_PHOTO_BYTES = 2**22
MAX_IN_FLIGHT = Limits.max_in_flight  # as many as the real server takes


class Service:
    """One bundle's uncut network."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._photos = PhotoServer(bundle)
        self._worker = ThreadPoolExecutor(1)

    async def stream(self, websocket: WebSocket) -> None:
        """Photos and answers, until the other side goes."""
        await websocket.accept()
        tasks: set[asyncio.Task[None]] = set()
        try:
            while (message := await websocket.receive())["type"] == "websocket.receive":
                tasks.add(asyncio.create_task(self._reply(websocket, message.get("bytes") or b"")))
                if len(tasks) >= MAX_IN_FLIGHT:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                tasks = {task for task in tasks if not task.done()}
        finally:
            for task in tasks:
                task.cancel()

    async def _reply(self, websocket: WebSocket, message: bytes) -> None:
        reply = await asyncio.get_running_loop().run_in_executor(self._worker, self._answer, message)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the other side may be gone by now
            await websocket.send_bytes(reply)

    def _answer(self, message: bytes) -> bytes:
        sequence = int.from_bytes(message[2:4].ljust(2, b"\0"), "big")
        try:
            frame = parse_stream_frame(message, bundle_tag=self._bundle.tag, max_payload_bytes=MAX_PHOTO_BYTES)
            (answer,) = self._photos.answers([frame])
        except BottleNetError as error:
            answer = error
        return refusal_bytes(sequence, str(answer)) if isinstance(answer, BottleNetError) else answer.to_bytes()


def create_photo_app(bundle: Bundle) -> Starlette:
    """One route. InputError: the bundle has no uncut.onnx."""
    return Starlette(routes=[WebSocketRoute(STREAM_PATH, Service(bundle).stream)])


def main(path: str) -> None:
    """Serve on a free port until the input ends."""
    app = create_photo_app(Bundle.load(path))
    config = uvicorn.Config(
        app,
        http="h11",
        log_level="warning",
        access_log=False,
        ws_max_size=STREAM_HEADER_BYTES + MAX_PHOTO_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=stop_at_end_of_input, args=(server,), daemon=True).start()
        # Connections wait in the listener's line until they are taken, so it may be said now.
        print(json.dumps({"listening": f"ws://127.0.0.1:{listener.getsockname()[1]}"}, indent=0), flush=True)
        server.run(sockets=[listener])


def stop_at_end_of_input(server: uvicorn.Server) -> None:
    """So that it never outlives what started it."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    server.should_exit = True


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except BottleNetError as error:
        sys.exit(f"error: {error}")
