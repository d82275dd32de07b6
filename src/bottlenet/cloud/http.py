"""HTTP: bodies, bounded; errors as JSON; and the page at `/`, where a browser is the device, with all that it fetches.

    GET /                            the page
    GET /page/NAME                   its modules and its style; below /page/vendor onnxruntime-web, see vendor.py
    GET /page/photos, .../NAME       photos to try it with
    GET /v1/bundles/ID/NAME          the device's half of a bundle, for those who may send frames to it

Nothing comes from another host, and the page's policy has the browser refuse it if something should.
"""

import asyncio
import contextlib
import gzip
import math
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

from bottlenet.bundle import GRAPHS, MANIFEST
from bottlenet.cloud.batcher import STOPPING
from bottlenet.cloud.service import Bundles, Served, Service
from bottlenet.cloud.vendor import COMMAND, PACKED
from bottlenet.errors import BusyError, WireError
from bottlenet.files import CHUNK_BYTES
from bottlenet.wire.frame import HEADER_BYTES

KINDS = {400: "frame", 404: "unknown_bundle", 408: "timeout", 413: "too_large", 415: "frame", 503: "busy"}
UNREAD = {"Connection": "close"}  # the rest of a body is not read, so its connection can't be used again
RETRY = {"Retry-After": "1"}


class Bodies:
    """Reads the bodies of requests: each bounded in bytes and time, and all that are larger than a frame in bytes."""

    def __init__(self, service: Service) -> None:
        limits = service.limits
        self._service = service
        self._small_bytes = HEADER_BYTES + limits.max_payload_bytes
        self._left_bytes = limits.max_photos * limits.max_photo_bytes
        self._reading: set[asyncio.Task[None]] = set()
        service.leaving.append(self._stop)

    @contextlib.asynccontextmanager
    async def read(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """Read one body, which counts until the block ends. ClientDisconnect: the client is gone.

        HTTPException: 413, it has more than `limit` bytes, of which no more is read; 408, it is too slow; 503, there
        are too many large ones, or the server stops.
        """
        seconds = self._service.limits.request_s
        parts: list[bytes] = []
        reading = asyncio.create_task(self._read(request, limit, parts))
        self._reading.add(reading)
        try:
            if self._service.stopping:
                raise HTTPException(503, STOPPING)
            await asyncio.wait([reading], timeout=seconds)
            if not reading.done():
                raise HTTPException(408, f"the body did not come within {seconds:g} s; send it at once")
            if reading.cancelled():
                raise HTTPException(503, STOPPING)
            reading.result()
            parts[:] = [b"".join(parts)]
            yield parts[0]
        finally:
            reading.cancel()
            self._reading.discard(reading)
            self._left_bytes += self._counted(sum(map(len, parts)))

    async def _read(self, request: Request, limit: int, parts: list[bytes]) -> None:
        too_large = HTTPException(413, f"the body has more than {limit} bytes; reduce more")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 12 or int(length) > limit):
            raise too_large
        size = 0
        async for part in request.stream():
            before, size = size, size + len(part)
            if size > limit:
                raise too_large
            counted = self._counted(size) - self._counted(before)
            if counted > self._left_bytes:
                raise HTTPException(503, "too many large bodies are coming in already; try again later")
            self._left_bytes -= counted
            parts.append(part)

    def _counted(self, size: int) -> int:
        return max(0, size - self._small_bytes)

    async def _stop(self) -> None:
        for reading in self._reading:
            reading.cancel()


def refusal(service: Service, via: str, error: Exception) -> Response:
    """Answer a request that failed; count the error and, if it is not expected, log it."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # to nobody
    if isinstance(error, HTTPException):
        service.metrics.refused(via, KINDS[error.status_code])
        headers = UNREAD if error.status_code in (408, 413, 503) else {}
        return failure(error.status_code, error.detail, headers | RETRY if error.status_code == 503 else headers)
    text = service.failed(via, error)
    if isinstance(error, BusyError):
        return failure(503, text, {"Retry-After": str(math.ceil(error.retry_after_s))})
    return failure(400 if isinstance(error, WireError) else 500, text)


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


PAGE = Path(__file__).parent / "page"
PHOTOS = Path(__file__).parents[1] / "demo" / "photos"
FOR_DEVICES = (MANIFEST, "labels.txt", "tables.bin", "head.onnx", "exit.onnx", "uncut.onnx")  # not tail.onnx

CSP = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
ASK_AGAIN = {"Cache-Control": "no-cache"}  # 304 if nothing has changed
KEEP = {"Cache-Control": "private, max-age=31536000, immutable"}  # the id in the path stands for the content
# By hand: what the system says about these differs, and a browser runs no module of another type.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".onnx": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}


def is_page(path: str) -> bool:
    """Tell whether a path is the page's own, which says nothing about what is served: it asks for the token itself."""
    return path == "/" or path == "/page" or path.startswith("/page/")


