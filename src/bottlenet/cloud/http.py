"""HTTP in both directions: bodies, never larger than allowed, and errors as JSON."""

from __future__ import annotations

import asyncio
import math

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from bottlenet.cloud.service import Service
from bottlenet.errors import BusyError, WireError


async def read_body(request: Request, limit: int, timeout_s: float) -> bytes:
    """The body. HTTPException: 413, it has more than `limit` bytes, of which no more is read; 408, it is too slow."""
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and (len(told) > 12 or int(told) > limit):
        raise HTTPException(413, f"the body has more than {limit} bytes; reduce more")
    body = bytearray()

    async def read() -> None:
        async for chunk in request.stream():
            body.extend(chunk[: limit + 1 - len(body)])
            if len(body) > limit:
                raise HTTPException(413, f"the body has more than {limit} bytes; reduce more")

    try:
        await asyncio.wait_for(read(), timeout_s)
    except asyncio.TimeoutError:  # not TimeoutError before Python 3.11
        raise HTTPException(408, f"the body did not come within {timeout_s:g} s; send it at once") from None
    return bytes(body)


def refusal(service: Service, via: str, error: Exception) -> Response:
    """What to answer when a request failed, counted and, if nobody expects it, logged."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # to nobody
    if isinstance(error, HTTPException):
        service.metrics.refused(via, KINDS[error.status_code])
        # What is left of a body is not read, so the connection can't be used again.
        unread = {"Connection": "close"} if error.status_code in (408, 413) else None
        return failure(error.status_code, error.detail, unread)
    text = service.failed(via, error)
    if isinstance(error, BusyError):
        return failure(503, text, {"Retry-After": str(math.ceil(error.retry_after_s))})
    return failure(400 if isinstance(error, WireError) else 500, text)


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error as JSON."""
    return JSONResponse({"error": message}, status, headers)


KINDS = {400: "frame", 404: "unknown_bundle", 408: "timeout", 413: "too_large", 415: "frame"}
