"""The server: HTTP and WebSocket in front of a `Batcher` for each bundle.

    POST /v1/classify          body: one self-contained frame -> an answer; errors are JSON {"error": "..."}
    WS   /v1/stream?bundle=ID  messages: stream frames -> answers and refusals, each with its frame's sequence number
    GET  /v1/bundles           JSON: id, name, model and cut of what is served
    GET  /healthz              JSON: that it is alive, and how many frames wait

Nothing is read without a bound, and no input makes it fail for others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bottlenet.bundle import Bundle
from bottlenet.cloud.batcher import Batcher
from bottlenet.cloud.decoder import Decoder
from bottlenet.errors import BottleNetError, InputError, LinkError, WireError
from bottlenet.wire.answer import refusal_bytes
from bottlenet.wire.frame import (
    DEFAULT_MAX_PAYLOAD_BYTES,
    HEADER_BYTES,
    STREAM_HEADER_BYTES,
    parse_frame,
    parse_stream_frame,
)
from bottlenet.wire.protocol import CLASSIFY_PATH, STREAM_PATH, UNKNOWN_BUNDLE

log = logging.getLogger(__name__)

MAX_REASON_BYTES = 123  # of a WebSocket close frame, RFC 6455
MAX_IN_FLIGHT = 32  # frames of one connection; then it is not read until one is answered
BODY_TIMEOUT_S = 30.0
INTERNAL = "the server failed on this frame; its log says why"


@dataclass(frozen=True)
class Served:
    """A bundle and what answers its frames."""

    bundle: Bundle
    batcher: Batcher


def create_app(
    bundles: Sequence[Bundle],
    *,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
    threads: int = 1,
    max_batch: int = 16,
    max_waiting: int = 256,
) -> Starlette:
    """An ASGI application that serves these bundles.

    Every bundle has a worker, which takes up to `max_batch` frames at once, with `threads` on each operation; up to
    `max_waiting` wait in line, and further ones are refused. Give whatever runs the application the limit on
    messages too, as it holds one before it is seen here (uvicorn: `ws_max_size`).

    InputError: no bundle, two with the same tag, or a limit below 1. BundleError: a tail that can't be loaded.
    """
    if not bundles:
        raise InputError("no bundle to serve; give at least one")
    if max_payload_bytes < 1:
        raise InputError(f"max_payload_bytes is {max_payload_bytes}; give 1 or more")
    served: dict[bytes, Served] = {}
    for bundle in bundles:
        if (other := served.get(bundle.tag)) is not None:
            paths = f"{other.bundle.path} and {bundle.path}"
            raise InputError(f"bundles {paths} have the same tag {bundle.tag.hex()}; serve one of them")
        work = Decoder(bundle, threads).answers
        served[bundle.tag] = Served(bundle, Batcher(work, max_batch=max_batch, max_waiting=max_waiting))
    service = Service(served, max_payload_bytes)
    routes = [
        Route(CLASSIFY_PATH, service.classify, methods=["POST"]),
        Route("/v1/bundles", service.bundles, methods=["GET"]),
        Route("/healthz", service.health, methods=["GET"]),
        WebSocketRoute(STREAM_PATH, service.stream),
    ]
    return Starlette(routes=routes, lifespan=service.lifespan)


class Service:
    """The endpoints. `served` maps a bundle's tag to what answers its frames."""

    def __init__(self, served: dict[bytes, Served], max_payload_bytes: int) -> None:
        self._served = served
        self._max_payload_bytes = max_payload_bytes

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Answer what is at work before the server ends."""
        yield
        for served in self._served.values():
            await served.batcher.close()

    async def health(self, request: Request) -> Response:
        """Alive, and how long the line is."""
        waiting = sum(served.batcher.waiting for served in self._served.values())
        return JSONResponse({"status": "ok", "waiting": waiting})

    async def bundles(self, request: Request) -> Response:
        """What is served."""
        manifests = [(served.bundle.id.hex(), served.bundle.manifest) for served in self._served.values()]
        return JSONResponse([{"id": id_, "name": m.name, "model": m.model, "cut": m.cut} for id_, m in manifests])

    async def classify(self, request: Request) -> Response:
        """One frame, one answer."""
        try:
            body = await read_body(request, HEADER_BYTES + self._max_payload_bytes)
            if body is None:
                return failure(
                    413, f"the body has more than {HEADER_BYTES + self._max_payload_bytes} bytes; reduce more"
                )
            frame = parse_frame(body, max_payload_bytes=self._max_payload_bytes)
            served = self._served.get(frame.bundle_tag)
            if served is None:
                text = f"bundle {frame.bundle_tag.hex()} is not served here; {self._names()}"
                return failure(404, text)
            answer = await served.batcher.answer(frame)
        except TimeoutError:
            return failure(408, f"the body did not come within {BODY_TIMEOUT_S:g} s; send it at once")
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        except WireError as error:
            return failure(400, str(error))
        except LinkError as error:
            return failure(503, str(error), {"Retry-After": "1"})
        except Exception:
            log.exception("a frame failed")
            return failure(500, INTERNAL)
        return Response(answer.to_bytes(), media_type="application/octet-stream")

    async def stream(self, websocket: WebSocket) -> None:
        """Frames and answers, until the other side goes."""
        await websocket.accept()  # a close code reaches the client only on an open connection
        wanted = websocket.query_params.get("bundle", "").lower()
        served = next((one for one in self._served.values() if one.bundle.id.hex() == wanted), None)
        if served is None:
            reason = self._names().encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore")
            await websocket.close(UNKNOWN_BUNDLE, reason)
            return
        tasks: set[asyncio.Task[None]] = set()
        try:
            while (message := await websocket.receive())["type"] == "websocket.receive":
                tasks.add(asyncio.create_task(self._reply(websocket, served, message.get("bytes"))))
                if len(tasks) >= MAX_IN_FLIGHT:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                tasks = {task for task in tasks if not task.done()}
        finally:
            for task in tasks:
                task.cancel()

    async def _reply(self, websocket: WebSocket, served: Served, message: bytes | None) -> None:
        reply = await self._answer(served, message)
        # The other side may be gone by now, which the loop that reads will see.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await websocket.send_bytes(reply)

    async def _answer(self, served: Served, message: bytes | None) -> bytes:
        if message is None:
            return refusal_bytes(0, "a text message came; send frames as binary messages")
        whole = len(message) >= STREAM_HEADER_BYTES
        sequence = int.from_bytes(message[2:4], "big") if whole else 0
        try:
            frame = parse_stream_frame(message, bundle_tag=served.bundle.tag, max_payload_bytes=self._max_payload_bytes)
            return (await served.batcher.answer(frame)).to_bytes()
        except BottleNetError as error:
            return refusal_bytes(sequence, str(error))
        except Exception:
            log.exception("a frame failed")
            return refusal_bytes(sequence, INTERNAL)

    def _names(self) -> str:
        """The served bundles, in few words: a close reason has room for 123 bytes."""
        names = [f"{served.bundle.id.hex()[:12]} ({served.bundle.manifest.name})" for served in self._served.values()]
        return f"served: {', '.join(names)}"


async def read_body(request: Request, limit: int) -> bytes | None:
    """The body, or None if it is larger than `limit` bytes, of which no more is read. TimeoutError: it doesn't come."""
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and (len(told) > 12 or int(told) > limit):
        return None
    body = bytearray()

    async def read() -> bool:
        async for chunk in request.stream():
            body.extend(chunk[: limit + 1 - len(body)])
            if len(body) > limit:
                return False
        return True

    try:
        fits = await asyncio.wait_for(read(), BODY_TIMEOUT_S)
    except asyncio.TimeoutError as error:  # TimeoutError itself from Python 3.11 on
        raise TimeoutError from error
    return bytes(body) if fits else None


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error as JSON."""
    return JSONResponse({"error": message}, status, headers)