class PageFiles(StaticFiles):
    """Files of a folder. A name that is there only as NAME.gz is unpacked by the browser, or here if it can't."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        try:
            try:
                return await super().get_response(path, scope)
            except HTTPException as error:
                if error.status_code != 404:
                    raise
            packed, stat = await run_in_threadpool(self.lookup_path, path + PACKED)
        except (OSError, ValueError):  # no path that the system knows: too long, or with a null byte
            stat = None
        if stat is None and path.startswith("vendor" + os.sep):
            return failure(404, f"onnxruntime-web is not installed beside the page; run {COMMAND} on the server")
        if stat is None:
            return failure(404, f"the page has no {path!a:.80}")
        response = self.file_response(packed, stat, scope)
        if "gzip" in Headers(scope=scope).get("accept-encoding", "") or response.status_code == 304:
            return response
        headers = HEADERS | ASK_AGAIN | {"Vary": "Accept-Encoding"}
        return StreamingResponse(unpacked(packed), media_type=type_of(path), headers=headers)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        name = os.fspath(full_path)
        headers = HEADERS | ASK_AGAIN
        if name.endswith(PACKED):
            headers = headers | {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        media_type = type_of(name.removesuffix(PACKED))
        response = FileResponse(name, status_code, headers, media_type, stat_result=stat_result)
        if self.is_not_modified(response.headers, Headers(scope=scope)):
            return NotModifiedResponse(response.headers)
        return response


class Pages:
    """The page, and the bundles' files for it."""

    def __init__(self, bundles: Bundles) -> None:
        self._bundles = bundles
        self._files = PageFiles(directory=PAGE)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/", self.index, methods=["GET"]),
            Route("/page/photos", self.photos, methods=["GET"]),
            Mount("/page/photos", PageFiles(directory=PHOTOS)),
            Mount("/page", self._files),
            Route("/v1/bundles/{bundle}/{name}", self.bundle_file, methods=["GET"]),
        ]

    async def index(self, request: Request) -> Response:
        return await self._files.get_response("index.html", request.scope)

    async def photos(self, request: Request) -> Response:
        return JSONResponse(sorted(path.name for path in PHOTOS.glob("*.jpg")), headers=HEADERS | ASK_AGAIN)

    async def bundle_file(self, request: Request) -> Response:
        served, name = self._bundles.by_id(request.path_params["bundle"]), request.path_params["name"]
        if served is None:
            return failure(404, f"this bundle is not served here; {self._bundles.names()}")
        sizes = device_files(served)
        if name not in sizes:
            return failure(404, f"this bundle has no {name!a:.80} for devices; it has {', '.join(sizes)}")
        bundle, headers, media_type = served.bundle, HEADERS | KEEP, type_of(name)
        if bundle.store is None or name not in GRAPHS:
            return FileResponse(bundle.path / name, headers=headers, media_type=media_type)
        chunks = bundle.store.chunks(bundle.manifest.files[name])
        return StreamingResponse(chunks, headers=headers | {"Content-Length": str(sizes[name])}, media_type=media_type)


def device_files(served: Served) -> dict[str, int]:
    bundle, sizes = served.bundle, {}
    for name in FOR_DEVICES:
        path, digest = bundle.path / name, bundle.manifest.files.get(name)
        if digest is not None and bundle.store is not None and name in GRAPHS:
            sizes[name] = bundle.store.size(digest)
        elif (digest is not None or name == MANIFEST) and path.is_file():
            sizes[name] = path.stat().st_size
    return sizes


def type_of(name: str) -> str:
    return TYPES.get(Path(name).suffix, "application/octet-stream")


def unpacked(path: str) -> Iterator[bytes]:
    """Unpack a file chunk by chunk: a client that reads slowly holds no more of it."""
    with gzip.open(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
