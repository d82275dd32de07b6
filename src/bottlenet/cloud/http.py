"""HTTP in both directions: bodies, never larger than allowed, and errors as JSON."""

from __future__ import annotations

import asyncio
import math

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope

from bottlenet.cloud.service import Service
from bottlenet.errors import BusyError, WireError


async def read_body(scope: Scope, receive: Receive, limit: int, timeout_s: float) -> bytes:
    """The body of a request. HTTPException: 413, it has more than `limit` bytes, of which no more is read; 408, it is
    too slow. ClientDisconnect: nobody is there any more.
    """
    for name, told in scope["headers"]:
        if name == b"content-length" and told.isdigit() and (len(told) > 12 or int(told) > limit):
            raise too_large(limit)
    parts, left, more = [], limit, True
    deadline = Deadline(timeout_s)
    try:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part, more = message.get("body", b""), message.get("more_body", False)
            left -= len(part)
            if left < 0:
                raise too_large(limit)
            parts.append(part)
        return b"".join(parts)
    except asyncio.CancelledError:
        if not deadline.over:
            raise
        raise HTTPException(408, f"the body did not come within {timeout_s:g} s; send it at once") from None
    finally:
        deadline.cancel()


def too_large(limit: int) -> HTTPException:
    """For a body."""
    return HTTPException(413, f"the body has more than {limit} bytes; reduce more")


class Deadline:
    """Cancels the task that made it. `asyncio.wait_for` would take another task, which most bodies need no time for."""

    def __init__(self, seconds: float) -> None:
        self.over = False
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = loop.call_later(seconds, self._end)

    def cancel(self) -> None:
        """Let it be."""
        self._timer.cancel()

    def _end(self) -> None:
        self.over = True
        self._task.cancel()


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
