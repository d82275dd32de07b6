"""The server: every way in, behind a `Guard` and in front of a `Batcher` for each bundle.

    request -> token, or from this site? -> room? -> endpoint -> Service -> answer

    POST /v1/classify          body: one self-contained frame -> an answer; errors are JSON {"error": "..."}
    POST /v1/photo?bundle=ID   body: a picture file -> the whole network's answer; ?bundle= where several are served
    WS   /v1/stream?bundle=ID  messages: stream frames -> answers and refusals, each with its frame's sequence number
    GET  /v1/bundles           JSON: id, name, model, cut and other tasks of what is served, sizes of a device's files
    GET  /v1/bundles/ID/NAME   such a file
    GET  /, /page/...          the page where a browser is the device, see http.py
    *    /v2/...               the Open Inference Protocol, see protocol_v2.py
    GET  /healthz              JSON: that it is alive, and how many frames wait
    GET  /readyz               200 while frames are welcome, else 503
    GET  /metrics              counters, for Prometheus

Nothing is read without a bound, and no input makes it fail for others.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bottlenet.bundle.ladder import OneOrMore, load_all
from bottlenet.cloud import protocol_v2 as v2
from bottlenet.cloud.admission import AUTHORIZED, Limits, Tokens, credentials, subprotocol_of
from bottlenet.cloud.batcher import Batcher
from bottlenet.cloud.decoder import Decoder
from bottlenet.cloud.http import RETRY, UNREAD, Bodies, Pages, device_files, failure, is_page, refusal
from bottlenet.cloud.metrics import Metrics
from bottlenet.cloud.service import Bundles, Folder, Served, Service
from bottlenet.cloud.stream import Streams, closing
from bottlenet.errors import InputError
from bottlenet.task import Classification
from bottlenet.wire.answer import one_line
from bottlenet.wire.frame import (
    CLASSIFY_PATH,
    HEADER_BYTES,
    PHOTO,
    PHOTO_PATH,
    STREAM_PATH,
    TRY_LATER,
    UNAUTHORIZED,
    WHOLE_PHOTO,
    Frame,
    parse_frame,
)

if TYPE_CHECKING:
    from bottlenet.broker import Broker

log = logging.getLogger(__name__)

VIA = "http"
VIA_OF = {"http": VIA, "websocket": "stream"}
# Whoever starts and watches the server asks these, and they tell nothing.
OPEN = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
FULL_RETRY_S = 1
FORBIDDEN = 4403  # with which a stream is closed
REMEDY = "start the server with --tokens, or with --insecure to serve web pages of other sites, too"
NO_TOKEN = "no token that this server knows came with this; send the header Authorization: Bearer <token>"


def create_app(
    bundles: OneOrMore,
    limits: Limits | None = None,
    *,
    tokens: str | Path | None = None,
    watch: str | Path | None = None,
    broker: Broker | None = None,
    threads: int = 1,
    max_batch: int = 16,
    page: bool = True,
    insecure: bool = False,
) -> Starlette:
    """Make an ASGI application that serves these bundles, and those in the folder `watch` as they come and go.

    Every bundle has a worker, which takes up to `max_batch` frames at once, with `threads` on each operation. With
    `tokens`, a file, only clients are let in that name one. Without, unless `insecure`, web pages of other sites are
    kept away, and on loopback requests under another machine's name, too. Frames that come to `broker` are also taken.
    Without `page` there is none, nor a bundle's files. Whatever runs the application has to bound messages and headers,
    as `bottlenet serve` does. `app.state.service` is the `Service`. InputError: no bundle and no folder, two with the
    same tag, a number below 1, a file or folder that can't be used. BundleError: a tail that can't be loaded.
    """
    if not bundles and watch is None:
        raise InputError("no bundle to serve; give at least one, or a folder to watch")
    limits, metrics = limits or Limits(), Metrics()
    line = partial(Batcher, max_batch=max_batch, max_waiting=limits.max_waiting)
    served_bundles = Bundles(partial(line, on_batch=metrics.took_batch, on_results=metrics.did_batch), threads)
    service = Service(served_bundles, limits, metrics, None if tokens is None else Tokens(tokens))
    folder = None if watch is None else Folder(watch, served_bundles, threads, limits.grace_s)
    for bundle in load_all(bundles) if bundles else ():
        served_bundles.add(bundle, Decoder(bundle, threads).answers)

    app = Starlette(
        routes=Endpoints(service, page).routes(),
        lifespan=lambda app: running(service, folder, broker),
        middleware=[Middleware(Guard, service=service, insecure=insecure)],
        exception_handlers={HTTPException: no_such_request},
    )
    app.router.redirect_slashes = False  # it would send clients to whatever their header Host says
    app.state.service = service
    return app


def no_such_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    there = f"POST {CLASSIFY_PATH}, POST {PHOTO_PATH}, GET /v1/bundles, the stream {STREAM_PATH} and /v2"
    text = f"{error.detail.lower()}: this server has {there}"
    return JSONResponse({"error": text}, error.status_code, dict(error.headers or {}))


@contextlib.asynccontextmanager
async def running(service: Service, folder: Folder | None, broker: Broker | None) -> AsyncIterator[None]:
    """Look after the folder and the broker; answer what was taken before the server ends."""
    looking = None if folder is None else asyncio.create_task(folder.look_for_ever())
    subscriber = None
    if broker is not None:
        from bottlenet.cloud.mqtt import Subscriber

        subscriber = Subscriber(broker, service)
        subscriber.start()
    yield
    if looking is not None:
        looking.cancel()
        await asyncio.wait([looking])
    await service.stop()
    if subscriber is not None:
        await subscriber.close()
    await service.close()


class Endpoints:
    """The server's paths."""

    def __init__(self, service: Service, page: bool) -> None:
        self._service = service
        self._bodies = Bodies(service)
        self._photos = 0  # that are coming in, or wait for their answer
        self._pages = Pages(service.bundles).routes() if page else []

    def routes(self) -> list[BaseRoute]:
        return [
            Route(CLASSIFY_PATH, self.classify, methods=["POST"]),
            WebSocketRoute(STREAM_PATH, Streams(self._service)),
            Route(PHOTO_PATH, self.photo, methods=["POST"]),
            Route("/v1/bundles", self.bundles, methods=["GET"]),
            Route("/healthz", self.health, methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            *v2.routes(self._service, self._bodies),
            *self._pages,
        ]

    async def classify(self, request: Request) -> Response:
        service, limits = self._service, self._service.limits
        service.metrics.came(VIA)
        try:
            async with self._bodies.read(request, HEADER_BYTES + limits.max_payload_bytes) as body:
                frame = parse_frame(body, max_payload_bytes=limits.max_payload_bytes)
            served = service.bundles.by_tag(frame.bundle_tag)
            if served is None:
                text = f"bundle {frame.bundle_tag.hex()} is not served here; {service.bundles.names()}"
                raise HTTPException(404, text)
            answer = await service.answer(served, frame)
        except Exception as error:
            return refusal(service, VIA, error)
        return Response(answer.to_bytes(), media_type="application/octet-stream")

    async def photo(self, request: Request) -> Response:
        service, limits = self._service, self._service.limits
        service.metrics.came(VIA)
        try:
            served = self._named(request)
            if self._photos >= limits.max_photos:
                service.metrics.refused(VIA, "busy")
                text = f"{limits.max_photos} photos are coming in already; try again later"
                return failure(503, text, RETRY | UNREAD)
            self._photos += 1
            try:
                async with self._bodies.read(request, limits.max_photo_bytes) as body:
                    answer = await service.answer(served, Frame(PHOTO, WHOLE_PHOTO, served.bundle.tag, 0, body))
            finally:
                self._photos -= 1
        except Exception as error:
            return refusal(service, VIA, error)
        return Response(answer.to_bytes(), media_type="application/octet-stream")

    def _named(self, request: Request) -> Served:
        """Find the bundle in the query, or the only one. HTTPException: there is none, or there are several."""
        bundles, id_hex = self._service.bundles, request.query_params.get("bundle")
        found = [bundles.by_id(id_hex)] if id_hex is not None else list(bundles)
        if not found or found[0] is None:
            raise HTTPException(404, f"no such bundle; {bundles.names()}")
        if len(found) > 1:
            raise HTTPException(400, f"say which bundle, with ?bundle= and its id; {bundles.names()}")
        return found[0]

    async def bundles(self, request: Request) -> Response:
        documents = []
        for served in self._service.bundles:
            manifest = served.bundle.manifest
            document: dict[str, object] = {"id": served.bundle.id.hex(), "name": manifest.name}
            document |= {"model": manifest.model, "cut": manifest.cut}
            if not isinstance(manifest.task, Classification):
                document["task"] = manifest.task.name
            if self._pages:
                document["files"] = device_files(served)
            documents.append(document)
        return JSONResponse(documents)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "waiting": self._service.bundles.waiting})

    async def ready(self, request: Request) -> Response:
        ready, count = self._service.ready, len(self._service.bundles)
        status = "ready" if ready else "stopping" if self._service.stopping else "no bundle yet"
        return JSONResponse({"status": status, "bundles": count}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        text, content_type = self._service.metrics.text()
        return Response(text, headers={"content-type": content_type})


class Guard:
    """ASGI middleware that lets requests in, counts those at work, and logs each when it is done."""

    def __init__(self, app: ASGIApp, service: Service, insecure: bool) -> None:
        self._app = app
        self._service = service
        self._insecure = insecure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        via = VIA_OF.get(scope["type"])
        path = str(scope.get("path", "")).removeprefix(scope.get("root_path", ""))
        if via is None or path in OPEN:
            return await self._app(scope, receive, send)
        tokens, limit = self._service.tokens, self._service.limits.max_connections
        opened = self._service.metrics.open
        if tokens is not None and not is_page(path):
            if not tokens.allows(credentials(scope)):
                return await self._refuse(scope, receive, send, 401, NO_TOKEN)
            if (authorized := scope.get("state", {}).get(AUTHORIZED)) is not None:
                authorized()
        if tokens is None and not self._insecure and (problem := foreign(scope)):
            return await self._refuse(scope, receive, send, 403, problem)
        if opened["http"] + opened["stream"] >= limit:
            text = f"{limit} requests and streams are open already; try again in {FULL_RETRY_S} s"
            return await self._refuse(scope, receive, send, 503, text)
        opened[via] += 1
        try:
            if log.isEnabledFor(logging.INFO):
                await self._log(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        except Exception:
            self._service.metrics.refused(via, "internal")
            raise
        finally:
            opened[via] -= 1

    async def _log(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, and log it: never the query, nor a header, as people put tokens there."""
        started = perf_counter()
        status = None

        async def watch(message: Message) -> None:
            nonlocal status
            status = message.get("status", message.get("code", status))
            await send(message)

        await self._app(scope, receive, watch)
        fields = {
            "method": scope.get("method", "WS"),
            "path": one_line(scope["path"]),
            "status": status,
            "ms": round((perf_counter() - started) * 1000, 1),
            "client": (scope.get("client") or ("?",))[0],
        }
        log.info("%(method)s %(path)s %(status)s, %(ms)s ms", fields, extra={"fields": fields})

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
        """Answer with JSON, or close a WebSocket that was accepted: only then the code reaches the client."""
        kind, code, headers = REFUSALS[status]
        self._service.metrics.refused(VIA_OF[scope["type"]], kind)
        log.info("refused: %s", kind, extra={"fields": {"client": (scope.get("client") or ("?",))[0]}})
        if scope["type"] == "http":
            return await failure(status, text, headers)(scope, receive, send)
        await receive()
        await send({"type": "websocket.accept", "subprotocol": subprotocol_of(scope)})
        await send(closing(code, text))


def foreign(scope: Scope) -> str:
    """Explain why a request may come from a web page of another site, which any browser would send; "" if it can't.

    Such a page names its site as Origin; or its name leads to this machine (DNS rebinding), and then Host has it.
    """
    headers = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1").lower()
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    if origin and origin.partition("://")[2] != host:
        return f"Origin {origin!a:.80} is another site than {host!a:.80}; {REMEDY}"
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if is_loopback((scope.get("server") or ("",))[0]) and not is_loopback(name.strip("[]")):
        return f"Host {host!a:.80} is no name of this machine; use localhost, {REMEDY}"
    return ""


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


REFUSALS = {
    403: ("foreign", FORBIDDEN, {"Connection": "close"}),
    401: ("unauthorized", UNAUTHORIZED, {"WWW-Authenticate": "Bearer", "Connection": "close"}),
    503: ("connections", TRY_LATER, {"Retry-After": str(FULL_RETRY_S), "Connection": "close"}),
}
